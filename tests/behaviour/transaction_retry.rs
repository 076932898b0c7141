//! `transaction_with_retry` repeats a transaction only if that can succeed and does not apply it twice.

use std::sync::atomic::{AtomicU32, Ordering};

use diesel::result::Error;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use lakebase_diesel::Retry;
use lakebase_local::{Cut, LocalLakebase};
use lakebase_tests::{lakebase, local_with_schema, no_session, session, soon};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbErr, Statement};

async fn platform() -> LocalLakebase {
    let local = local_with_schema().await;
    let table = "CREATE TABLE accounts (id int PRIMARY KEY, cents int NOT NULL); \
                 INSERT INTO accounts VALUES (1, 1000)";
    let client = session(&lakebase(&local)).await;
    client.batch_execute(table).await.expect("a table");
    drop(client);
    no_session(&local).await;
    local
}

const BOOK: &str = "UPDATE accounts SET cents = cents - 100 WHERE id = 1";

async fn seaorm(local: &LocalLakebase) -> DatabaseConnection {
    let db = lakebase_seaorm::connect(&lakebase(local)).await;
    db.expect("a connection")
}

async fn cents(db: &DatabaseConnection) -> i32 {
    let sql = "SELECT cents FROM accounts WHERE id = 1";
    let sql = Statement::from_string(db.get_database_backend(), sql);
    let row = db.query_one_raw(sql).await.expect("an answer");
    row.expect("a row").try_get_by_index(0).expect("a number")
}

#[tokio::test]
async fn a_transaction_whose_session_ends_is_repeated_with_seaorm() {
    for cut in [Cut::Message, Cut::Close, Cut::Reset] {
        let local = platform().await;
        let db = seaorm(&local).await;
        let runs = AtomicU32::new(0);
        let booked =
            lakebase_seaorm::transaction_with_retry(&db, Retry::new(), async |transaction| {
                transaction.execute_unprepared(BOOK).await?;
                if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                    local.cut_sessions(cut).await.expect("cut");
                }
                transaction.execute_unprepared("SELECT 1").await?;
                Ok::<_, DbErr>("booked")
            });
        assert_eq!(soon(booked).await.expect("in the end"), "booked");
        assert_eq!((runs.into_inner(), cents(&db).await), (2, 900), "{cut:?}");
    }
}

#[tokio::test]
async fn a_transaction_whose_session_ends_is_repeated_with_diesel() {
    for cut in [Cut::Message, Cut::Close, Cut::Reset] {
        let local = platform().await;
        let pool = lakebase_diesel::bb8::connect(&lakebase(&local)).await;
        let pool = pool.expect("a pool");
        let runs = AtomicU32::new(0);
        let connect = async || {
            let taken = pool.get_owned().await;
            taken.map_err(|error| Error::QueryBuilderError(error.into()))
        };
        let work = async |connection: &mut AsyncPgConnection| {
            diesel::sql_query(BOOK).execute(connection).await?;
            if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                local.cut_sessions(cut).await.expect("cut");
            }
            diesel::sql_query("SELECT 1").execute(connection).await
        };
        let booked = lakebase_diesel::transaction_with_retry(Retry::new(), connect, work);
        soon(booked).await.expect("in the end");
        let left = cents(&seaorm(&local).await).await;
        assert_eq!((runs.into_inner(), left), (2, 900), "{cut:?}");
    }
}

#[tokio::test]
async fn all_conflicting_transactions_commit_in_the_end() {
    const TOGETHER: i32 = 6;
    let local = platform().await;
    let db = seaorm(&local).await;
    let booking = (0..TOGETHER).map(|_| {
        let db = db.clone();
        // On a task, which needs a future that is `Send`.
        tokio::spawn(async move {
            let retry = Retry::new().attempts(50);
            lakebase_seaorm::transaction_with_retry(&db, retry, async |transaction| {
                let isolation = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";
                transaction.execute_unprepared(isolation).await?;
                transaction
                    .execute_unprepared("SELECT sum(cents) FROM accounts")
                    .await?;
                transaction.execute_unprepared(BOOK).await?;
                Ok::<_, DbErr>(())
            })
            .await
        })
    });
    for booked in soon(futures_util::future::join_all(booking)).await {
        booked.expect("no panic").expect("booked");
    }
    assert_eq!(cents(&db).await, 1000 - 100 * TOGETHER);
}

