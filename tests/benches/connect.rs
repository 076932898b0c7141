//! What a login and a statement cost: through SeaORM, plain sqlx and diesel-async, on loopback and with 1 ms of
//! delay each way.
//!
//! `cargo bench -p lakebase-tests --bench connect [-- --rounds N]`
//!
//! The platform and the delaying network run in processes of their own, so that the CPU time is the client's alone. All
//! variants take turns in small slices within one run; medians are printed. The table is in BENCHMARKS.md.

#![allow(clippy::print_stdout, clippy::expect_used, clippy::disallowed_methods)] // a program that measures and reports

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use diesel::IntoSql as _;
use diesel_async::RunQueryDsl as _;
use lakebase_core::{Config, Lakebase};
use lakebase_local::LocalLakebase;
use lakebase_tests::all_idle;
use nix::sys::resource::{UsageWho, getrusage};
use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _};

const CONNECTIONS: u32 = 8;
const TASKS: usize = 16;
const ONE_WAY: Duration = Duration::from_millis(1);
const NATIVE: &str = "native";
const PASSWORD: &str = "a-password";

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("serve") => serve(),
        Some("delay") => delay(&arguments.next().expect("an address")),
        Some("--rounds") => bench(
            arguments
                .next()
                .and_then(|n| n.parse().ok())
                .expect("rounds"),
        ),
        _ => bench(20),
    }
}

// The platform.

fn serve() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let local = LocalLakebase::start().await.expect("a platform");
        local
            .create_native_role(NATIVE, PASSWORD)
            .await
            .expect("a role");
        let table = "CREATE SCHEMA bench; GRANT ALL ON SCHEMA bench TO PUBLIC; \
             CREATE TABLE bench.bulk (id int, text text); GRANT ALL ON bench.bulk TO PUBLIC";
        local.sql(table).await.expect("a table");
        for (name, value) in local.env() {
            println!("{name}={value}");
        }
        println!();
        // Until the bench is over.
        let waiting = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let _ = waiting.await;
        local.stop().await;
    });
}

// The network. Threads, because timers of tokio count in milliseconds.

