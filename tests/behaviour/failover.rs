//! A restart under load: each statement in flight fails once, with an error that says that repeating can
//! help; the next one works, and the pool is whole again.

use std::sync::Arc;

use diesel_async::RunQueryDsl as _;
use lakebase_local::{Cut, LocalLakebase};
use lakebase_tests::{Adapter, App, lakebase, local, soon};
use sea_orm::ConnectionTrait as _;
use tokio::sync::Barrier;

const BUSY: usize = 50;
const CUTS: [Cut; 3] = [Cut::Message, Cut::Close, Cut::Reset];

/// Long enough that all of them are in it when the server goes; none of them ends by itself. Not the same
/// one twice: Postgres takes a while to notice that somebody was cut off.
fn statement(cut: Cut) -> String {
    format!("SELECT pg_sleep(100) /* {cut:?} */")
}

/// Cuts once every task is in its statement.
async fn cut_when_busy(local: &LocalLakebase, cut: Cut) {
    let statement = statement(cut);
    let busy = format!(
        "DO $$ BEGIN WHILE (SELECT count(*) FROM pg_stat_activity \
         WHERE query = '{statement}' AND state = 'active') < {BUSY} \
         LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$"
    );
    soon(local.sql(&busy)).await.expect("all are busy");
    local.cut_sessions(cut).await.expect("cut");
}

#[tokio::test]
async fn tokio_postgres_statements_in_flight_fail_once() {
    let local = local().await;
    let lakebase = lakebase(&local);
    for cut in CUTS {
        let tasks: Vec<_> = (0..BUSY)
            .map(|_| {
                let lakebase = lakebase.clone();
                tokio::spawn(async move {
                    let app = App::start(Adapter::TokioPostgres, &lakebase).await;
                    let app = app.expect("started");
                    let failure = app.run(&statement(cut)).await.expect_err("the server went");
                    assert!(failure.is_transient, "{cut:?}: {failure}");
                    let answer = app.ask().await;
                    answer.unwrap_or_else(|failure| panic!("{cut:?}: {failure}"));
                })
            })
            .collect();
        cut_when_busy(&local, cut).await;
        for task in tasks {
            soon(task).await.expect("it ends well");
        }
    }
}

#[tokio::test]
async fn diesel_statements_in_flight_fail_once_and_the_pool_is_whole_again() {
    let local = local().await;
    let pool = lakebase_diesel::bb8::Builder::new().max_size(BUSY as u32);
    let pool = pool.build(&lakebase(&local)).await.expect("a pool");
    for cut in CUTS {
        let after = Arc::new(Barrier::new(BUSY));
        let tasks: Vec<_> = (0..BUSY)
            .map(|_| {
                let (pool, after) = (pool.clone(), Arc::clone(&after));
                tokio::spawn(async move {
                    {
                        let mut connection = pool.get().await.expect("a connection");
                        let outcome = diesel::sql_query(statement(cut))
                            .execute(&mut connection)
                            .await;
                        let error = outcome.expect_err("the server went");
                        assert!(lakebase_diesel::is_transient(&error), "{cut:?}: {error:?}");
                    }
                    let mut connection = pool.get().await.expect("a connection");
                    let answer = diesel::sql_query("SELECT 1").execute(&mut connection).await;
                    answer.unwrap_or_else(|error| panic!("{cut:?}: {error}"));
                    // All of them at once: nobody shares a connection.
                    after.wait().await;
                })
            })
            .collect();
        cut_when_busy(&local, cut).await;
        for task in tasks {
            soon(task).await.expect("it ends well");
        }
        assert_eq!(pool.state().connections as usize, BUSY);
    }
}

#[tokio::test]
async fn seaorm_statements_in_flight_fail_once_and_the_pool_is_whole_again() {
    let local = local().await;
    let mut options = sea_orm::ConnectOptions::new("postgres://ignored");
    options.max_connections(BUSY as u32);
    let db = lakebase_seaorm::connect_with(&lakebase(&local), options)
        .await
        .expect("a connection");
    for cut in CUTS {
        let tasks: Vec<_> = (0..BUSY)
            .map(|_| {
                let db = db.clone();
                tokio::spawn(async move {
                    let error = db
                        .execute_unprepared(&statement(cut))
                        .await
                        .expect_err("the server went");
                    assert!(lakebase_seaorm::is_transient(&error), "{cut:?}: {error:?}");
                    let answer = db.execute_unprepared("SELECT 1").await;
                    answer.unwrap_or_else(|error| panic!("{cut:?}: {error}"));
                })
            })
            .collect();
        cut_when_busy(&local, cut).await;
        for task in tasks {
            soon(task).await.expect("it ends well");
        }
    }
}
