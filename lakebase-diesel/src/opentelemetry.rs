//! Query durations for OpenTelemetry: the instrument `db.client.operation.duration` of
//! [`lakebase_core::opentelemetry`].
//!
//! Connections of diesel-async are measured automatically. For a connection of synchronous diesel, set [`instrumentation`]. Only
//! the first word of a statement is exported.

use std::fmt::{self, Write as _};

use diesel::connection::{DebugQuery, Instrumentation, InstrumentationEvent};
use diesel::result::{DatabaseErrorKind, Error};
use lakebase_core::Lakebase;
use lakebase_core::adapter::record_operation;
use tokio::time::Instant;

/// Returns an instrumentation that measures the queries of a connection and passes all events to `own`, the application's
/// instrumentation.
///
/// ```no_run
/// # #[cfg(feature = "r2d2")]
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use diesel::Connection as _;
/// use diesel::connection::get_default_instrumentation;
/// use lakebase_diesel::opentelemetry::instrumentation;
///
/// let lakebase = lakebase_diesel::Lakebase::from_env()?;
/// let mut connection = lakebase_diesel::r2d2::establish(&lakebase)?;
/// connection.set_instrumentation(instrumentation(&lakebase, get_default_instrumentation()));
/// # Ok(())
/// # }
/// ```
pub fn instrumentation(
    lakebase: &Lakebase,
    mut own: Option<Box<dyn Instrumentation>>,
) -> impl Instrumentation {
    let mut timer = Timer::new(lakebase);
    move |event: InstrumentationEvent<'_>| {
        timer.note(&event);
        if let Some(own) = &mut own {
            own.on_connection_event(event);
        }
    }
}

/// Measures queries from start to end.
pub(crate) struct Timer {
    lakebase: Lakebase,
    began: Option<Instant>,
}

impl Timer {
    pub(crate) fn new(lakebase: &Lakebase) -> Self {
        Self {
            lakebase: lakebase.clone(),
            began: None,
        }
    }

    pub(crate) fn note(&mut self, event: &InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::StartQuery { .. } => self.began = Some(Instant::now()),
            InstrumentationEvent::FinishQuery { query, error, .. } => {
                if let Some(began) = self.began.take() {
                    let statement = Head::of(*query);
                    let failure = error.map(sqlstate);
                    record_operation(&self.lakebase, statement.text(), began.elapsed(), failure);
                }
            }
            _ => {}
        }
    }
}

/// The beginning of a statement, without an allocation. The rest and the parameters are not formatted.
#[derive(Default)]
struct Head {
    bytes: [u8; 32],
    length: usize,
}

impl Head {
    fn of(query: &dyn DebugQuery) -> Self {
        let mut head = Self::default();
        // Fails if the statement is longer.
        let _ = write!(head, "{query}");
        head
    }

    fn text(&self) -> &str {
        let bytes = &self.bytes[..self.length];
        let end = bytes.iter().position(|byte| !byte.is_ascii());
        std::str::from_utf8(&bytes[..end.unwrap_or(self.length)]).unwrap_or_default()
    }
}

impl fmt::Write for Head {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let left = &mut self.bytes[self.length..];
        let taken = text.len().min(left.len());
        left[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        match self.length < self.bytes.len() {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}

/// diesel keeps only the kind of an error.
fn sqlstate(error: &Error) -> Option<&'static str> {
    let Error::DatabaseError(kind, _) = error else {
        return None;
    };
    match kind {
        DatabaseErrorKind::UniqueViolation => Some("23505"),
        DatabaseErrorKind::ForeignKeyViolation => Some("23503"),
        DatabaseErrorKind::NotNullViolation => Some("23502"),
        DatabaseErrorKind::CheckViolation => Some("23514"),
        DatabaseErrorKind::SerializationFailure => Some("40001"),
        DatabaseErrorKind::ReadOnlyTransaction => Some("25006"),
        _ => None,
    }
}
