//! A login that no token can help is told at once, with cause and hint, and causes no storm of mints.

use std::time::{Duration, Instant};

use lakebase_core::Lakebase;
use lakebase_local::LocalLakebase;
use lakebase_tests::{Adapter, App, Failure, every_adapter_in_time, lakebase_with, local, soon};

const ATTEMPTS: usize = 100;
/// A person at a terminal waits no longer.
const AT_ONCE: Duration = Duration::from_secs(2);

/// What is wrong, and what the error says about it.
struct Hopeless {
    name: &'static str,
    changes: Vec<(&'static str, String)>,
    says: Vec<String>,
    attempts: usize,
    /// In all of them.
    mints: u64,
}

async fn all_of(local: &LocalLakebase) -> Vec<Hopeless> {
    let sql = [
        "CREATE DATABASE closed",
        "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
        "CREATE ROLE by_hand LOGIN",
    ];
    for statement in sql {
        local.sql(statement).await.expect("it exists");
    }
    let password = "not the right one".to_owned();
    local
        .create_native_role("native", "the right one")
        .await
        .expect("a role");
    vec![
        Hopeless {
            name: "role missing",
            changes: vec![("PGUSER", "nobody-we-know".to_owned())],
            says: vec![
                "role \"nobody-we-know\" does not exist".to_owned(),
                "databricks_create_role('nobody-we-know'".to_owned(),
            ],
            attempts: ATTEMPTS,
            mints: 2,
        },
        Hopeless {
            name: "role by plain CREATE ROLE",
            changes: vec![("PGUSER", "by_hand".to_owned())],
            says: vec!["not by plain CREATE ROLE".to_owned()],
            attempts: 10,
            mints: 2,
        },
        Hopeless {
            name: "identity mismatch",
            changes: vec![("PGUSER", local.user().to_owned())],
            says: vec![
                "security label".to_owned(),
                "case-sensitive".to_owned(),
                "PGUSER".to_owned(),
            ],
            attempts: 10,
            mints: 2,
        },
        Hopeless {
            name: "no CONNECT right",
            changes: vec![("PGDATABASE", "closed".to_owned())],
            says: vec!["GRANT CONNECT ON DATABASE \"closed\"".to_owned()],
            attempts: 10,
            mints: 1,
        },
        Hopeless {
            name: "database missing",
            changes: vec![("PGDATABASE", "missing".to_owned())],
            says: vec![
                "\"missing\" does not exist".to_owned(),
                "PGDATABASE".to_owned(),
            ],
            attempts: 10,
            mints: 1,
        },
        Hopeless {
            name: "wrong native password",
            changes: vec![
                ("LAKEBASE_ENDPOINT", String::new()),
                ("PGUSER", "native".to_owned()),
                ("PGPASSWORD", password),
            ],
            says: vec!["PGPASSWORD".to_owned()],
            attempts: 10,
            mints: 0,
        },
    ]
}

/// What an application hears, and after how long.
async fn fails(adapter: Adapter, lakebase: &Lakebase) -> (Failure, Duration) {
    let began = Instant::now();
    let failure = soon(App::start(adapter, lakebase)).await;
    (failure.expect_err("hopeless"), began.elapsed())
}

#[tokio::test]
async fn it_is_told_at_once_with_cause_and_hint_and_without_a_storm() {
    every_adapter_in_time(async |adapter| {
        let local = local().await;
        for hopeless in all_of(&local).await {
            let what = format!("{adapter:?}, {}", hopeless.name);
            let changes: Vec<_> = hopeless
                .changes
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let lakebase = lakebase_with(&local, &changes);
            let before = local.counters().minted;
            let began = Instant::now();
            for attempt in 0..hopeless.attempts {
                let (failure, took) = fails(adapter, &lakebase).await;
                // The first one has the most to do; the others are many.
                assert!(attempt > 0 || took < AT_ONCE, "{what}: {took:?}");
                assert!(!failure.is_transient, "{what}: {failure}");
                for part in &hopeless.says {
                    assert!(
                        failure.text.contains(part),
                        "{what}: no {part:?}: {failure}"
                    );
                }
            }
            let minted = local.counters().minted - before;
            // Every minute it may be tried with another token.
            let most = hopeless.mints + began.elapsed().as_secs() / 60;
            assert!(
                (hopeless.mints..=most).contains(&minted),
                "{what}: {minted}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn native_login_that_is_off_is_named_at_once_though_nobody_says_so() {
    every_adapter_in_time(async |adapter| {
        let local = local().await;
        local
            .create_native_role("native", "the right one")
            .await
            .expect("a role");
        local.set_native_login(false);
        let changes = [
            ("LAKEBASE_ENDPOINT", ""),
            ("PGUSER", "native"),
            ("PGPASSWORD", "the right one"),
        ];
        let lakebase = lakebase_with(&local, &changes);
        let (failure, took) = fails(adapter, &lakebase).await;
        assert!(took < AT_ONCE, "{adapter:?}: {took:?} for {failure}");
        assert!(
            failure.text.contains("Native login may be off"),
            "{adapter:?}: {failure}"
        );
        assert_eq!(local.counters().minted, 0);
    })
    .await;
}

#[tokio::test]
async fn a_running_application_is_told_as_well() {
    every_adapter_in_time(async |adapter| {
        let local = local().await;
        let lakebase = lakebase_with(&local, &[]);
        let app = App::start(adapter, &lakebase).await.expect("started");
        let role = format!("DROP ROLE \"{}\"", local.client_id());
        let owned = format!("DROP OWNED BY \"{}\"", local.client_id());
        soon(app.ask()).await.expect("an answer");
        local
            .cut_sessions(lakebase_local::Cut::Message)
            .await
            .expect("cut");
        local.sql(&owned).await.expect("nothing is left");
        local.sql(&role).await.expect("gone");
        let before = local.counters().minted;
        for attempt in 0..ATTEMPTS / 10 {
            let began = Instant::now();
            let failure = soon(app.log_in()).await.expect_err("no role any more");
            let took = began.elapsed();
            assert!(attempt > 0 || took < AT_ONCE, "{adapter:?}: {took:?}");
            assert!(!failure.is_transient, "{adapter:?}: {failure}");
            assert!(
                failure.text.contains("does not exist"),
                "{adapter:?}: {failure}"
            );
        }
        assert!(local.counters().minted - before <= 2, "{adapter:?}");
    })
    .await;
}
