//! The export of the feature `opentelemetry`, read from the SDK's in-memory exporter.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use lakebase_core::adapter::{self, LoginFailure};
use lakebase_core::opentelemetry::Observer;
use lakebase_core::telemetry::PoolStats;
use lakebase_core::{Config, Credential, CredentialProvider, Error, Lakebase};
use opentelemetry::{KeyValue, global};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use support::{Provider, Script, TestClock, lakebase};

const NAME: &str = "db.client.connection.pool.name";

/// The global provider, which the tests share. Each test uses its own names of pools.
static EXPORT: LazyLock<(SdkMeterProvider, InMemoryMetricExporter)> = LazyLock::new(|| {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    global::set_meter_provider(provider.clone());
    (provider, exporter)
});

/// A value, or the count of a histogram.
#[derive(Debug)]
struct Point {
    name: String,
    kind: &'static str,
    unit: String,
    attributes: BTreeMap<String, String>,
    value: u64,
}

/// Sets up the provider before the first observer.
fn observer(name: &str) -> Observer {
    LazyLock::force(&EXPORT);
    Observer::new(name)
}

/// The current export of one pool.
fn exported(pool: &str) -> Vec<Point> {
    let (provider, exporter) = &*EXPORT;
    provider.force_flush().expect("exported");
    let all = exporter.get_finished_metrics().expect("in memory");
    let newest = all.last().expect("exported");
    let metrics = newest.scope_metrics().flat_map(|scope| scope.metrics());
    let points = metrics.flat_map(points);
    points
        .filter(|point| point.attributes.get(NAME).is_some_and(|name| name == pool))
        .collect()
}

fn points(metric: &Metric) -> Vec<Point> {
    let point = |kind, attributes: Vec<&KeyValue>, value| Point {
        name: metric.name().to_owned(),
        kind,
        unit: metric.unit().to_owned(),
        attributes: attributes
            .into_iter()
            .map(|each| (each.key.to_string(), each.value.to_string()))
            .collect(),
        value,
    };
    match metric.data() {
        AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
            .data_points()
            .map(|each| point("counter", each.attributes().collect(), each.value()))
            .collect(),
        AggregatedMetrics::U64(MetricData::Gauge(gauge)) => gauge
            .data_points()
            .map(|each| point("gauge", each.attributes().collect(), each.value()))
            .collect(),
        AggregatedMetrics::I64(MetricData::Sum(sum)) => sum
            .data_points()
            .map(|each| {
                let value = each.value().try_into().expect("never negative");
                point("up-down counter", each.attributes().collect(), value)
            })
            .collect(),
        AggregatedMetrics::F64(MetricData::Histogram(histogram)) => histogram
            .data_points()
            .map(|each| point("histogram", each.attributes().collect(), each.count()))
            .collect(),
        other => panic!("{}: {other:?}", metric.name()),
    }
}

