//! Synchronous diesel on libpq: the manager takes the place of diesel's own, without a runtime.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use diesel::ConnectionError::CouldntSetupConfiguration;
use diesel::connection::{Instrumentation, InstrumentationEvent, set_default_instrumentation};
use diesel::r2d2 as host;
use diesel::r2d2::Pool;
use diesel::{Connection as _, RunQueryDsl as _};
use lakebase_core::{Config, Lakebase};
use lakebase_diesel::r2d2::{Builder, ConnectionManager, connect, establish};
use lakebase_local::{Cut, LocalLakebase, Wake};
use lakebase_tests::{in_time_blocking, lakebase, lakebase_with, local_with_tokens_of, minted};
use tokio::runtime::Runtime;

const LIFETIME: Duration = Duration::from_secs(3);

/// A platform on a runtime of its own: the test has none.
fn platform() -> (Runtime, LocalLakebase) {
    let runtime = Runtime::new().expect("a runtime");
    let local = runtime.block_on(local_with_tokens_of(LIFETIME));
    (runtime, local)
}

fn ask(connection: &mut diesel::PgConnection) {
    let answer = diesel::sql_query("SELECT 1").execute(connection);
    answer.expect("an answer");
}

#[test]
fn the_manager_fits_into_a_stock_pool_without_a_runtime() {
    let (_runtime, local) = platform();
    let pool = Pool::builder()
        .max_size(2)
        .build(ConnectionManager::new(&lakebase(&local)))
        .expect("a pool");
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
}

