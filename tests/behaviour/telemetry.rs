//! Spans of logins, renewals and migrations, and statistics of handles and pools.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use lakebase_core::telemetry::PoolStats;
use lakebase_core::{Lakebase, User};
use lakebase_diesel::{PoolExt as _, bb8, deadpool, r2d2};
use lakebase_local::{LocalLakebase, LoginFault};
use lakebase_seaorm::PoolExt as _;
use lakebase_tests::{lakebase, local, local_with_schema, until};
use sea_orm::{ConnectionTrait as _, DbErr, TransactionTrait as _};
use sea_orm_migration::async_trait::async_trait;
use sea_orm_migration::{MigrationName, MigrationTrait, MigratorTrait, SchemaManager};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// A span of these crates.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    name: &'static str,
    parent: Option<&'static str>,
    level: Level,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<u64, Seen>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let data = attributes.metadata();
        if !data.target().starts_with("lakebase::") {
            return;
        }
        let span = context.span(id).expect("it is new");
        let mut seen = Seen {
            name: data.name(),
            parent: span.parent().map(|parent| parent.name()),
            level: *data.level(),
            fields: BTreeMap::new(),
        };
        attributes.record(&mut seen);
        // Ids are reused.
        let mut all = self.0.lock().expect("not poisoned");
        let number = all.len() as u64;
        span.extensions_mut().insert(number);
        all.insert(number, seen);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).expect("it is open");
        if let Some(number) = span.extensions().get::<u64>() {
            let mut all = self.0.lock().expect("not poisoned");
            values.record(all.get_mut(number).expect("it was new"));
        }
    }
}

impl Spans {
    /// Collects spans of this thread, on which the test's runtime runs.
    fn start() -> (Self, DefaultGuard) {
        // Without a global subscriber, tracing caches spans of other tests as disabled.
        static EVERYTHING: Once = Once::new();
        EVERYTHING.call_once(|| {
            let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        });
        let spans = Self::default();
        let subscriber = tracing_subscriber::registry().with(spans.clone());
        (spans, tracing::subscriber::set_default(subscriber))
    }

    fn take(&self) -> Vec<Seen> {
        let all = std::mem::take(&mut *self.0.lock().expect("not poisoned"));
        all.into_values().collect()
    }
}

fn named<'a>(spans: &'a [Seen], name: &str) -> &'a Seen {
    let found = spans.iter().find(|span| span.name == name);
    found.unwrap_or_else(|| panic!("no span {name} in {spans:?}"))
}

/// Returns the parts of logins in order of their start.
fn parts(spans: &[Seen]) -> Vec<&'static str> {
    let parts = spans.iter().filter_map(|span| {
        let part = span.name.strip_prefix("lakebase.login.")?;
        assert_eq!(span.parent, Some("lakebase.login"), "{span:?}");
        assert_eq!(span.level, Level::DEBUG);
        Some(part)
    });
    parts.collect()
}

#[tokio::test]
async fn a_login_is_a_span_with_its_parts() {
    let local = local().await;
    let lakebase = lakebase(&local);
    let target = lakebase.target().await.expect("a target");
    let (spans, _guard) = Spans::start();
    let direct = ["credential", "connect", "tls", "authentication"];
    let proxied = ["credential", "name", "tcp", "tls", "authentication"];

    let pool = bb8::connect(&lakebase).await.expect("a pool");
    let seen = spans.take();
    assert_eq!(parts(&seen), direct);
    let login = named(&seen, "lakebase.login");
    assert_eq!(login.level, Level::INFO);
    let expected = [
        ("attempts", "1".to_owned()),
        ("db.namespace", lakebase.database().to_owned()),
        ("db.system.name", "postgresql".to_owned()),
        ("otel.kind", "client".to_owned()),
        ("server.address", target.host().to_owned()),
        ("server.port", target.port().to_string()),
    ];
    assert_eq!(login.fields, BTreeMap::from(expected));
    let refresh = named(&seen, "lakebase.token.refresh");
    assert!(refresh.fields["lakebase.token.expires_at"].ends_with('Z'));
    drop(pool);

    let db = lakebase_seaorm::connect(&lakebase).await.expect("a pool");
    assert_eq!(parts(&spans.take()), proxied);
    drop(db);

    local.fail_logins(1, LoginFault::refuse("57P03", "starting up"));
    drop(bb8::connect(&lakebase).await.expect("a pool"));
    let seen = spans.take();
    assert_eq!(parts(&seen), [direct, direct].concat());
    assert_eq!(named(&seen, "lakebase.login").fields["attempts"], "2");
}

#[tokio::test]
async fn the_span_of_a_failed_login_has_the_sqlstate() {
    let local = local().await;
    let lakebase = lakebase(&local).with_database("nowhere").expect("a name");
    let (spans, _guard) = Spans::start();
    bb8::connect(&lakebase).await.expect_err("no such database");
    let seen = spans.take();
    assert_eq!(named(&seen, "lakebase.login").fields["error.type"], "3D000");
}

