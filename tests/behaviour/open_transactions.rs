//! `is_transient` returns true for a transaction that ended with its session, and false for a wrong statement.

use diesel::result::Error as DieselError;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use lakebase_local::{Cut, LocalLakebase};
use lakebase_tests::{lakebase, lakebase_with, local, session, soon};
use sea_orm::{ConnectionTrait as _, DbErr, TransactionTrait as _};

const CUTS: [Cut; 3] = [Cut::Message, Cut::Close, Cut::Reset];

/// Two transactions that run these in opposite order wait for each other. Postgres ends one with 40P01.
const DEADLOCK: [&str; 2] = [
    "UPDATE pairs SET v = v + 1 WHERE id = 1",
    "UPDATE pairs SET v = v + 1 WHERE id = 2",
];

async fn local_with_pairs() -> LocalLakebase {
    let local = local().await;
    let sql = format!(
        "CREATE TABLE pairs (id int PRIMARY KEY, v int NOT NULL); \
         INSERT INTO pairs VALUES (1, 0), (2, 0); \
         GRANT ALL ON pairs TO \"{}\"",
        local.client_id()
    );
    local.sql(&sql).await.expect("a table");
    local
}

#[tokio::test]
async fn with_tokio_postgres_lost_transactions_are_transient_and_wrong_statements_are_not() {
    let local = local_with_pairs().await;
    for cut in CUTS {
        let mut client = session(&lakebase(&local)).await;
        let transaction = client.transaction().await.expect("begun");
        transaction
            .batch_execute("SELECT 1")
            .await
            .expect("an answer");
        local.cut_sessions(cut).await.expect("cut");
        let error = soon(transaction.batch_execute("SELECT 1"))
            .await
            .expect_err("ended");
        assert!(lakebase_core::is_transient(&error), "{cut:?}: {error:?}");
    }
    let client = session(&lakebase(&local)).await;
    let error = client
        .batch_execute("SELECT * FROM nothing")
        .await
        .expect_err("no table");
    assert!(!lakebase_core::is_transient(&error), "{error:?}");
}

async fn diesel_connection(local: &LocalLakebase) -> AsyncPgConnection {
    let connected = soon(lakebase_diesel::connect(&lakebase(local))).await;
    connected.expect("a connection")
}

async fn run(connection: &mut AsyncPgConnection, sql: &str) -> Result<(), DieselError> {
    soon(diesel::sql_query(sql).execute(connection))
        .await
        .map(drop)
}

#[tokio::test]
async fn with_diesel_lost_transactions_are_transient_and_wrong_statements_are_not() {
    let local = local_with_pairs().await;
    for cut in CUTS {
        let mut connection = diesel_connection(&local).await;
        let local = &local;
        let outcome = connection
            .transaction::<(), DieselError, _>(async |connection| {
                run(connection, "SELECT 1").await?;
                local.cut_sessions(cut).await.expect("cut");
                run(connection, "SELECT 1").await
            })
            .await;
        let error = outcome.expect_err("ended");
        assert!(lakebase_diesel::is_transient(&error), "{cut:?}: {error:?}");
    }
    let mut connection = diesel_connection(&local).await;
    let error = run(&mut connection, "SELECT * FROM nothing")
        .await
        .expect_err("no table");
    assert!(!lakebase_diesel::is_transient(&error), "{error:?}");
    let twice = "INSERT INTO pairs VALUES (1, 1)";
    let error = run(&mut connection, twice).await.expect_err("a duplicate");
    assert!(!lakebase_diesel::is_transient(&error), "{error:?}");
}

