//! Exports [`Lakebase::stats`] and the numbers of pools to the global meter of OpenTelemetry, under the names of its semantic
//! conventions.
//!
//! ```no_run
//! # fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use lakebase_core::opentelemetry::Observer;
//!
//! // after opentelemetry::global::set_meter_provider(..)
//! let lakebase = lakebase_core::Lakebase::from_env()?;
//! let observation = Observer::new("orders").lakebase(&lakebase).start();
//! // The export ends when `observation` is dropped.
//! # drop(observation);
//! # Ok(())
//! # }
//! ```
//!
//! | instrument | kind, unit | attributes besides the pool's name |
//! |---|---|---|
//! | `db.client.operation.duration` | histogram, s | `db.system.name`, `db.namespace`, `db.operation.name`, `error.type`, `db.response.status_code`, `server.address`, `server.port` |
//! | `db.client.connection.create_time` | histogram, s | |
//! | `db.client.connection.count` | up-down counter | `db.client.connection.state`: `idle`, `used` |
//! | `db.client.connection.max` | up-down counter | |
//! | `db.client.connection.pending_requests` | up-down counter | |
//! | `db.client.connection.timeouts` | counter | |
//! | `lakebase.login.attempts` | counter | |
//! | `lakebase.login.failures` | counter | `error.type` |
//! | `lakebase.login.pending` | up-down counter | |
//! | `lakebase.proxy.sessions` | up-down counter | |
//! | `lakebase.token.age`, `lakebase.token.usable_for` | gauge, s | |
//! | `lakebase.token.mints`, `lakebase.token.failures` | counter | |
//! | `lakebase.token.refresh.duration` | histogram, ms | `error.type` |
//!
//! The pool's name is the attribute `db.client.connection.pool.name`.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ::opentelemetry::metrics::Meter;
use ::opentelemetry::{KeyValue, global};

use crate::lakebase::Lakebase;
use crate::telemetry::{DurationStats, OnDuration, OnOperation, PoolStats, Stats};

/// The first words of statements that become an attribute: a fixed set, so that no text of an application does.
const OPERATIONS: [&str; 16] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "MERGE",
    "WITH",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT",
    "CREATE",
    "ALTER",
    "DROP",
    "COPY",
    "CALL",
    "SET",
];

/// Configures and starts an export: see the [module](self).
#[must_use]
pub struct Observer {
    name: String,
    lakebase: Option<Lakebase>,
    pool: Option<Box<dyn Fn() -> PoolStats + Send + Sync>>,
    has_node_names: bool,
}

/// A running export, which ends when this value is dropped. It keeps the handle and the pool.
#[must_use = "the export ends when it is dropped"]
pub struct Observation {
    stats: Source<Stats>,
    pool: Source<PoolStats>,
    lakebase: Option<(Lakebase, Listeners)>,
}

/// The functions that record histograms.
struct Listeners {
    mints: Arc<OnDuration>,
    logins: Arc<OnDuration>,
    operations: Arc<OnOperation>,
}

/// The source of callbacks. The meter never drops a callback, so the source is emptied at the end.
struct Source<T>(Arc<RwLock<Option<Read<T>>>>);

type Read<T> = Box<dyn Fn() -> T + Send + Sync>;

impl<T> Source<T> {
    fn new(read: Option<Read<T>>) -> Self {
        Self(Arc::new(RwLock::new(read)))
    }

    fn read(&self) -> Option<T> {
        let read = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(read.as_ref()?())
    }

    fn close(&self) {
        let read = self
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // The application's pool is not dropped under the lock.
        drop(read);
    }
}

impl<T> Clone for Source<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl Observer {
    /// Sets the value of `db.client.connection.pool.name`, which must be unique in the application.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            lakebase: None,
            pool: None,
            has_node_names: false,
        }
    }

    /// Exports tokens, logins, proxy sessions and, with the adapters' feature `opentelemetry`, queries. If a handle has several
    /// observations, only the last one gets its histograms.
    pub fn lakebase(mut self, lakebase: &Lakebase) -> Self {
        self.lakebase = Some(lakebase.clone());
        self
    }

    /// Exports a pool's connections, for example with `move || pool.stats()`. The function runs at each collection and must not block.
    pub fn pool(mut self, stats: impl Fn() -> PoolStats + Send + Sync + 'static) -> Self {
        self.pool = Some(Box::new(stats));
        self
    }

    /// Sets whether the pool's connections and the failed logins are also exported under the names of the Node driver
    /// `@databricks/lakebase`, for its dashboards: `lakebase.pool.connections.total`, `.idle`, `.waiting` and `lakebase.pool.errors`.
    /// False by default.
    pub fn node_driver_names(mut self, is_on: bool) -> Self {
        self.has_node_names = is_on;
        self
    }

    /// Starts the export on the current global meter provider.
    pub fn start(self) -> Observation {
        let meter = global::meter("lakebase");
        let pool_name = KeyValue::new("db.client.connection.pool.name", self.name);
        let export = Export { meter, pool_name };
        let handle = self.lakebase.clone();
        let observation = Observation {
            stats: Source::new(
                handle.map(|handle| -> Read<Stats> { Box::new(move || handle.stats()) }),
            ),
            pool: Source::new(self.pool),
            lakebase: self.lakebase.map(|lakebase| {
                let listeners = export.durations(&lakebase);
                (lakebase, listeners)
            }),
        };
        if observation.lakebase.is_some() {
            export.handle(&observation.stats);
        }
        export.pool(&observation.pool);
        if self.has_node_names {
            export.node_names(&observation);
        }
        observation
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.stats.close();
        self.pool.close();
        if let Some((lakebase, listeners)) = &self.lakebase {
            let counts = lakebase.counts();
            counts.mints.listener.remove(&listeners.mints);
            counts.logins.listener.remove(&listeners.logins);
            counts.operations.remove(&listeners.operations);
        }
    }
}

