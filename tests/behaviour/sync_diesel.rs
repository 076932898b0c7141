//! Synchronous diesel on libpq: diesel's own connection and pool, without a runtime.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use diesel::connection::{Instrumentation, InstrumentationEvent, set_default_instrumentation};
use diesel::r2d2::{ConnectionManager, Pool};
use diesel::{Connection as _, PgConnection, RunQueryDsl as _};
use lakebase_core::{Config, Lakebase};
use lakebase_diesel::r2d2::{connect, connect_with, establish};
use lakebase_local::{Cut, LocalLakebase, Wake};
use lakebase_tests::{
    PATIENCE, in_own_process, in_time_blocking, lakebase, lakebase_with, local_with_tokens_of,
    logged_in, minted, no_expired_token_was_used, proxy_threads, until,
};
use tokio::runtime::Runtime;

const LIFETIME: Duration = Duration::from_secs(3);

/// A local Lakebase on its own runtime, because the tests have none.
fn platform() -> (Runtime, LocalLakebase) {
    let runtime = Runtime::new().expect("a runtime");
    let local = runtime.block_on(local_with_tokens_of(LIFETIME));
    (runtime, local)
}

fn ask(connection: &mut PgConnection) {
    let answer = diesel::sql_query("SELECT 1").execute(connection);
    answer.expect("an answer");
}

