//! A login that no token can help fails at once, with cause and hint, and causes no storm of mints or logins.

use std::time::Instant;

use lakebase_local::LocalLakebase;
use lakebase_tests::{App, lakebase_with, local, soon, through_every_adapter};

const ATTEMPTS: usize = 20;
/// A login may wait for an hour: what comes within the limits of a test comes at once.
const HOUR: (&str, &str) = ("PGCONNECT_TIMEOUT", "3600");

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
            attempts: 5,
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
            attempts: 5,
            mints: 2,
        },
        Hopeless {
            name: "no CONNECT right",
            changes: vec![("PGDATABASE", "closed".to_owned())],
            says: vec!["GRANT CONNECT ON DATABASE \"closed\"".to_owned()],
            attempts: 5,
            mints: 1,
        },
        Hopeless {
            name: "database missing",
            changes: vec![("PGDATABASE", "missing".to_owned())],
            says: vec![
                "\"missing\" does not exist".to_owned(),
                "PGDATABASE".to_owned(),
            ],
            attempts: 5,
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
            attempts: 5,
            mints: 0,
        },
    ]
}

#[tokio::test]
async fn a_hopeless_login_fails_at_once_with_cause_and_hint_and_few_mints() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        for hopeless in all_of(&local).await {
            let what = format!("{adapter:?}, {}", hopeless.name);
            let changes: Vec<_> = hopeless
                .changes
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .chain([HOUR])
                .collect();
            let lakebase = lakebase_with(&local, &changes);
            let before = local.counters();
            let began = Instant::now();
            for _ in 0..hopeless.attempts {
                let failure = soon(App::start(adapter, &lakebase)).await;
                let failure = failure.expect_err("hopeless");
                assert!(!failure.is_transient, "{what}: {failure}");
                for part in &hopeless.says {
                    assert!(
                        failure.text.contains(part),
                        "{what}: no {part:?}: {failure}"
                    );
                }
            }
            let after = local.counters();
            let (minted, refused) = (after.minted - before.minted, after.refused - before.refused);
            // Every minute it may be tried with another token.
            let most = hopeless.mints + began.elapsed().as_secs() / 60;
            assert!(
                (hopeless.mints..=most).contains(&minted),
                "{what}: {minted}"
            );
            // A new token is tried once; no other login is repeated.
            let most = hopeless.attempts as u64 + minted;
            assert!(refused <= most, "{what}: {refused} logins");
        }
    })
    .await;
}

#[tokio::test]
async fn native_login_that_is_off_is_named_at_once() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        local
            .create_native_role("native", "the right one")
            .await
            .expect("a role");
        local.set_native_login(false);
        let changes = [
            HOUR,
            ("LAKEBASE_ENDPOINT", ""),
            ("PGUSER", "native"),
            ("PGPASSWORD", "the right one"),
        ];
        let lakebase = lakebase_with(&local, &changes);
        let failure = soon(App::start(adapter, &lakebase)).await;
        let failure = failure.expect_err("hopeless");
        assert!(
            failure.text.contains("Native login may be off"),
            "{adapter:?}: {failure}"
        );
        assert_eq!(local.counters().minted, 0);
    })
    .await;
}

#[tokio::test]
async fn a_running_application_gets_the_cause_too() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        let lakebase = lakebase_with(&local, &[HOUR]);
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
        for _ in 0..ATTEMPTS / 2 {
            let failure = soon(app.log_in()).await.expect_err("no role any more");
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