#[test]
fn with_synchronous_diesel_lost_transactions_are_transient_and_wrong_statements_are_not() {
    use diesel::Connection as _;

    let run = |connection: &mut diesel::PgConnection, sql: &str| {
        diesel::RunQueryDsl::execute(diesel::sql_query(sql), connection)
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let local = runtime.block_on(local_with_pairs());
    let lakebase = lakebase(&local);
    let connect = || lakebase_diesel::r2d2::establish(&lakebase).expect("a login");
    for cut in CUTS {
        let outcome: Result<(), DieselError> = connect().transaction(|connection| {
            run(connection, "SELECT 1")?;
            runtime.block_on(local.cut_sessions(cut)).expect("cut");
            run(connection, "SELECT 1")?;
            Ok(())
        });
        let error = outcome.expect_err("ended");
        assert!(lakebase_diesel::is_transient(&error), "{cut:?}: {error:?}");
    }
    let mut connection = connect();
    for mistake in ["SELECT * FROM nothing", "INSERT INTO pairs VALUES (1, 1)"] {
        let error = run(&mut connection, mistake).expect_err("a mistake");
        assert!(!lakebase_diesel::is_transient(&error), "{error:?}");
    }
}

#[tokio::test]
async fn with_diesel_a_deadlock_is_transient() {
    let local = local_with_pairs().await;
    let (mut one, mut other) = (
        diesel_connection(&local).await,
        diesel_connection(&local).await,
    );
    for (connection, first) in [(&mut one, DEADLOCK[0]), (&mut other, DEADLOCK[1])] {
        run(connection, "BEGIN").await.expect("begun");
        run(connection, first).await.expect("a row");
    }
    let outcomes = tokio::join!(run(&mut one, DEADLOCK[1]), run(&mut other, DEADLOCK[0]));
    let error = outcomes
        .0
        .err()
        .or(outcomes.1.err())
        .expect("one of them failed");
    assert!(lakebase_diesel::is_transient(&error), "{error:?}");
}

#[tokio::test]
async fn with_seaorm_lost_transactions_and_deadlocks_are_transient_and_wrong_statements_are_not() {
    let local = local_with_pairs().await;
    let db = soon(lakebase_seaorm::connect(&lakebase(&local)))
        .await
        .expect("a connection");
    for cut in CUTS {
        let outcome: Result<(), DbErr> = async {
            let transaction = db.begin().await?;
            transaction.execute_unprepared("SELECT 1").await?;
            local.cut_sessions(cut).await.expect("cut");
            transaction.execute_unprepared("SELECT 1").await?;
            transaction.commit().await
        }
        .await;
        let error = outcome.expect_err("ended");
        assert!(lakebase_seaorm::is_transient(&error), "{cut:?}: {error:?}");
    }
    let db = soon(lakebase_seaorm::connect(&lakebase(&local)))
        .await
        .expect("a connection");
    let error = db
        .execute_unprepared("SELECT * FROM nothing")
        .await
        .expect_err("no table");
    assert!(!lakebase_seaorm::is_transient(&error), "{error:?}");

    let (one, other) = (
        db.begin().await.expect("begun"),
        db.begin().await.expect("begun"),
    );
    one.execute_unprepared(DEADLOCK[0]).await.expect("a row");
    other.execute_unprepared(DEADLOCK[1]).await.expect("a row");
    let outcomes = tokio::join!(
        soon(one.execute_unprepared(DEADLOCK[1])),
        soon(other.execute_unprepared(DEADLOCK[0]))
    );
    let error = outcomes
        .0
        .err()
        .or(outcomes.1.err())
        .expect("one of them failed");
    assert!(lakebase_seaorm::is_transient(&error), "{error:?}");
}

#[tokio::test]
async fn is_transient_reports_whether_a_retried_checkout_can_succeed() {
    let local = local().await;
    let patient = lakebase_diesel::bb8::connect(&lakebase(&local))
        .await
        .expect("a pool");
    drop(soon(patient.get()).await.expect("a connection"));
    local.set_api_down(true);
    local.revoke_tokens();
    local.cut_sessions(Cut::Close).await.expect("cut");
    let hasty = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "1")]);
    let pool = lakebase_diesel::bb8::Builder::new().build_lazy(&hasty);
    let error = soon(pool.get())
        .await
        .map(drop)
        .expect_err("the API is down");
    assert!(lakebase_diesel::is_transient(&error), "{error:?}");
    let error = soon(lakebase_seaorm::connect(&hasty))
        .await
        .map(drop)
        .expect_err("as before");
    assert!(error.is_transient(), "{error:?}");
    local.set_api_down(false);

    let unknown = lakebase_with(&local, &[("PGUSER", "nobody")]);
    let pool = lakebase_diesel::bb8::Builder::new().build_lazy(&unknown);
    let error = soon(pool.get()).await.map(drop).expect_err("no such role");
    assert!(!lakebase_diesel::is_transient(&error), "{error:?}");
}

#[tokio::test]
async fn every_driver_classifies_a_sqlstate_in_the_same_way() {
    let local = local().await;
    let lakebase = lakebase(&local);
    let client = session(&lakebase).await;
    let mut diesel = diesel_connection(&local).await;
    let sea_orm = lakebase_seaorm::connect(&lakebase)
        .await
        .expect("connected");
    for (sqlstate, message, expected) in [
        (
            "25P03",
            "terminating connection due to idle-in-transaction timeout",
            true,
        ),
        (
            "57P05",
            "terminating connection due to idle-session timeout",
            true,
        ),
        (
            "57P01",
            "terminating connection due to administrator command",
            true,
        ),
        (
            "57P02",
            "terminating connection because of crash of another server process",
            true,
        ),
        (
            "57P03",
            "the database system is not yet accepting connections",
            true,
        ),
        (
            "40001",
            "could not serialize access due to concurrent update",
            true,
        ),
        ("40P01", "deadlock detected", true),
        (
            "57P04",
            "terminating connection because the database was dropped",
            false,
        ),
        (
            "25P04",
            "terminating connection due to transaction timeout",
            false,
        ),
        (
            "57014",
            "canceling statement due to statement timeout",
            false,
        ),
        ("25P02", "current transaction is aborted", false),
    ] {
        let sql =
            format!("DO $$ BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = '{sqlstate}'; END $$");
        let error = client.batch_execute(&sql).await.expect_err(sqlstate);
        assert_eq!(lakebase_core::is_transient(&error), expected, "{error:?}");
        let error = run(&mut diesel, &sql).await.expect_err(sqlstate);
        assert_eq!(lakebase_diesel::is_transient(&error), expected, "{error:?}");
        let error = sea_orm.execute_unprepared(&sql).await.expect_err(sqlstate);
        assert_eq!(lakebase_seaorm::is_transient(&error), expected, "{error:?}");
    }
}

#[tokio::test]
async fn a_prepared_statement_whose_columns_change_fails_until_the_connection_is_replaced() {
    let local = local_with_pairs().await;
    let lakebase = lakebase(&local);
    let client = session(&lakebase).await;
    let all = client
        .prepare("SELECT * FROM pairs")
        .await
        .expect("prepared");
    client.query(&all, &[]).await.expect("rows");
    let change = "ALTER TABLE pairs ADD COLUMN note text";
    local.sql(change).await.expect("changed");
    for _ in 0..2 {
        let error = client.query(&all, &[]).await.expect_err("other columns");
        let code = error.code().map(|code| code.code());
        assert_eq!(code, Some("0A000"), "{error:?}");
        assert!(
            !lakebase_core::is_transient(&error),
            "a retry on this connection fails"
        );
    }
    let client = session(&lakebase).await;
    client
        .query("SELECT * FROM pairs", &[])
        .await
        .expect("rows");
}
