//! Remembers when a connection was last heard from.

use std::time::Duration;

use diesel::connection::{Instrumentation, InstrumentationEvent, get_default_instrumentation};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tokio::time::Instant;

/// Sits on every connection and passes all events on to what the application set as default.
pub(crate) struct Activity {
    last: Instant,
    default: Option<Box<dyn Instrumentation>>,
}

impl Activity {
    pub(crate) fn install(connection: &mut AsyncPgConnection) {
        connection.set_instrumentation(Self {
            last: Instant::now(),
            default: get_default_instrumentation(),
        });
    }

    /// How long nothing came back on a connection; `None` if the application replaced our
    /// instrumentation by its own.
    pub(crate) fn idle(connection: &mut AsyncPgConnection) -> Option<Duration> {
        let activity = connection.instrumentation().downcast_ref::<Self>()?;
        Some(activity.last.elapsed())
    }
}

impl Instrumentation for Activity {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        if matches!(event, InstrumentationEvent::FinishQuery { error: None, .. }) {
            self.last = Instant::now();
        }
        if let Some(default) = &mut self.default {
            default.on_connection_event(event);
        }
    }
}
