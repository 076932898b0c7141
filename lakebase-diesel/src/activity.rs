//! When a connection was used last.

use std::sync::Arc;
use std::time::Duration;

use diesel::connection::{Instrumentation, InstrumentationEvent, get_default_instrumentation};
use diesel::result::Error;
use lakebase_core::adapter::{Watch, watch};
use lakebase_core::{Lakebase, Target};

use crate::is_transient;

/// Sits on every connection and passes all events on to what the application set as default.
pub(crate) struct Activity {
    watch: Arc<Watch>,
    /// By the watch.
    last: Duration,
    /// The last statement failed in a way that may have taken the connection along, though nothing on
    /// this side has noticed yet.
    doubtful: bool,
    /// The schema that the configuration puts first on the search path, quoted.
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

    /// When a connection was used last; `None` if that says nothing, or if the application
    /// replaced our instrumentation by its own.
    pub(crate) fn last_of(instrumentation: &mut dyn Instrumentation) -> Option<Duration> {
        let own = instrumentation.downcast_ref::<Self>()?;
        (!own.doubtful).then_some(own.last)
    }
}

impl Activity {
    /// Postgres skips a schema that is missing and names the next one on the search path: diesel's own migration
    /// harness, for one, has nothing else to say.
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
            InstrumentationEvent::FinishQuery { error: None, .. } => {
                self.last = self.watch.passed();
                self.doubtful = false;
            }
            InstrumentationEvent::FinishQuery {
                error: Some(error), ..
            } => {
                self.doubtful |= is_transient(error);
                self.explain(error);
            }
            _ => {}
        }
        if let Some(default) = &mut self.default {
            default.on_connection_event(event);
        }
    }
}