/// The sum of an instrument's values.
fn total(points: &[Point], name: &str) -> Option<u64> {
    let values: Vec<_> = points
        .iter()
        .filter(|point| point.name == name)
        .map(|point| point.value)
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

async fn log_in(lakebase: &Lakebase) {
    let login = adapter::login(lakebase, async |_| Ok(()));
    login.await.expect("logged in");
}

fn pool() -> PoolStats {
    let mut stats = PoolStats::new(2, 3);
    stats.limit = Some(10);
    stats.waiting = Some(4);
    stats.timeouts = Some(1);
    stats
}

#[tokio::test]
async fn all_instruments_have_the_documented_names_units_and_attributes() {
    let lakebase = lakebase(&Provider::new(&TestClock::new()));
    let observation = observer("all")
        .lakebase(&lakebase)
        .pool(pool)
        .node_driver_names(true)
        .start();
    log_in(&lakebase).await;
    let failed = adapter::login(&lakebase, async |_| {
        Err::<(), _>(LoginFailure::permanent("on purpose"))
    });
    failed.await.expect_err("a failed login");
    let took = Duration::from_millis(2);
    adapter::record_operation(&lakebase, "select 'secret'", took, None);
    adapter::record_operation(&lakebase, "INSERT", took, Some(Some("23505")));
    adapter::record_operation(&lakebase, "VACUUM", took, Some(None));

    let points = exported("all");
    let found: BTreeSet<String> = points
        .iter()
        .map(|point| {
            let keys = point.attributes.keys().filter(|key| *key != NAME);
            let keys: Vec<_> = keys.map(String::as_str).collect();
            format!(
                "{} ({}, {}) {}",
                point.name,
                point.kind,
                point.unit,
                keys.join(" ")
            )
        })
        .collect();
    const OPERATION: &str = "db.client.operation.duration (histogram, s) db.namespace";
    const SERVER: &str = "db.system.name server.address server.port";
    let expected = [
        format!("{OPERATION} db.operation.name {SERVER}"),
        format!(
            "{OPERATION} db.operation.name db.response.status_code db.system.name error.type server.address server.port"
        ),
        format!("{OPERATION} db.system.name error.type server.address server.port"),
        "db.client.connection.create_time (histogram, s) ".to_owned(),
        "db.client.connection.count (up-down counter, {connection}) db.client.connection.state"
            .to_owned(),
        "db.client.connection.max (up-down counter, {connection}) ".to_owned(),
        "db.client.connection.pending_requests (up-down counter, {request}) ".to_owned(),
        "db.client.connection.timeouts (counter, {timeout}) ".to_owned(),
        "lakebase.login.attempts (counter, {attempt}) ".to_owned(),
        "lakebase.login.failures (counter, {login}) error.type".to_owned(),
        "lakebase.login.pending (up-down counter, {login}) ".to_owned(),
        "lakebase.proxy.sessions (up-down counter, {session}) ".to_owned(),
        "lakebase.token.age (gauge, s) ".to_owned(),
        "lakebase.token.usable_for (gauge, s) ".to_owned(),
        "lakebase.token.mints (counter, {request}) ".to_owned(),
        "lakebase.token.failures (counter, {request}) ".to_owned(),
        "lakebase.token.refresh.duration (histogram, ms) ".to_owned(),
        "lakebase.pool.connections.total (gauge, ) ".to_owned(),
        "lakebase.pool.connections.idle (gauge, ) ".to_owned(),
        "lakebase.pool.connections.waiting (gauge, ) ".to_owned(),
        "lakebase.pool.errors (counter, 1) error.code".to_owned(),
    ];
    assert_eq!(found, BTreeSet::from(expected));

    for (name, value) in [
        ("db.client.connection.create_time", 1),
        ("db.client.connection.count", 5),
        ("db.client.connection.max", 10),
        ("db.client.connection.pending_requests", 4),
        ("db.client.connection.timeouts", 1),
        ("lakebase.login.attempts", 2),
        ("lakebase.login.failures", 1),
        ("lakebase.login.pending", 0),
        ("lakebase.token.mints", 1),
        ("lakebase.token.failures", 0),
        ("lakebase.token.refresh.duration", 1),
        ("lakebase.pool.connections.total", 5),
        ("lakebase.pool.errors", 1),
    ] {
        assert_eq!(total(&points, name), Some(value), "{name}");
    }
    let value = |name: &str, key: &str| {
        let point = points.iter().find(|point| {
            point.attributes.contains_key(key)
                && point
                    .attributes
                    .get("db.operation.name")
                    .map(String::as_str)
                    == Some(name)
        });
        point.map(|point| point.attributes[key].clone())
    };
    let is = |text: &str| Some(text.to_owned());
    assert_eq!(value("INSERT", "db.response.status_code"), is("23505"));
    assert_eq!(value("INSERT", "error.type"), is("23505"));
    assert_eq!(value("SELECT", "server.address"), is("db.example.com"));
    assert_eq!(value("SELECT", "db.namespace"), is("databricks_postgres"));
    assert!(!format!("{points:?}").contains("secret"), "{points:?}");
    drop(observation);
}

#[tokio::test]
async fn failed_mints_are_counted() {
    let provider = Provider::new(&TestClock::new());
    provider.play(Script::Fail(Error::provider("on purpose", false)));
    let lakebase = lakebase(&provider);
    let _observation = observer("failed").lakebase(&lakebase).start();
    lakebase.credential().await.expect_err("no credential");
    let points = exported("failed");
    assert_eq!(total(&points, "lakebase.token.mints"), Some(1));
    assert_eq!(total(&points, "lakebase.token.failures"), Some(1));
    let duration = points
        .iter()
        .find(|point| point.name == "lakebase.token.refresh.duration")
        .expect("its duration");
    assert_eq!(
        (duration.value, &*duration.attributes["error.type"]),
        (1, "provider")
    );
}

#[tokio::test]
async fn a_dropped_observation_exports_nothing_more() {
    let lakebase = lakebase(&Provider::new(&TestClock::new()));
    let observation = observer("dropped").lakebase(&lakebase).pool(pool).start();
    log_in(&lakebase).await;
    assert_eq!(
        total(&exported("dropped"), "lakebase.login.attempts"),
        Some(1)
    );
    drop(observation);
    log_in(&lakebase).await;
    // The SDK repeats the last value of a gauge and the counts of a histogram in each export.
    let points = exported("dropped");
    let fresh: Vec<_> = points
        .iter()
        .filter(|point| !["gauge", "histogram"].contains(&point.kind))
        .collect();
    assert!(fresh.is_empty(), "{fresh:?}");
    assert_eq!(total(&points, "db.client.connection.create_time"), Some(1));
}

/// A provider that exists as long as its handle.
#[derive(Debug)]
struct Held(Arc<()>);

impl CredentialProvider for Held {
    async fn credential(&self) -> Result<Credential, Error> {
        let _ = &self.0;
        Err(Error::provider("not called", false))
    }
}

fn held() -> (Lakebase, Weak<()>) {
    let life = Arc::new(());
    let held = Arc::downgrade(&life);
    let config = Config::builder()
        .host("db.example.com")
        .user("app")
        .credential_provider(Held(life))
        .build()
        .expect("a configuration");
    (Lakebase::new(config).expect("a handle"), held)
}

#[tokio::test]
async fn a_dropped_observation_releases_the_handle_and_the_pool() {
    let (lakebase, handle) = held();
    let connections = Arc::new(());
    let pool = Arc::downgrade(&connections);
    let observation = observer("released")
        .lakebase(&lakebase)
        .pool(move || PoolStats::new(Arc::strong_count(&connections) as u64, 0))
        .start();
    drop(lakebase);
    assert_eq!(
        total(&exported("released"), "db.client.connection.count"),
        Some(1)
    );
    assert!(handle.upgrade().is_some() && pool.upgrade().is_some());
    drop(observation);
    assert!(handle.upgrade().is_none(), "the handle is released");
    assert!(pool.upgrade().is_none(), "the pool is released");
}

#[tokio::test]
async fn observations_with_different_names_are_independent() {
    let clock = TestClock::new();
    let (one, two) = (
        lakebase(&Provider::new(&clock)),
        lakebase(&Provider::new(&clock)),
    );
    let first = observer("first").lakebase(&one).pool(pool).start();
    let _second = observer("second").lakebase(&two).start();
    log_in(&one).await;
    log_in(&two).await;
    log_in(&two).await;
    let counts = |name| {
        let points = exported(name);
        [
            "lakebase.login.attempts",
            "db.client.connection.create_time",
            "db.client.connection.max",
        ]
        .map(|name| total(&points, name))
    };
    assert_eq!(counts("first"), [Some(1), Some(1), Some(10)]);
    assert_eq!(counts("second"), [Some(2), Some(2), None]);
    drop(first);
    log_in(&two).await;
    assert_eq!(counts("second"), [Some(3), Some(3), None]);
}

#[tokio::test]
async fn a_later_observation_of_a_handle_gets_its_histograms() {
    let lakebase = lakebase(&Provider::new(&TestClock::new()));
    drop(observer("before").lakebase(&lakebase).start());
    let older = observer("between").lakebase(&lakebase).start();
    log_in(&lakebase).await;
    let create_time = |name| total(&exported(name), "db.client.connection.create_time");
    assert_eq!(
        (create_time("before"), create_time("between")),
        (None, Some(1))
    );
    let newer = observer("after").lakebase(&lakebase).start();
    drop(older);
    log_in(&lakebase).await;
    assert_eq!(
        (create_time("between"), create_time("after")),
        (Some(1), Some(1))
    );
    drop(newer);
}
