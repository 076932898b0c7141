//! A login that fails with any token fails at once, with cause and hint, and causes no storm of mints or logins.

use std::time::Instant;

use lakebase_local::LocalLakebase;
use lakebase_tests::{
    App, NATIVE_LOGIN, NATIVE_PASSWORD, lakebase_with, local, native, soon, through_every_adapter,
};

const ATTEMPTS: usize = 10;
/// Logins may wait for an hour, so a failure within the limits of a test is immediate.
const HOUR: (&str, &str) = ("PGCONNECT_TIMEOUT", "3600");

/// A misconfigured login, and parts of its error.
struct Hopeless {
    name: &'static str,
    changes: Vec<(&'static str, String)>,
    parts: Vec<String>,
    attempts: usize,
    /// Of all attempts together.
    mints: u64,
}

async fn hopeless_logins(local: &LocalLakebase) -> Vec<Hopeless> {
    let sql = [
        "CREATE DATABASE closed",
        "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
        "CREATE ROLE by_hand LOGIN",
    ];
    for statement in sql {
        local.sql(statement).await.expect("it exists");
    }
    native(local, &[]).await;
    vec![
        Hopeless {
            name: "role missing",
            changes: vec![("PGUSER", "nobody-we-know".to_owned())],
            parts: vec![
                "role \"nobody-we-know\" does not exist".to_owned(),
                "databricks_create_role('nobody-we-know'".to_owned(),
            ],
            attempts: ATTEMPTS,
            mints: 2,
        },
        Hopeless {
            name: "role by plain CREATE ROLE",
            changes: vec![("PGUSER", "by_hand".to_owned())],
            parts: vec!["not by plain CREATE ROLE".to_owned()],
            attempts: 3,
            mints: 2,
        },
        Hopeless {
            name: "identity mismatch",
            changes: vec![("PGUSER", local.user().to_owned())],
            parts: vec![
                "security label".to_owned(),
                "case-sensitive".to_owned(),
                "PGUSER".to_owned(),
            ],
            attempts: 3,
            mints: 2,
        },
        Hopeless {
            name: "no CONNECT privilege",
            changes: vec![("PGDATABASE", "closed".to_owned())],
            parts: vec!["GRANT CONNECT ON DATABASE \"closed\"".to_owned()],
            attempts: 3,
            mints: 1,
        },
        Hopeless {
            name: "database missing",
            changes: vec![("PGDATABASE", "missing".to_owned())],
            parts: vec![
                "\"missing\" does not exist".to_owned(),
                "PGDATABASE".to_owned(),
            ],
            attempts: 3,
            mints: 1,
        },
        Hopeless {
            name: "wrong native password",
            changes: vec![
                ("LAKEBASE_ENDPOINT", String::new()),
                ("PGUSER", "native".to_owned()),
                ("PGPASSWORD", format!("not {NATIVE_PASSWORD}")),
            ],
            parts: vec!["PGPASSWORD".to_owned()],
            attempts: 3,
            mints: 0,
        },
    ]
}

#[tokio::test]
async fn a_hopeless_login_fails_at_once_with_cause_and_hint_and_few_mints() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        for hopeless in hopeless_logins(&local).await {
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
                for part in &hopeless.parts {
                    assert!(
                        failure.text.contains(part),
                        "{what}: no {part:?}: {failure}"
                    );
                }
            }
            let after = local.counters();
            let (minted, refused) = (after.minted - before.minted, after.refused - before.refused);
            // One more token a minute is allowed.
            let most = hopeless.mints + began.elapsed().as_secs() / 60;
            assert!(
                (hopeless.mints..=most).contains(&minted),
                "{what}: {minted}"
            );
            // A login is retried only with a new token.
            let most = hopeless.attempts as u64 + minted;
            assert!(refused <= most, "{what}: {refused} logins");
        }
    })
    .await;
}

#[tokio::test]
async fn the_error_says_that_native_login_may_be_off() {
    let local = local().await;
    native(&local, &[]).await;
    local.set_native_login(false);
    through_every_adapter(async |adapter| {
        let lakebase = lakebase_with(&local, &[NATIVE_LOGIN, &[HOUR]].concat());
        let failure = soon(App::start(adapter, &lakebase)).await;
        let failure = failure.expect_err("hopeless");
        assert!(
            failure.text.contains("Native login may be off"),
            "{adapter:?}: {failure}"
        );
    })
    .await;
    assert_eq!(local.counters().minted, 0);
}

#[tokio::test]
async fn a_running_application_gets_the_cause() {
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
        for _ in 0..ATTEMPTS {
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