#[tokio::test]
async fn each_migration_is_a_span() {
    struct Migrator;
    struct CreateShelves(&'static str);

    impl MigrationName for CreateShelves {
        fn name(&self) -> &str {
            self.0
        }
    }

    #[async_trait]
    impl MigrationTrait for CreateShelves {
        async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
            let table = "CREATE TABLE shelves (id int)";
            manager.get_connection().execute_unprepared(table).await?;
            Ok(())
        }
    }

    impl MigratorTrait for Migrator {
        fn migrations() -> Vec<Box<dyn MigrationTrait>> {
            let names = ["m1_shelves", "m2_shelves_again"];
            let boxed = |name| Box::new(CreateShelves(name)) as Box<dyn MigrationTrait>;
            names.map(boxed).into()
        }
    }

    let local = local_with_schema().await;
    let lakebase = lakebase(&local);
    let (spans, _guard) = Spans::start();
    let ran = lakebase_seaorm::migrations::up::<Migrator>(&lakebase).await;
    ran.expect_err("the table exists");
    let seen = spans.take();
    let migrations: Vec<_> = seen
        .iter()
        .filter(|span| span.name == "lakebase.migration")
        .map(|span| {
            let field = |name| span.fields.get(name).map(String::as_str);
            (field("migration"), field("direction"), field("error.type"))
        })
        .collect();
    assert_eq!(
        migrations,
        [
            (Some("m1_shelves"), Some("Up"), None),
            (Some("m2_shelves_again"), Some("Up"), Some("42P07"))
        ]
    );
}

/// `in_use` and `idle`.
fn connections(stats: PoolStats) -> (u64, u64) {
    (stats.in_use, stats.idle)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pool_reports_its_connections() {
    let local = local().await;
    let lakebase = lakebase(&local);
    let short = Duration::from_secs(2);

    let builder = bb8::Builder::new().max_size(1).connection_timeout(short);
    let pool = builder.build(&lakebase).await.expect("a pool");
    let held = pool.get().await.expect("a connection");
    assert_eq!(connections(pool.stats()), (1, 0));
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get_owned().await.map(drop) }
    });
    until(|| pool.stats().waiting == Some(1)).await;
    waiting.await.expect("no panic").expect_err("a timeout");
    let stats = pool.stats();
    assert_eq!(
        (stats.limit, stats.waiting, stats.timeouts),
        (Some(1), Some(0), Some(1))
    );
    drop(held);
    assert_eq!(connections(pool.stats()), (0, 1));

    let builder = deadpool::Builder::new().max_size(2);
    let pool = builder.build(&lakebase).await.expect("a pool");
    let held = pool.get().await.expect("a connection");
    let stats = pool.stats();
    assert_eq!((connections(stats), stats.limit), ((1, 0), Some(2)));
    assert_eq!(stats.waiting, Some(0));
    drop(held);
    assert_eq!(connections(pool.stats()), (0, 1));

    let pool = {
        let lakebase = lakebase.clone();
        let opening = tokio::task::spawn_blocking(move || r2d2::connect(&lakebase));
        opening.await.expect("no panic").expect("a pool")
    };
    let held = tokio::task::block_in_place(|| pool.get()).expect("a connection");
    let stats = pool.stats();
    assert_eq!((connections(stats), stats.limit), ((1, 0), Some(10)));
    drop(held);
    assert_eq!(connections(pool.stats()), (0, 1));
    tokio::task::block_in_place(|| drop(pool));

    let mut options = lakebase_seaorm::options();
    options.max_connections(3);
    let db = lakebase_seaorm::connect_with(&lakebase, options)
        .await
        .expect("a pool");
    let transaction = db.begin().await.expect("a connection");
    let stats = db.stats();
    assert_eq!((connections(stats), stats.limit), ((1, 0), Some(3)));
    assert_eq!(lakebase.stats().proxy.sessions, 1);
    transaction.rollback().await.expect("it is open");
    lakebase_tests::all_idle(&db).await;
    assert_eq!(connections(db.stats()), (0, 1));
    db.close().await.expect("it is open");
    until(|| lakebase.stats().proxy.sessions == 0).await;
    assert_eq!(
        lakebase.stats().proxy.opened,
        3,
        "two of r2d2, one of SeaORM"
    );
}

#[tokio::test]
async fn the_statistics_of_an_application_include_its_users() {
    let local = local().await;
    let lakebase = lakebase(&local);
    log_in(&lakebase).await;
    for name in ["ada@example.com", "ben@example.com"] {
        local.add_user(name);
        local.create_role(name).await.expect("a role");
        let token = forwarded(&local, name);
        let user = lakebase
            .on_behalf_of(&User::new(name, token))
            .expect("a handle");
        log_in(&user).await;
    }
    let stats = lakebase.stats();
    assert_eq!(stats.logins.succeeded.count, 3);
    assert_eq!(stats.token.expect("it uses tokens").mints.count, 3);
}

fn forwarded(local: &LocalLakebase, name: &str) -> String {
    local.forwarded_token(name, Duration::from_secs(3600), &["postgres"])
}

async fn log_in(lakebase: &Lakebase) {
    lakebase.connect().await.map(drop).expect("a login");
}
