//! The error of a failed login decides: a rejected token is replaced once, and after a transient failure the login is
//! retried with the same token. Errors of statements are the application's.

use lakebase_local::{LocalLakebase, LoginFault};
use lakebase_tests::{
    App, lakebase, lakebase_with, local, local_with_schema, session, soon, through_every_adapter,
};
use sea_orm::ConnectionTrait as _;

/// Observed or assumed: the platform does not document them.
const REJECTIONS: &[(&str, &str)] = &[
    (
        "28P01",
        "password authentication failed for user \"someone\"",
    ),
    ("XX000", "password authentication failed for user 'someone'"),
    ("28000", "role \"someone\" does not exist"),
    (
        "XX000",
        "Provided authentication token is not a valid JWT encoding",
    ),
    (
        "XX000",
        "Invalid authorization for databricks identity login",
    ),
    ("28000", "JWT token has expired (exp=1795273200)"),
    ("08P01", "Failed to decode token for role \"someone\""),
    (
        "28P01",
        "token's identity did not match the security label configured for role \"someone\"",
    ),
];

const SEVERITIES: [&str; 2] = ["FATAL", "ERROR"];

/// Failures with any token.
const TRANSIENT: &[(&str, &str)] = &[
    ("57P03", "the database system is starting up"),
    (
        "57P01",
        "terminating connection due to administrator command",
    ),
    ("53300", "sorry, too many clients already"),
    ("XX000", "Control plane request failed"),
    ("08006", "could not reach the compute"),
];

/// Logs in although `fault` fails the first attempt, with this number of mints.
async fn logs_in_after(app: &App, local: &LocalLakebase, fault: LoginFault, mints: u64) {
    let before = local.counters().minted;
    local.fail_logins(1, fault.clone());
    soon(app.log_in())
        .await
        .unwrap_or_else(|failure| panic!("{app:?} {fault:?}: {failure}"));
    let minted = local.counters().minted - before;
    assert_eq!(minted, mints, "{app:?} {fault:?}");
}

#[tokio::test]
async fn every_known_rejection_leads_to_a_new_token() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        let app = App::start(adapter, &lakebase(&local)).await;
        let app = app.expect("started");
        // Each pair is tried with half of the adapters.
        let severities = SEVERITIES.iter().cycle().skip(adapter as usize);
        for (&(sqlstate, message), severity) in REJECTIONS.iter().zip(severities) {
            let rejection = LoginFault::Refuse {
                sqlstate: sqlstate.to_owned(),
                severity: (*severity).to_owned(),
                message: message.to_owned(),
            };
            logs_in_after(&app, &local, rejection, 1).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_transient_failure_or_a_closed_connection_is_retried_with_the_same_token() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        let app = App::start(adapter, &lakebase(&local)).await;
        let app = app.expect("started");
        for &(sqlstate, message) in TRANSIENT {
            logs_in_after(&app, &local, LoginFault::refuse(sqlstate, message), 0).await;
        }
        logs_in_after(&app, &local, LoginFault::Close, 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_statements_after_a_revocation_share_one_mint() {
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
    // The ten connections of the pool, and at most two that were lost.
    assert!(after.logins - before.logins <= 12, "{after:?}");
}

#[tokio::test]
async fn a_statement_whose_error_looks_like_a_failed_login_is_not_repeated() {
    let local = local_with_schema().await;
    let db = lakebase_seaorm::connect(&lakebase(&local))
        .await
        .expect("a connection");
    db.execute_unprepared("CREATE SEQUENCE calls")
        .await
        .expect("a sequence");
    // Login functions of applications raise `invalid_password`.
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
async fn members_of_a_group_log_in_as_the_group() {
    let local = local().await;
    local
        .create_group_role("analysts", &[local.client_id()])
        .await
        .expect("a group role");
    let lakebase = lakebase_with(&local, &[("PGUSER", "analysts")]);
    let client = session(&lakebase).await;
    let row = client
        .query_one("SELECT current_user::text", &[])
        .await
        .expect("an answer");
    assert_eq!(row.get::<_, String>(0), "analysts");
}