struct Export {
    meter: Meter,
    pool_name: KeyValue,
}

/// Receives a value with its attributes.
type Observe<'a> = &'a mut dyn FnMut(u64, &[KeyValue]);

/// Reads the values of an instrument, each with an optional attribute.
type Values<T> = fn(&T) -> Vec<(u64, Option<KeyValue>)>;

fn one(value: u64) -> Vec<(u64, Option<KeyValue>)> {
    vec![(value, None)]
}

fn known(value: Option<u64>) -> Vec<(u64, Option<KeyValue>)> {
    value.map(|value| (value, None)).into_iter().collect()
}

/// The pool's name and an optional other attribute.
fn attributes(pool_name: &KeyValue, other: Option<KeyValue>) -> Vec<KeyValue> {
    std::iter::once(pool_name.clone()).chain(other).collect()
}

impl Export {
    /// Calls `observe` for each value, with its attributes.
    fn callback<T: 'static>(
        &self,
        source: &Source<T>,
        values: Values<T>,
    ) -> impl Fn(Observe<'_>) + Send + Sync + use<T> {
        let (source, pool_name) = (source.clone(), self.pool_name.clone());
        move |observe| {
            for (value, other) in source.read().iter().flat_map(values) {
                observe(value, &attributes(&pool_name, other));
            }
        }
    }

    fn counter<T: 'static>(
        &self,
        name: &'static str,
        unit: &'static str,
        source: &Source<T>,
        values: Values<T>,
    ) {
        let read = self.callback(source, values);
        let counter = self.meter.u64_observable_counter(name).with_unit(unit);
        let _ = counter
            .with_callback(move |to| read(&mut |value, all| to.observe(value, all)))
            .build();
    }

    fn gauge<T: 'static>(
        &self,
        name: &'static str,
        unit: &'static str,
        source: &Source<T>,
        values: Values<T>,
    ) {
        let read = self.callback(source, values);
        let gauge = self.meter.u64_observable_gauge(name).with_unit(unit);
        let _ = gauge
            .with_callback(move |to| read(&mut |value, all| to.observe(value, all)))
            .build();
    }

    /// An up-down counter, whose values of several pools can be added.
    fn level<T: 'static>(
        &self,
        name: &'static str,
        unit: &'static str,
        source: &Source<T>,
        values: Values<T>,
    ) {
        let read = self.callback(source, values);
        let level = self
            .meter
            .i64_observable_up_down_counter(name)
            .with_unit(unit);
        let _ = level
            .with_callback(move |to| {
                read(&mut |value, all| to.observe(i64::try_from(value).unwrap_or(i64::MAX), all));
            })
            .build();
    }

    fn handle(&self, stats: &Source<Stats>) {
        self.counter("lakebase.login.attempts", "{attempt}", stats, |stats| {
            one(stats.logins.attempts)
        });
        self.counter("lakebase.login.failures", "{login}", stats, |stats| {
            failures(stats, "error.type")
        });
        self.level("lakebase.login.pending", "{login}", stats, |stats| {
            one(stats.logins.under_way)
        });
        self.level("lakebase.proxy.sessions", "{session}", stats, |stats| {
            one(stats.proxy.sessions)
        });
        self.counter("lakebase.token.mints", "{request}", stats, |stats| {
            known(stats.token.as_ref().map(|token| token.mints.count))
        });
        self.counter("lakebase.token.failures", "{request}", stats, |stats| {
            known(stats.token.as_ref().map(|token| token.failures))
        });
        self.gauge("lakebase.token.age", "s", stats, |stats| {
            let age = stats.token.as_ref().and_then(|token| token.age);
            known(age.map(|age| age.as_secs()))
        });
        self.gauge("lakebase.token.usable_for", "s", stats, |stats| {
            let left = stats.token.as_ref().and_then(|token| token.usable_for);
            known(left.map(|left| left.as_secs()))
        });
    }

    fn pool(&self, pool: &Source<PoolStats>) {
        const CONNECTIONS: &str = "{connection}";
        self.level("db.client.connection.count", CONNECTIONS, pool, |pool| {
            let state = |state| Some(KeyValue::new("db.client.connection.state", state));
            vec![(pool.in_use, state("used")), (pool.idle, state("idle"))]
        });
        self.level("db.client.connection.max", CONNECTIONS, pool, |pool| {
            known(pool.limit)
        });
        self.level(
            "db.client.connection.pending_requests",
            "{request}",
            pool,
            |pool| known(pool.waiting),
        );
        self.counter("db.client.connection.timeouts", "{timeout}", pool, |pool| {
            known(pool.timeouts)
        });
    }

    fn node_names(&self, observation: &Observation) {
        let pool = &observation.pool;
        self.gauge("lakebase.pool.connections.total", "", pool, |pool| {
            one(pool.in_use + pool.idle)
        });
        self.gauge("lakebase.pool.connections.idle", "", pool, |pool| {
            one(pool.idle)
        });
        self.gauge("lakebase.pool.connections.waiting", "", pool, |pool| {
            known(pool.waiting)
        });
        self.counter("lakebase.pool.errors", "1", &observation.stats, |stats| {
            failures(stats, "error.code")
        });
    }

    fn durations(&self, lakebase: &Lakebase) -> Listeners {
        let bounds = || DurationStats::BOUNDS.to_vec();
        let logins = self.meter.f64_histogram("db.client.connection.create_time");
        let logins = logins.with_unit("s").with_boundaries(bounds()).build();
        let only_name = attributes(&self.pool_name, None);
        let logins: Arc<OnDuration> = Arc::new(move |took: Duration, _| {
            logins.record(took.as_secs_f64(), &only_name);
        });
        let mints = self.meter.f64_histogram("lakebase.token.refresh.duration");
        let mints = mints.with_unit("ms").build();
        let pool_name = self.pool_name.clone();
        let mints: Arc<OnDuration> = Arc::new(move |took: Duration, error_type| {
            let error_type = error_type.map(|name| KeyValue::new("error.type", name.to_owned()));
            mints.record(
                took.as_secs_f64() * 1000.0,
                &attributes(&pool_name, error_type),
            );
        });
        let operations = self.meter.f64_histogram("db.client.operation.duration");
        let operations = operations.with_unit("s").with_boundaries(bounds()).build();
        let system = KeyValue::new("db.system.name", "postgresql");
        let (fixed, handle) = (attributes(&self.pool_name, Some(system)), lakebase.clone());
        let operations: Arc<OnOperation> =
            Arc::new(move |statement: &str, took: Duration, failure| {
                let mut all = fixed.clone();
                all.extend(target_attributes(&handle));
                all.extend(operation_attributes(statement, failure));
                operations.record(took.as_secs_f64(), &all);
            });
        let counts = lakebase.counts();
        counts.mints.listener.set(Arc::clone(&mints));
        counts.logins.listener.set(Arc::clone(&logins));
        counts.operations.set(Arc::clone(&operations));
        Listeners {
            mints,
            logins,
            operations,
        }
    }
}

