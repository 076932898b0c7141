//! A refused login renews once; a role that can never log in is no mint storm.

use std::time::Duration;

use diesel_async::RunQueryDsl as _;
use lakebase_local::{LocalLakebase, Wake};
use lakebase_tests::{forget_idle, lakebase, lakebase_with, local, soon};
use sea_orm::ConnectionTrait as _;

/// What the platform may send with a refusal; it documents nothing.
const VARIANTS: &[(&str, &str)] = &[("28P01", "FATAL"), ("28000", "ERROR"), ("XX000", "ERROR")];

/// Takes back all tokens between the logins that `log_in` makes.
async fn assert_revocation_costs_one_mint<F>(local: &LocalLakebase, mut log_in: impl FnMut() -> F)
where
    F: Future<Output = ()>,
{
    for (sqlstate, severity) in VARIANTS {
        local.set_refusal(sqlstate, severity);
        local.revoke_tokens();
        let before = local.counters();
        soon(log_in()).await;
        soon(log_in()).await;
        let after = local.counters();
        assert_eq!(
            after.minted - before.minted,
            1,
            "{sqlstate} {severity}: {after:?}"
        );
        assert!(
            after.refused > before.refused,
            "{sqlstate} {severity}: {after:?}"
        );
    }
}

#[tokio::test]
async fn a_revoked_token_is_invisible_to_diesel() {
    let local = local().await;
    let lakebase = lakebase(&local);
    let pool = lakebase_diesel::bb8::connect(&lakebase)
        .await
        .expect("a pool");
    assert_revocation_costs_one_mint(&local, async || {
        let mut fresh = pool.dedicated_connection().await.expect("a connection");
        diesel::sql_query("SELECT 1")
            .execute(&mut fresh)
            .await
            .expect("an answer");
    })
    .await;
}

