//! A busy application that holds any of SeaORM's or sqlx's types.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, poll_immediate};
use lakebase_local::{Cut, LocalLakebase, Wake};
use lakebase_tests::{
    PATIENCE, in_time, lakebase, local, local_with_tokens_of, no_expired_token_was_used, soon,
    until,
};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, RuntimeErr, Statement};
use sqlx::PgPool;
use tokio::sync::watch;

/// A function of an application.
async fn echo(db: &impl ConnectionTrait, n: i64) -> Result<i64, DbErr> {
    let sql = "SELECT $1::int8";
    let sql = Statement::from_sql_and_values(db.get_database_backend(), sql, [n.into()]);
    let row = db.query_one_raw(sql).await?;
    row.ok_or_else(|| DbErr::Custom("no row".to_owned()))?
        .try_get_by_index(0)
}

async fn echo_by_sqlx(pool: &PgPool, n: i64) -> Result<i64, DbErr> {
    let row: Result<(i64,), _> = sqlx::query_as("SELECT $1::int8")
        .bind(n)
        .fetch_one(pool)
        .await;
    row.map(|row| row.0)
        .map_err(|error| DbErr::Query(RuntimeErr::SqlxError(error.into())))
}

/// The results of all tasks.
#[derive(Default)]
struct Work {
    is_over: AtomicBool,
    answered: watch::Sender<u64>,
    failed: std::sync::Mutex<Vec<DbErr>>,
}

impl Work {
    fn note(&self, asked: i64, outcome: Result<i64, DbErr>) {
        match outcome {
            Ok(answer) => {
                assert_eq!(answer, asked, "the answer of another question");
                self.answered.send_modify(|answered| *answered += 1);
            }
            Err(error) => self.failed.lock().expect("not poisoned").push(error),
        }
    }

    fn failures(&self) -> Vec<DbErr> {
        std::mem::take(&mut *self.failed.lock().expect("not poisoned"))
    }

    /// Waits for 200 more answers.
    async fn continues(&self) {
        let mut answered = self.answered.subscribe();
        let enough = *answered.borrow() + 200;
        let enough = answered.wait_for(|&answered| answered >= enough);
        soon(enough).await.expect("tasks");
    }
}

/// Starts tasks that hold a clone, the pool inside, or a value that a framework stores by type.
fn start(db: &DatabaseConnection, work: &Arc<Work>) -> Vec<tokio::task::JoinHandle<()>> {
    const EACH: i64 = 2;
    let context: Arc<dyn std::any::Any + Send + Sync> = Arc::new(db.clone());
    let mut tasks = Vec::new();
    for n in 0..EACH {
        let (own, pool) = (db.clone(), db.get_postgres_connection_pool().clone());
        let context = Arc::clone(&context);
        for kind in 0..3 {
            let (own, pool, context) = (own.clone(), pool.clone(), Arc::clone(&context));
            let work = Arc::clone(work);
            tasks.push(tokio::spawn(async move {
                let mut asked = n * 1_000_000 + kind * 100_000;
                while !work.is_over.load(Ordering::SeqCst) {
                    asked += 1;
                    let outcome = match kind {
                        0 => echo(&own, asked).await,
                        1 => echo_by_sqlx(&pool, asked).await,
                        _ => {
                            let kept = context.downcast_ref::<DatabaseConnection>();
                            echo(kept.expect("by type"), asked).await
                        }
                    };
                    work.note(asked, outcome);
                }
            }));
        }
    }
    tasks
}