fn failures(stats: &Stats, attribute: &'static str) -> Vec<(u64, Option<KeyValue>)> {
    let counts = stats.logins.failures.iter();
    let kind = |kind: &'static str| Some(KeyValue::new(attribute, kind));
    counts.map(|(name, count)| (*count, kind(name))).collect()
}

fn target_attributes(lakebase: &Lakebase) -> Vec<KeyValue> {
    let Some(target) = lakebase.known_target() else {
        return Vec::new();
    };
    let database = lakebase.database();
    let namespace = match lakebase.schema() {
        Some(schema) => format!("{database}|{schema}"),
        None => database.to_owned(),
    };
    vec![
        KeyValue::new("db.namespace", namespace),
        KeyValue::new("server.address", target.host().to_owned()),
        KeyValue::new("server.port", i64::from(target.port())),
    ]
}

fn operation_attributes(statement: &str, failure: Option<Option<&str>>) -> Vec<KeyValue> {
    let mut all = Vec::new();
    let mut words = statement.split(|c: char| !c.is_ascii_alphabetic());
    if let Some(word) = words.find(|word| !word.is_empty())
        && let Some(name) = OPERATIONS
            .iter()
            .find(|name| name.eq_ignore_ascii_case(word))
    {
        all.push(KeyValue::new("db.operation.name", *name));
    }
    if let Some(sqlstate) = failure {
        let error_type = sqlstate.unwrap_or("_OTHER");
        all.push(KeyValue::new("error.type", error_type.to_owned()));
        all.extend(
            sqlstate.map(|state| KeyValue::new("db.response.status_code", state.to_owned())),
        );
    }
    all
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observation").finish_non_exhaustive()
    }
}