/// A trigger ends the session during the `COMMIT`, so that its outcome is unknown.
async fn end_sessions_during_commits(local: &LocalLakebase) {
    let client = session(&lakebase(local)).await;
    let trigger = "CREATE FUNCTION end_session() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60); RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER end_session AFTER UPDATE ON accounts DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW WHEN (NEW.cents < 1000) EXECUTE FUNCTION end_session()";
    client.batch_execute(trigger).await.expect("a trigger");
}

#[tokio::test]
async fn a_commit_with_an_unknown_outcome_is_repeated_only_if_the_transaction_is_idempotent() {
    let local = platform().await;
    end_sessions_during_commits(&local).await;
    let db = seaorm(&local).await;
    let pool = lakebase_diesel::bb8::connect(&lakebase(&local)).await;
    let pool = pool.expect("a pool");
    for (retry, expected) in [
        (Retry::new(), 1),
        (Retry::new().attempts(3).idempotent(true), 3),
    ] {
        let runs = AtomicU32::new(0);
        let booked = lakebase_seaorm::transaction_with_retry(&db, retry, async |transaction| {
            runs.fetch_add(1, Ordering::SeqCst);
            transaction.execute_unprepared(BOOK).await.map(drop)
        });
        soon(booked).await.expect_err("an unknown outcome");
        assert_eq!(runs.swap(0, Ordering::SeqCst), expected);
        let connect = async || {
            let taken = pool.get_owned().await;
            taken.map_err(|error| Error::QueryBuilderError(error.into()))
        };
        let work = async |connection: &mut AsyncPgConnection| {
            runs.fetch_add(1, Ordering::SeqCst);
            diesel::sql_query(BOOK).execute(connection).await
        };
        let booked = lakebase_diesel::transaction_with_retry(retry, connect, work);
        soon(booked).await.expect_err("an unknown outcome");
        assert_eq!(runs.into_inner(), expected);
    }
}

#[tokio::test]
async fn wrong_statements_and_failed_logins_are_not_repeated() {
    #[derive(Debug)]
    struct Own(DbErr);
    impl std::fmt::Display for Own {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("own")
        }
    }
    impl std::error::Error for Own {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    impl From<DbErr> for Own {
        fn from(error: DbErr) -> Self {
            Self(error)
        }
    }
    let local = platform().await;
    let db = seaorm(&local).await;
    let runs = AtomicU32::new(0);
    let mistaken =
        lakebase_seaorm::transaction_with_retry(&db, Retry::new(), async |transaction| {
            runs.fetch_add(1, Ordering::SeqCst);
            transaction.execute_unprepared("SELEC 1").await?;
            Ok::<_, Own>(())
        });
    soon(mistaken).await.expect_err("misspelt");
    assert_eq!(runs.into_inner(), 1);

    let hasty = lakebase(&local).with_connect_timeout(std::time::Duration::from_secs(1));
    let db = lakebase_seaorm::connect(&hasty)
        .await
        .expect("a connection");
    local.set_connection_limit(0);
    lakebase_tests::forget_idle(&db).await;
    let began = std::time::Instant::now();
    let waiting =
        lakebase_seaorm::transaction_with_retry(&db, Retry::new(), async |_| Ok::<_, DbErr>(()));
    let error = soon(waiting).await.expect_err("no place");
    assert!(lakebase_seaorm::cause(&error).is_some(), "{error}");
    assert!(
        began.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}