async fn connected(local: &LocalLakebase) -> DatabaseConnection {
    let mut options = lakebase_seaorm::options();
    options.max_connections(4).sqlx_logging(false);
    let db = lakebase_seaorm::connect_with(&lakebase(local), options).await;
    db.expect("a connection")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_revocation_and_a_restart_only_statements_in_flight_fail() {
    let local = local().await;
    let db = connected(&local).await;
    let work = Arc::new(Work::default());
    let tasks = start(&db, &work);
    work.continues().await;
    assert!(work.failures().is_empty());
    local.revoke_tokens();
    local.cut_sessions(Cut::Message).await.expect("cut");
    work.continues().await;
    let failed = work.failures();
    // One statement for each connection at most.
    assert!(failed.len() <= 4, "{failed:?}");
    for error in &failed {
        assert!(lakebase_seaorm::is_transient(error), "{error:?}");
    }
    work.continues().await;
    assert!(work.failures().is_empty());
    work.is_over.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(local.counters().minted, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_repeated_suspends_only_statements_in_flight_fail() {
    in_time(async || {
        let local = local_with_tokens_of(Duration::from_secs(3)).await;
        let db = connected(&local).await;
        let work = Arc::new(Work::default());
        let tasks = start(&db, &work);
        for wake in [Wake::SlowAccept, Wake::StartingUp, Wake::Close] {
            work.continues().await;
            work.failures();
            let began = Instant::now();
            let suspending = local.suspend(Cut::Message, Duration::from_secs(2), wake);
            suspending.await.expect("suspended");
            work.continues().await;
            assert!(
                began.elapsed() >= Duration::from_secs(1),
                "the compute was suspended"
            );
            let failed = work.failures();
            assert!(failed.len() <= 4, "{wake:?}: {failed:?}");
        }
        work.is_over.store(true, Ordering::SeqCst);
        for task in tasks {
            task.await.expect("no panic");
        }
        no_expired_token_was_used(&local)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_dropped_at_random_times_lose_no_connection_and_no_answer() {
    const TASKS: i64 = 16;
    const EACH: i64 = 250;
    let local = local().await;
    let db = connected(&local).await;
    // The usual time of a statement on this machine at this load.
    let mut usual = Duration::ZERO;
    for _ in 0..3 {
        let began = Instant::now();
        join_all((0..TASKS).map(|n| echo(&db, n))).await;
        usual = began.elapsed();
    }
    let (answered, dropped) = (AtomicU64::new(0), AtomicU64::new(0));
    let tasks = (0..TASKS).map(|task| {
        let (db, answered, dropped) = (&db, &answered, &dropped);
        async move {
            // The same random numbers in each run.
            let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(task as u64 + 1);
            for n in 0..EACH {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let asked = task * EACH + n;
                // Half of the statements have enough time.
                let patience = match random % 2 {
                    0 => PATIENCE,
                    _ => usual.mul_f64((random % 1000) as f64 / 500.0),
                };
                match tokio::time::timeout(patience, echo(db, asked)).await {
                    Ok(answer) => {
                        assert_eq!(answer.expect("an answer"), asked, "of another question");
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(_) => {
                        dropped.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        }
    });
    join_all(tasks).await;
    let (answered, dropped) = (answered.into_inner(), dropped.into_inner());
    assert!(answered > 100 && dropped > 100, "{answered} and {dropped}");
    // The pool still has all connections, and each returns its own answers.
    let all = join_all((0..4).map(|_| db.get_postgres_connection_pool().acquire()));
    let all = soon(all).await;
    for (n, connection) in all.into_iter().enumerate() {
        let mut connection = connection.expect("a place");
        let row: (i64,) = sqlx::query_as("SELECT $1::int8")
            .bind(n as i64)
            .fetch_one(&mut *connection)
            .await
            .expect("an answer");
        assert_eq!(row.0, n as i64);
    }
    // The end of a replaced session is logged a moment later.
    until(|| local.counters().open_sessions <= 4).await;
}

#[tokio::test]
async fn a_future_that_is_not_polled_blocks_no_other_statement() {
    let local = local().await;
    let db = connected(&local).await;
    let mut parked = pin!(echo(&db, 1));
    assert!(
        poll_immediate(parked.as_mut()).await.is_none(),
        "it is under way"
    );
    let mut waiting = pin!(db.begin_and_wait());
    let _ = poll_immediate(waiting.as_mut()).await;
    for n in 0..100 {
        assert_eq!(soon(echo(&db, n)).await.expect("an answer"), n);
    }
    assert_eq!(soon(parked).await.expect("an answer"), 1);
}

/// A future that holds a transaction while it does nothing.
trait Wait {
    async fn begin_and_wait(&self);
}

impl Wait for DatabaseConnection {
    async fn begin_and_wait(&self) {
        let transaction = sea_orm::TransactionTrait::begin(self).await;
        std::future::pending::<()>().await;
        drop(transaction);
    }
}