#[tokio::test]
async fn a_revoked_token_is_invisible_to_seaorm() {
    let local = local().await;
    let lakebase = lakebase(&local);
    let db = lakebase_seaorm::connect(&lakebase)
        .await
        .expect("a connection");
    assert_revocation_costs_one_mint(&local, async || {
        forget_idle(&db).await;
        db.execute_unprepared("SELECT 1").await.expect("an answer");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_fail_together_recover_together() {
    let local = local().await;
    let db = lakebase_seaorm::connect(&lakebase(&local))
        .await
        .expect("a connection");
    local.revoke_tokens();
    let before = local.counters();
    let asking = (0..50).map(|_| {
        let db = db.clone();
        tokio::spawn(async move { db.execute_unprepared("SELECT 1").await })
    });
    for answer in soon(futures_util::future::join_all(asking)).await {
        answer.expect("no panic").expect("an answer");
    }
    let after = local.counters();
    assert_eq!(after.minted - before.minted, 1, "{after:?}");
    // The pool's ten connections, the probe, and what was refused before.
    assert!(after.logins - before.logins <= 12, "{after:?}");
}

#[tokio::test]
async fn seaorm_never_repeats_a_statement_that_fails_like_a_login() {
    let local = local().await;
    let db = lakebase_seaorm::connect(&lakebase(&local))
        .await
        .expect("a connection");
    db.execute_unprepared("CREATE SEQUENCE calls")
        .await
        .expect("a sequence");
    // An application's own login function may well raise `invalid_password`.
    let failing = "DO $$ BEGIN PERFORM nextval('calls'); \
                   RAISE invalid_password USING MESSAGE = 'password authentication failed'; END $$";
    let error = db.execute_unprepared(failing).await.expect_err("it raises");
    assert!(
        error.to_string().contains("password authentication failed"),
        "{error}"
    );
    let row = db
        .query_one_raw(sea_orm::Statement::from_string(
            db.get_database_backend(),
            "SELECT last_value FROM calls",
        ))
        .await
        .expect("an answer")
        .expect("a row");
    assert_eq!(row.try_get_by_index::<i64>(0).expect("a number"), 1);
    assert_eq!(local.counters().minted, 1);
}

#[tokio::test]
async fn a_role_that_can_never_log_in_causes_two_mints_in_a_hundred_attempts_and_a_hint() {
    let local = local().await;
    let lakebase = lakebase_with(&local, &[("PGUSER", "nobody-we-know")]);
    for _ in 0..100 {
        let error = soon(lakebase.connect())
            .await
            .map(drop)
            .expect_err("no such role");
        assert!(error.is_auth() && !error.is_transient(), "{error}");
        assert_eq!(error.sqlstate(), Some("28000"), "{error}");
        let text = error.chain();
        assert!(
            text.contains("databricks_create_role('nobody-we-know'"),
            "{text}"
        );
        assert!(
            text.contains("role \"nobody-we-know\" does not exist"),
            "{text}"
        );
    }
    assert_eq!(local.counters().minted, 2, "{:?}", local.counters());
}

#[tokio::test]
async fn an_identity_that_is_not_the_role_is_told_so() {
    let local = local().await;
    let lakebase = lakebase_with(&local, &[("PGUSER", local.user())]);
    let error = lakebase
        .connect()
        .await
        .map(drop)
        .expect_err("another identity");
    let text = error.chain();
    assert!(
        error.is_auth() && text.contains("case-sensitive") && text.contains("PGUSER"),
        "{text}"
    );
    assert!(text.contains("security label"), "{text}");
}

#[tokio::test]
async fn members_of_a_group_log_in_as_the_group() {
    let local = local().await;
    local
        .create_group_role("analysts", &[local.client_id()])
        .await
        .expect("a group role");
    let lakebase = lakebase_with(&local, &[("PGUSER", "analysts")]);
    let (client, connection) = lakebase.connect().await.expect("a member");
    tokio::spawn(connection);
    let row = client
        .query_one("SELECT current_user::text", &[])
        .await
        .expect("an answer");
    assert_eq!(row.get::<_, String>(0), "analysts");
}

#[tokio::test]
async fn what_is_no_question_of_tokens_is_reported_without_another_mint() {
    let local = local().await;
    local
        .sql("CREATE DATABASE closed")
        .await
        .expect("a database");
    local
        .sql("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
        .await
        .expect("closed");
    for (database, sqlstate, hint) in [
        ("missing", "3D000", "PGDATABASE"),
        ("closed", "42501", "GRANT CONNECT ON DATABASE \"closed\""),
    ] {
        let lakebase = lakebase_with(&local, &[("PGDATABASE", database)]);
        let before = local.counters().minted;
        let error = soon(lakebase.connect())
            .await
            .map(drop)
            .expect_err(database);
        assert_eq!(error.sqlstate(), Some(sqlstate), "{error}");
        assert!(error.to_string().contains(hint), "{error}");
        assert_eq!(
            local.counters().minted - before,
            1,
            "the first mint of this handle"
        );
    }
}

#[tokio::test]
async fn the_connection_limit_is_waited_for_within_the_budget() {
    let local = local().await;
    let lakebase = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "1")]);
    let (_client, connection) = lakebase.connect().await.expect("the first");
    local.set_connection_limit(1);
    let error = soon(lakebase.connect())
        .await
        .map(drop)
        .expect_err("the limit");
    assert!(
        error.is_timeout() && error.chain().contains("too many clients"),
        "{}",
        error.chain()
    );
    let (second, ()) = tokio::join!(soon(lakebase.connect()), async { drop(connection) });
    second.map(drop).expect("room again");
}

#[tokio::test]
async fn a_compute_that_answers_starting_up_is_waited_for() {
    let local = local().await;
    let lakebase = lakebase(&local);
    local
        .suspend(
            Default::default(),
            Duration::from_millis(300),
            Wake::StartingUp,
        )
        .await
        .expect("suspended");
    soon(lakebase.connect()).await.map(drop).expect("awake");
    assert!(local.counters().refused > 0, "it did answer 57P03");
}