#[test]
fn the_pool_is_the_type_of_diesel_and_needs_no_runtime() {
    let (_runtime, local) = platform();
    let builder = Pool::builder().max_size(2);
    let pool: Pool<ConnectionManager<PgConnection>> =
        connect_with(&lakebase(&local), builder).expect("a pool");
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let pool = pool.clone();
            std::thread::spawn(move || {
                for _ in 0..20 {
                    let mut connection = pool.get().expect("a connection");
                    let inserted = connection.transaction(|connection| {
                        diesel::sql_query("CREATE TEMP TABLE IF NOT EXISTS t (n int)")
                            .execute(connection)?;
                        diesel::sql_query("INSERT INTO t VALUES (1)").execute(connection)
                    });
                    assert_eq!(inserted, Ok(1));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("it ends well");
    }
    assert_eq!(pool.state().connections, 2);
}

#[test]
fn a_pool_that_cannot_log_in_returns_the_typed_cause() {
    let (_runtime, local) = platform();
    let no_role = lakebase_with(&local, &[("PGUSER", "nobody-we-know")]);
    let error = connect(&no_role).map(drop).expect_err("no role");
    assert!(error.is_login() && !error.is_transient(), "{error}");
    assert!(error.chain().contains("does not exist"), "{error:?}");
}

#[test]
fn without_a_runtime_tokens_are_renewed_and_every_login_uses_the_current_one() {
    in_time_blocking(|| {
        let (_runtime, local) = platform();
        let lakebase = lakebase(&local);
        let pool = connect_with(&lakebase, Pool::builder().max_size(1));
        let pool = logged_in(&local, pool)?;
        let began = Instant::now();
        while minted(&local.events()).len() < 4 {
            assert!(began.elapsed() < PATIENCE, "tokens are not renewed");
            ask(&mut logged_in(&local, establish(&lakebase))?);
            ask(&mut pool.get().expect("a connection"));
        }
        no_expired_token_was_used(&local)
    });
}

#[test]
fn the_schema_of_the_configuration_is_on_the_search_path() {
    let (_runtime, local) = platform();
    let config = Config::builder()
        .vars(local.env())
        .schema("Odd \\ 'name'")
        .build();
    let lakebase = Lakebase::new(config.expect("a configuration")).expect("a handle");
    let mut connection = establish(&lakebase).expect("a login");
    let path: String = diesel::select(diesel::dsl::sql::<diesel::sql_types::Text>(
        "current_setting('search_path')",
    ))
    .get_result(&mut connection)
    .expect("an answer");
    assert_eq!(path, "\"Odd \\ 'name'\",public");
}

#[test]
fn a_certificate_that_is_not_trusted_is_an_error_before_any_login() {
    let (_runtime, local) = platform();
    let unknown = lakebase_with(&local, &[("PGSSLROOTCERT", "system")]);
    let renamed = lakebase_with(
        &local,
        &[("PGHOST", "db.example.com"), ("PGHOSTADDR", "127.0.0.1")],
    );
    for lakebase in [unknown, renamed] {
        let error = establish(&lakebase).map(drop).expect_err("not trusted");
        assert!(!error.is_transient(), "{error}");
        let text = error.chain().to_lowercase();
        assert!(text.contains("certificate"), "{text}");
    }
    let counters = local.counters();
    assert_eq!(
        (counters.logins, counters.refused),
        (0, 0),
        "the gateway saw no login"
    );
}

/// All instrumentation events of diesel in this process.
static REPORTED: Mutex<String> = Mutex::new(String::new());

fn report() -> Option<Box<dyn Instrumentation>> {
    Some(Box::new(|event: InstrumentationEvent<'_>| {
        REPORTED
            .lock()
            .expect("not poisoned")
            .push_str(&format!("{event:?}"));
    }))
}

/// Returns small files in folders for temporary files.
fn temporary_files() -> Vec<String> {
    ["/dev/shm", "/tmp"]
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter(|entry| entry.metadata().is_ok_and(|data| data.len() < 64 * 1024))
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .collect()
}

#[test]
fn the_token_is_not_visible_to_instrumentation_or_children_or_on_disk() {
    let (runtime, local) = platform();
    set_default_instrumentation(report).expect("set");
    let pool = connect(&lakebase(&local)).expect("a pool");
    ask(&mut pool.get().expect("a connection"));
    local.revoke_tokens();
    local.fail_logins(
        2,
        lakebase_local::LoginFault::refuse("28P01", "password authentication failed"),
    );
    let error = establish(&lakebase(&local))
        .map(drop)
        .expect_err("rejected");
    let mut shown = visible_during_a_login(&runtime, &local);
    let reported = REPORTED.lock().expect("not poisoned").clone();
    assert!(reported.contains("StartEstablishConnection"), "{reported}");
    shown.insert(format!("{reported} {pool:?} {error:?} {}", error.chain()));
    for secret in local.secrets() {
        assert!(
            !shown.iter().any(|text| text.contains(&secret)),
            "{secret} is shown"
        );
    }
}

/// Returns the environment of a child, our arguments and temporary files during a login, which waits for a resuming compute.
fn visible_during_a_login(runtime: &Runtime, local: &LocalLakebase) -> BTreeSet<String> {
    let wake = Duration::from_secs(1);
    let suspending = local.suspend(Cut::Message, wake, Wake::SlowAccept);
    runtime.block_on(suspending).expect("suspended");
    let lakebase = lakebase(local);
    let logging_in = std::thread::spawn(move || establish(&lakebase).map(drop));
    let (mut shown, mut polls) = (BTreeSet::new(), 0);
    while !logging_in.is_finished() {
        polls += 1;
        let child = std::process::Command::new("env").output();
        shown.insert(String::from_utf8_lossy(&child.expect("it runs").stdout).into_owned());
        shown.extend(std::fs::read_to_string("/proc/self/cmdline"));
        shown.extend(temporary_files());
    }
    logging_in.join().expect("no panic").expect("a login");
    assert!(polls > 5, "too few polls: {polls}");
    shown
}

#[test]
fn a_pool_that_async_code_drops_ends_its_thread() {
    in_own_process(
        "sync_diesel::a_pool_that_async_code_drops_ends_its_thread",
        dropped_by_async_code,
    );
}

fn dropped_by_async_code() {
    let (_runtime, local) = platform();
    let before = proxy_threads();
    let pool = connect(&lakebase(&local)).expect("a pool");
    let mut alone = establish(&lakebase(&local)).expect("a login");
    assert_eq!(proxy_threads(), before + 2);
    // The connection keeps its own thread.
    ask(&mut alone);
    ask(&mut pool.get().expect("a connection"));
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async move { drop((pool, alone)) });
    runtime.block_on(until(|| proxy_threads() <= before));
}