fn delay(to: &str) {
    let to: SocketAddr = to.parse().expect("an address");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address").port());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(to).expect("the platform");
            let pairs = [
                (client.try_clone(), server.try_clone(), ONE_WAY * 3),
                (server.try_clone(), client.try_clone(), ONE_WAY),
            ];
            for (from, to, first) in pairs {
                let (from, to) = (from.expect("a socket"), to.expect("a socket"));
                to.set_nodelay(true).expect("set");
                carry(from, to, first);
            }
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// The first bytes take longer: a connection that is opened costs a round trip.
fn carry(mut from: TcpStream, mut to: TcpStream, first: Duration) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut takes = first;
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let bytes = buffer[..read].to_vec();
            if sender.send((Instant::now() + takes, bytes)).is_err() {
                break;
            }
            takes = ONE_WAY;
        }
    });
    std::thread::spawn(move || {
        for (at, bytes) in receiver {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

/// Another role of this program.
struct Other {
    child: Child,
    lines: Vec<String>,
}

impl Other {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let output = child.stdout.take().expect("output");
        let mut lines = Vec::new();
        for line in BufReader::new(output).lines() {
            let line = line.expect("text");
            if line.is_empty() {
                break;
            }
            lines.push(line);
            if arguments[0] == "delay" {
                break;
            }
        }
        Self { child, lines }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

// What is compared.

struct Place {
    lakebase: Lakebase,
    seaorm: DatabaseConnection,
    sqlx: DatabaseConnection,
    unchecked: DatabaseConnection,
    diesel: lakebase_diesel::bb8::Pool,
    direct: PgConnectOptions,
}

impl Place {
    async fn at(vars: &BTreeMap<String, String>, port: &str) -> Self {
        let mut vars = vars.clone();
        vars.insert("PGPORT".to_owned(), port.to_owned());
        let config = Config::from_vars(vars.clone()).expect("a configuration");
        let lakebase = Lakebase::new(config).expect("a handle");
        let direct = PgConnectOptions::new_without_pgpass()
            .host("localhost")
            .port(port.parse().expect("a port"))
            .username(NATIVE)
            .password(PASSWORD)
            .database("databricks_postgres")
            .ssl_mode(PgSslMode::VerifyFull)
            .ssl_root_cert(&vars["PGSSLROOTCERT"])
            .disable_statement_logging();
        let pool = |is_checked: bool| {
            PgPoolOptions::new()
                .max_connections(CONNECTIONS)
                .test_before_acquire(is_checked)
                .connect_with(direct.clone())
        };
        let mut options = lakebase_seaorm::options();
        options.max_connections(CONNECTIONS).sqlx_logging(false);
        let place = Self {
            seaorm: lakebase_seaorm::connect_with(&lakebase, options)
                .await
                .expect("connected"),
            sqlx: pool(true).await.expect("connected").into(),
            unchecked: pool(false).await.expect("connected").into(),
            diesel: lakebase_diesel::bb8::Builder::new()
                .max_size(CONNECTIONS)
                .build(&lakebase)
                .await
                .expect("connected"),
            lakebase,
            direct,
        };
        place.open_all().await;
        place
    }

    /// All connections of the pools are open before anything is measured.
    async fn open_all(&self) {
        for db in [&self.seaorm, &self.sqlx, &self.unchecked] {
            let sleeping = (0..CONNECTIONS).map(|_| db.execute_unprepared("SELECT pg_sleep(0.2)"));
            for done in futures_util::future::join_all(sleeping).await {
                done.expect("an answer");
            }
            all_idle(db).await;
        }
        let sleeping = (0..CONNECTIONS).map(|_| async {
            let mut connection = self.diesel.get().await.expect("a connection");
            diesel::sql_query("SELECT pg_sleep(0.2)")
                .execute(&mut connection)
                .await
                .expect("an answer");
        });
        futures_util::future::join_all(sleeping).await;
    }
}

async fn ask(db: &DatabaseConnection) {
    let one = sea_orm::Statement::from_string(db.get_database_backend(), "SELECT 1");
    db.query_one_raw(one).await.expect("an answer");
}

async fn ask_diesel(pool: &lakebase_diesel::bb8::Pool) {
    let mut connection = pool.get().await.expect("a connection");
    // Prepared once, as the others do.
    diesel::select(1.into_sql::<diesel::sql_types::Integer>())
        .execute(&mut connection)
        .await
        .expect("an answer");
}

/// Figures by measure and variant.
#[derive(Default)]
struct Figures(BTreeMap<(&'static str, &'static str), Vec<f64>>);

impl Figures {
    fn add(&mut self, measure: &'static str, variant: &'static str, figure: f64) {
        self.0.entry((measure, variant)).or_default().push(figure);
    }

    fn median(&self, measure: &'static str, variant: &'static str) -> f64 {
        let mut all = self.0[&(measure, variant)].clone();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    }
}

/// Milliseconds.
async fn timed<T>(work: impl Future<Output = T>) -> f64 {
    let began = Instant::now();
    work.await;
    began.elapsed().as_secs_f64() * 1000.0
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
    let of = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000)
    };
    of(usage.user_time()) + of(usage.system_time())
}

async fn logins(place: &Place, figures: &mut Figures) {
    let new = timed(async {
        let mut connection = place.direct.connect().await.expect("a login");
        let asked = sqlx::raw_sql("SELECT 1").execute(&mut connection);
        asked.await.expect("an answer");
    });
    figures.add("login ms", "sqlx", new.await);
    let idle = place.seaorm.get_postgres_connection_pool().acquire().await;
    idle.expect("a connection")
        .detach()
        .close()
        .await
        .expect("closed");
    // The pool is one short now; whatever is idle is taken, so that the next statement has to log in.
    let pool = place.seaorm.get_postgres_connection_pool();
    let held: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
    figures.add("login ms", "seaorm", timed(ask(&place.seaorm)).await);
    drop(held);
    let new = timed(async {
        let mut connection = lakebase_diesel::connect(&place.lakebase)
            .await
            .expect("a login");
        diesel::sql_query("SELECT 1")
            .execute(&mut connection)
            .await
            .expect("an answer");
    });
    figures.add("login ms", "diesel-async", new.await);
    all_idle(&place.seaorm).await;
}

async fn latency(place: &Place, figures: &mut Figures, statements: u32) {
    for (variant, db) in variants(place) {
        let before = cpu();
        for _ in 0..statements {
            let took = timed(ask(db)).await;
            figures.add("SELECT 1 ms", variant, took);
        }
        let used = (cpu() - before).as_secs_f64() * 1e6 / f64::from(statements);
        figures.add("CPU us/statement", variant, used);
    }
    let before = cpu();
    for _ in 0..statements {
        let took = timed(ask_diesel(&place.diesel)).await;
        figures.add("SELECT 1 ms", "diesel-async", took);
    }
    let used = (cpu() - before).as_secs_f64() * 1e6 / f64::from(statements);
    figures.add("CPU us/statement", "diesel-async", used);
}

fn variants(place: &Place) -> [(&'static str, &DatabaseConnection); 3] {
    [
        ("seaorm", &place.seaorm),
        ("sqlx", &place.sqlx),
        ("sqlx, no checks", &place.unchecked),
    ]
}

async fn throughput(place: &Place, figures: &mut Figures) {
    const SLICE: Duration = Duration::from_millis(400);
    async fn count<F: Future<Output = ()>>(ask: impl Fn() -> F) -> f64 {
        let began = Instant::now();
        let tasks = (0..TASKS).map(|_| async {
            let mut done = 0_u32;
            while began.elapsed() < SLICE {
                ask().await;
                done += 1;
            }
            done
        });
        let done: u32 = futures_util::future::join_all(tasks).await.iter().sum();
        f64::from(done) / began.elapsed().as_secs_f64()
    }
    for (variant, db) in variants(place) {
        let per_second = count(|| ask(db)).await;
        figures.add("statements/s", variant, per_second);
    }
    let per_second = count(|| ask_diesel(&place.diesel)).await;
    figures.add("statements/s", "diesel-async", per_second);
}

async fn bulk(place: &Place, figures: &mut Figures) {
    let select = "SELECT n, repeat('x', 200) FROM generate_series(1, 10000) n";
    let insert = "INSERT INTO bench.bulk SELECT n, repeat('x', 50) FROM unnest($1::int4[]) n";
    let numbers: Vec<i32> = (0..10_000).collect();
    let lines: String = numbers
        .iter()
        .map(|n| format!("{n}\tsome text\n"))
        .collect();
    for (variant, db) in [("seaorm", &place.seaorm), ("sqlx", &place.sqlx)] {
        let pool: &PgPool = db.get_postgres_connection_pool();
        let all = sqlx::query(select).fetch_all(pool);
        figures.add(
            "select 10,000 ms",
            variant,
            timed(async { all.await.expect("rows") }).await,
        );
        let all = sqlx::query(insert).bind(&numbers).execute(pool);
        figures.add(
            "insert 10,000 ms",
            variant,
            timed(async { all.await.expect("done") }).await,
        );
        let copy = timed(async {
            let mut connection = pool.acquire().await.expect("a connection");
            let mut sink = connection
                .copy_in_raw("COPY bench.bulk FROM STDIN")
                .await
                .expect("begun");
            sink.send(lines.as_bytes()).await.expect("sent");
            sink.finish().await.expect("done");
        });
        figures.add("copy 10,000 ms", variant, copy.await);
    }
}

fn bench(rounds: u32) {
    let platform = Other::start(&["serve"]);
    let vars: BTreeMap<String, String> = platform
        .lines
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let port = vars["PGPORT"].clone();
    let network = Other::start(&["delay", &format!("127.0.0.1:{port}")]);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let near = Place::at(&vars, &port).await;
        let far = Place::at(&vars, &network.lines[0]).await;
        let (mut here, mut there) = (Figures::default(), Figures::default());
        for round in 0..rounds {
            for (place, figures, statements) in [(&near, &mut here, 100), (&far, &mut there, 25)] {
                logins(place, figures).await;
                latency(place, figures, statements).await;
                throughput(place, figures).await;
                bulk(place, figures).await;
            }
            eprint_progress(round, rounds);
        }
        for (name, figures) in [("loopback", &here), ("1 ms each way", &there)] {
            report(name, figures);
        }
    });
}

#[allow(clippy::print_stderr)]
fn eprint_progress(round: u32, rounds: u32) {
    eprint!("\r{} of {rounds} ", round + 1);
}

fn report(name: &str, figures: &Figures) {
    const VARIANTS: [&str; 4] = ["seaorm", "sqlx", "sqlx, no checks", "diesel-async"];
    println!("\n| {name} | {} |", VARIANTS.join(" | "));
    println!("|---|{}", "---|".repeat(VARIANTS.len()));
    let mut measures: Vec<&'static str> = figures.0.keys().map(|(measure, _)| *measure).collect();
    measures.dedup();
    for measure in measures {
        let cells = VARIANTS.map(
            |variant| match figures.0.contains_key(&(measure, variant)) {
                true => format!("{:.3}", figures.median(measure, variant)),
                false => String::new(),
            },
        );
        println!("| {measure} | {} |", cells.join(" | "));
    }
    let ratio = |measure, a, b| figures.median(measure, a) / figures.median(measure, b);
    println!();
    for (measure, a, b) in [
        ("login ms", "seaorm", "diesel-async"),
        ("SELECT 1 ms", "seaorm", "sqlx"),
        ("SELECT 1 ms", "seaorm", "sqlx, no checks"),
        ("statements/s", "seaorm", "sqlx"),
        ("select 10,000 ms", "seaorm", "sqlx"),
        ("insert 10,000 ms", "seaorm", "sqlx"),
        ("copy 10,000 ms", "seaorm", "sqlx"),
    ] {
        println!("{measure}: {a} / {b} = {:.2}", ratio(measure, a, b));
    }
}