#[test]
fn tokens_are_renewed_without_a_runtime_and_every_login_uses_the_current_one() {
    in_time_blocking(|| {
        let (_runtime, local) = platform();
        let lakebase = lakebase(&local);
        let manager = ConnectionManager::new(&lakebase);
        let began = Instant::now();
        while minted(&local.events()).len() < 4 {
            assert!(began.elapsed() < LIFETIME * 5, "tokens are not renewed");
            ask(&mut host::ManageConnection::connect(&manager).expect("a login"));
        }
        assert_eq!(local.counters().refused, 0);
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
fn an_exhausted_pool_is_a_transient_error_that_says_so() {
    let (_runtime, local) = platform();
    let pool = Builder::new().max_size(1).build(&lakebase(&local));
    let pool = pool.expect("a pool");
    let _busy = pool.get().expect("a connection");
    let error = pool.get_timeout(Duration::from_millis(200));
    let error = error.map(drop).expect_err("the only one is busy");
    assert!(
        error.is_transient() && error.to_string().contains("busy"),
        "{error}"
    );
}

#[test]
fn one_waiting_thread_opens_one_connection() {
    let (_runtime, local) = platform();
    let pool = connect(&lakebase(&local)).expect("a pool");
    let together = Arc::new(Barrier::new(2));
    let waiting = std::thread::spawn({
        let (pool, together) = (pool.clone(), Arc::clone(&together));
        move || {
            together.wait();
            drop(pool.get().expect("a second connection"));
        }
    });
    let first = pool.get().expect("the first connection");
    together.wait();
    waiting.join().expect("it ends well");
    drop(first);
    assert_eq!(pool.state().connections, 2);
    assert_eq!(local.counters().logins, 2);
}

#[test]
fn tls_is_verified_by_libpq_as_well() {
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

/// Everything that diesel tells about connections, in this process.
static TOLD: Mutex<String> = Mutex::new(String::new());

fn tell() -> Option<Box<dyn Instrumentation>> {
    Some(Box::new(|event: InstrumentationEvent<'_>| {
        TOLD.lock()
            .expect("not poisoned")
            .push_str(&format!("{event:?}"));
    }))
}

/// The files that a secret might be left in.
fn files_of_ours() -> Vec<String> {
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
fn the_token_is_seen_neither_by_instrumentation_nor_by_children_nor_on_disk() {
    let (runtime, local) = platform();
    set_default_instrumentation(tell).expect("set");
    let pool = connect(&lakebase(&local)).expect("a pool");
    ask(&mut pool.get().expect("a connection"));
    local.revoke_tokens();
    local.fail_logins(
        2,
        lakebase_local::LoginFault::refuse("28P01", "password authentication failed"),
    );
    let error = establish(&lakebase(&local)).map(drop).expect_err("refused");
    let mut shown = while_it_logs_in(&runtime, &local);
    let told = TOLD.lock().expect("not poisoned").clone();
    assert!(told.contains("StartEstablishConnection"), "{told}");
    shown.insert(format!("{told} {pool:?} {error:?} {}", error.chain()));
    for secret in local.secrets() {
        assert!(
            !shown.iter().any(|text| text.contains(&secret)),
            "{secret} is shown"
        );
    }
}

/// What the environment of a child, `ps` and the disk show while libpq logs in, which a compute that wakes makes
/// long enough to look.
fn while_it_logs_in(runtime: &Runtime, local: &LocalLakebase) -> BTreeSet<String> {
    let wake = Duration::from_secs(1);
    let suspending = local.suspend(Cut::Message, wake, Wake::SlowAccept);
    runtime.block_on(suspending).expect("suspended");
    let lakebase = lakebase(local);
    let logging_in = std::thread::spawn(move || establish(&lakebase).map(drop));
    let (mut shown, mut looks) = (BTreeSet::new(), 0);
    while !logging_in.is_finished() {
        looks += 1;
        let child = std::process::Command::new("env").output();
        shown.insert(String::from_utf8_lossy(&child.expect("it runs").stdout).into_owned());
        shown.extend(std::fs::read_to_string("/proc/self/cmdline"));
        shown.extend(files_of_ours());
    }
    logging_in.join().expect("no panic").expect("a login");
    assert!(looks > 5, "it was hardly looked at: {looks}");
    shown
}

fn is_dropped_in_async_code(lakebase: &Lakebase) {
    let pool = connect(lakebase).expect("a pool");
    Runtime::new()
        .expect("a runtime")
        .block_on(async move { drop(pool) });
}

#[test]
fn a_pool_may_be_dropped_by_async_code_and_ends_its_threads() {
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("readable");
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .filter(|name| name.trim() == "lakebase")
            .count()
    };
    let (_runtime, local) = platform();
    let before = threads();
    is_dropped_in_async_code(&lakebase(&local));
    let began = Instant::now();
    // Other tests may have some of their own; what counts is that these go.
    while threads() > before {
        assert!(began.elapsed() < lakebase_tests::PATIENCE, "it stays");
        std::thread::yield_now();
    }
}

#[derive(Debug)]
struct Misspelt;

impl host::CustomizeConnection<diesel::PgConnection, host::Error> for Misspelt {
    fn on_acquire(&self, connection: &mut diesel::PgConnection) -> Result<(), host::Error> {
        let slow = diesel::sql_query("SELECT pg_sleep(0.1)").execute(connection);
        slow.map_err(host::Error::QueryError)?;
        let setting = diesel::sql_query("SELEC 1").execute(connection);
        setting.map(drop).map_err(host::Error::QueryError)
    }
}

#[test]
fn a_customizer_that_fails_is_named_and_is_no_storm_of_logins() {
    let (_runtime, local) = platform();
    let builder = Builder::new().configure(|inner| inner.connection_customizer(Box::new(Misspelt)));
    let pool = builder.build_lazy(&lakebase(&local));
    let began = Instant::now();
    for _ in 0..10 {
        let error = pool.get().map(drop).expect_err("misspelt");
        assert!(error.to_string().contains("SELEC"), "{error}");
    }
    // One for each that asked, and one each half second that somebody waits on.
    let most = 10 + began.elapsed().as_secs() * 2 + 1;
    // r2d2 repeats what failed; without anybody who waits there is no hurry.
    std::thread::sleep(Duration::from_secs(2));
    let logins = local.counters().logins;
    assert!(logins <= most, "{logins} instead of {most}");
}

#[derive(Debug)]
struct Slow;

impl host::CustomizeConnection<diesel::PgConnection, host::Error> for Slow {
    fn on_acquire(&self, connection: &mut diesel::PgConnection) -> Result<(), host::Error> {
        let setting = diesel::sql_query("SELECT pg_sleep(0.3)").execute(connection);
        setting.map(drop).map_err(host::Error::QueryError)
    }
}

#[test]
fn a_customizer_that_takes_its_time_is_waited_for() {
    in_time_blocking(|| {
        let (_runtime, local) = platform();
        let builder = Builder::new().configure(|inner| inner.connection_customizer(Box::new(Slow)));
        let pool = builder.build(&lakebase(&local)).expect("a pool");
        assert_eq!(pool.state().connections, 1);
        assert_eq!(local.counters().logins, 1);
    });
}

#[test]
fn threads_that_wait_together_open_hardly_more_connections_than_they_are() {
    const WAITING: u64 = 4;
    in_time_blocking(|| {
        let (_runtime, local) = platform();
        let pool = Builder::new().build_lazy(&lakebase(&local));
        let all_have_one = Barrier::new(WAITING as usize);
        std::thread::scope(|scope| {
            for _ in 0..WAITING {
                scope.spawn(|| {
                    let connection = pool.get().expect("a connection");
                    all_have_one.wait();
                    drop(connection);
                });
            }
        });
        // One more if somebody was served in the moment of ordering: r2d2 does not tell whether it has opened
        // one all the same. Each for all would be ten.
        let logins = local.counters().logins;
        assert!((WAITING..=WAITING + 1).contains(&logins), "{logins}");
    });
}

/// Lets so many connections through.
#[derive(Debug)]
struct Only(AtomicUsize, fn(&mut diesel::PgConnection) -> host::Error);

impl host::CustomizeConnection<diesel::PgConnection, host::Error> for Only {
    fn on_acquire(&self, connection: &mut diesel::PgConnection) -> Result<(), host::Error> {
        let passes = |left: usize| left.checked_sub(1);
        match self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, passes)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(self.1(connection)),
        }
    }
}

fn misspelt(connection: &mut diesel::PgConnection) -> diesel::result::Error {
    let outcome = diesel::sql_query("SELEC 1").execute(connection);
    outcome.expect_err("misspelt")
}

#[test]
fn what_a_customizer_runs_into_is_told_whatever_its_kind() {
    type Fails = fn(&mut diesel::PgConnection) -> host::Error;
    let kinds: [(Fails, &str, bool); 3] = [
        (|c| host::Error::QueryError(misspelt(c)), "SELEC", false),
        (
            |c| host::Error::ConnectionError(CouldntSetupConfiguration(misspelt(c))),
            "SELEC",
            false,
        ),
        (
            |connection| {
                let end = diesel::sql_query("SELECT pg_terminate_backend(pg_backend_pid())");
                host::Error::QueryError(end.execute(connection).expect_err("ended"))
            },
            "terminat",
            true,
        ),
    ];
    for (fails, says, is_transient) in kinds {
        let (_runtime, local) = platform();
        let customizer = Box::new(Only(AtomicUsize::new(0), fails));
        let builder = Builder::new().configure(|inner| inner.connection_customizer(customizer));
        let error = builder.build(&lakebase(&local)).map(drop);
        let error = error.expect_err("not set up");
        let text = error.to_string();
        assert!(text.contains("set up") && text.contains(says), "{text}");
        assert_eq!(error.is_transient(), is_transient, "{text}");
    }
}

#[test]
fn while_old_connections_serve_new_ones_that_cannot_be_set_up_are_no_storm() {
    let (_runtime, local) = platform();
    let fails = |connection: &mut _| host::Error::QueryError(misspelt(connection));
    let customizer = Box::new(Only(AtomicUsize::new(1), fails));
    let builder = Builder::new().configure(|inner| inner.connection_customizer(customizer));
    let pool = builder.build(&lakebase(&local)).expect("a pool");
    let first = pool.get().expect("a connection");
    let error = pool.get().map(drop).expect_err("not set up");
    assert!(error.to_string().contains("SELEC"), "{error}");
    drop(first);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        ask(&mut pool.get().expect("the first"));
    }
    let logins = local.counters().logins;
    assert!(logins <= 3, "{logins}");
}

#[test]
fn a_connection_that_was_closed_is_not_taken_for_one_that_cannot_be_set_up() {
    let (runtime, local) = platform();
    let pool = connect(&lakebase(&local)).expect("a pool");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let log = Arc::new(file.reopen().expect("open"));
    let subscriber = tracing_subscriber::fmt().with_writer(log);
    tracing::subscriber::with_default(subscriber.finish(), || {
        let cut = local.cut_sessions(lakebase_local::Cut::Message);
        runtime.block_on(cut).expect("cut");
        std::thread::sleep(Duration::from_millis(20)); // now it is asked before use
        ask(&mut pool.get().expect("another connection"));
    });
    assert_eq!(local.counters().logins, 2);
    let log = std::fs::read_to_string(file.path()).expect("readable");
    assert!(!log.contains("set up"), "{log}");
}
