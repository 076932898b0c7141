//! When a connection was last used.

use std::sync::Arc;
use std::time::Duration;

use diesel::connection::{Instrumentation, InstrumentationEvent, get_default_instrumentation};
use diesel::result::Error;
use lakebase_core::adapter::{Watch, watch};
use lakebase_core::{Lakebase, Target};

use crate::is_transient;

/// The instrumentation of each connection. Passes all events to the application's default instrumentation.
pub(crate) struct Activity {
    watch: Arc<Watch>,
    /// Time of the watch.
    last: Duration,
    /// The last statement got no answer, or an error of a connection that may be lost.
    doubtful: bool,
    /// The configured schema, quoted.
    schema: Option<String>,
    default: Option<Box<dyn Instrumentation>>,
    #[cfg(feature = "opentelemetry")]
    timer: crate::opentelemetry::Timer,
}

impl Activity {
    pub(crate) fn new(target: &Target, lakebase: &Lakebase) -> Self {
        let watch = watch(lakebase);
        let path = target.search_path();
        Self {
            last: watch.passed(),
            watch,
            doubtful: false,
            schema: path.and_then(|path| Some(path.strip_suffix(",public")?.to_owned())),
            default: get_default_instrumentation(),
            #[cfg(feature = "opentelemetry")]
            timer: crate::opentelemetry::Timer::new(lakebase),
        }
    }

    /// When a connection was last used; `None` if it may be lost, or if the application has set its own instrumentation.
    pub(crate) fn last_of(instrumentation: &mut dyn Instrumentation) -> Option<Duration> {
        let own = instrumentation.downcast_ref::<Self>()?;
        (!own.doubtful).then_some(own.last)
    }

    /// If the configured schema is missing, Postgres uses the next one on the search path, and its error does not name the
    /// missing one.
    fn explain(&self, error: &Error) {
        let (Error::DatabaseError(_, information), Some(schema)) = (error, &self.schema) else {
            return;
        };
        if information.message() == "permission denied for schema public" {
            tracing::warn!(
                name: "lakebase.schema.missing",
                target: "lakebase::schema",
                "permission denied for schema public: does the configured schema {schema} exist, with USAGE for this role? Create it (CREATE SCHEMA {schema}), or run the migrations with lakebase_diesel::migrations and `create_schema(true)`"
            );
        }
    }
}

impl Instrumentation for Activity {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        #[cfg(feature = "opentelemetry")]
        self.timer.note(&event);
        match event {
            // Its future may be dropped before the answer.
            InstrumentationEvent::StartQuery { .. } => self.doubtful = true,
            InstrumentationEvent::FinishQuery { error: None, .. } => {
                self.last = self.watch.passed();
                self.doubtful = false;
            }
            InstrumentationEvent::FinishQuery {
                error: Some(error), ..
            } => {
                self.doubtful = is_transient(error);
                self.explain(error);
            }
            _ => {}
        }
        if let Some(default) = &mut self.default {
            default.on_connection_event(event);
        }
    }
}
