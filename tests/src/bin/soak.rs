//! Forty busy connections of each ORM during random faults, with tokens of three seconds. Ends with a report.
//!
//! `soak [--seconds N] [--seed N]`: 60 s by default. The exit status is 1 if an error has no explanation: it is not transient,
//! or no fault was active. Failures while the machine was too slow for such short tokens are counted separately.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel_async::RunQueryDsl as _;
use lakebase_core::{Config, Lakebase};
use lakebase_local::{Call, Cut, Fault, LocalLakebase, Wake};
use sea_orm::ConnectionTrait as _;

const BUSY: u32 = 40;
const TOKEN_LIFETIME: Duration = Duration::from_secs(3);
/// Short, so that every token is used for logins.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(2);
/// A fault can have effects for this time after its end.
const GRACE: Duration = Duration::from_secs(3);
/// A login is several turns of a task. If they take longer than the margin before the expiry, the token may have expired.
const TURNS: usize = 10;
const TOO_SLOW: Duration = Duration::from_millis(300);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Default)]
struct Tally {
    statements: BTreeMap<&'static str, u64>,
    explained: BTreeMap<String, u64>,
    /// Failures without an explanation: begin, end and text.
    unexplained: Vec<(Instant, Instant, String)>,
    faults: BTreeMap<&'static str, u64>,
    /// The active fault, and the end of the effects of the last one.
    fault: Option<&'static str>,
    felt_until: Option<Instant>,
    /// Times when the machine was too slow.
    slow: Vec<(Instant, Instant)>,
}

#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Tally>>);

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worked(&self, orm: &'static str) {
        *self.lock().statements.entry(orm).or_default() += 1;
    }

    /// `since` is the start of the statement, or of the wait for its connection.
    fn failed(&self, orm: &str, is_transient: bool, since: Instant, text: String) {
        let mut tally = self.lock();
        let was_felt = tally.felt_until.is_some_and(|until| until >= since);
        if is_transient && (tally.fault.is_some() || was_felt) {
            let what = format!(
                "{orm} during {}",
                tally.fault.unwrap_or("the time after a fault")
            );
            *tally.explained.entry(what).or_default() += 1;
        } else {
            let text = format!(
                "{orm}: {text} (fault: {:?}, transient: {is_transient})",
                tally.fault
            );
            tally.unexplained.push((since, Instant::now(), text));
        }
    }

    fn begin(&self, fault: &'static str) {
        let mut tally = self.lock();
        *tally.faults.entry(fault).or_default() += 1;
        tally.fault = Some(fault);
    }

    fn end(&self) {
        let mut tally = self.lock();
        tally.fault = None;
        tally.felt_until = Some(Instant::now() + GRACE);
    }
}

async fn with_diesel(pool: lakebase_diesel::bb8::Pool, ledger: Ledger, mut random: Random) {
    let sql = "INSERT INTO soak (orm) VALUES ('diesel')";
    loop {
        let since = Instant::now();
        match pool.get().await {
            Ok(mut connection) => match diesel::sql_query(sql).execute(&mut connection).await {
                Ok(_) => ledger.worked("diesel"),
                Err(error) => {
                    let transient = lakebase_diesel::is_transient(&error);
                    ledger.failed("diesel", transient, since, error.to_string());
                }
            },
            Err(error) => {
                let transient = lakebase_diesel::is_transient(&error);
                ledger.failed("diesel", transient, since, error.to_string());
            }
        }
        tokio::time::sleep(random.millis(5, 100)).await;
    }
}

async fn with_seaorm(db: sea_orm::DatabaseConnection, ledger: Ledger, mut random: Random) {
    loop {
        let since = Instant::now();
        let outcome = db
            .execute_unprepared("INSERT INTO soak (orm) VALUES ('seaorm')")
            .await;
        match outcome {
            Ok(_) => ledger.worked("seaorm"),
            Err(error) => {
                let transient = lakebase_seaorm::is_transient(&error);
                ledger.failed("seaorm", transient, since, error.to_string());
            }
        }
        tokio::time::sleep(random.millis(5, 100)).await;
    }
}

/// Measures how long tasks wait for their turns.
async fn measure_turns(ledger: Ledger) {
    loop {
        let began = Instant::now();
        tokio::time::sleep(Duration::from_millis(20)).await;
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        if began.elapsed() > TOO_SLOW {
            ledger.lock().slow.push((began, Instant::now() + GRACE));
        }
    }
}

/// Causes one fault, and waits.
async fn disturb(local: &LocalLakebase, ledger: &Ledger, random: &mut Random) -> Outcome<()> {
    let cut = [Cut::Message, Cut::Close, Cut::Reset][random.below(3)];
    let length = random.millis(300, 4_000);
    match random.below(9) {
        0 => {
            ledger.begin("API down");
            local.set_api_down(true);
            tokio::time::sleep(length).await;
            local.set_api_down(false);
        }
        1 => {
            ledger.begin("API slow");
            local.fail(Call::Credential, Fault::Slow(Duration::from_millis(800)));
            tokio::time::sleep(length).await;
            local.heal(Call::Credential);
        }
        2 => {
            ledger.begin("API failing");
            local.fail(
                Call::Credential,
                Fault::status(503, "TEMPORARILY_UNAVAILABLE", "later"),
            );
            tokio::time::sleep(length).await;
            local.heal(Call::Credential);
        }
        3 => {
            ledger.begin("rate limit");
            local.fail_times(Call::Credential, 2, Fault::rate_limited("1"));
            tokio::time::sleep(length).await;
        }
        4 => {
            ledger.begin("tokens revoked");
            local.revoke_tokens();
        }
        5 => {
            ledger.begin("workspace tokens expired");
            local.expire_workspace_tokens();
        }
        6 => {
            ledger.begin("sessions cut");
            local.cut_sessions(cut).await?;
        }
        7 => {
            ledger.begin("compute suspended");
            let wake = [Wake::SlowAccept, Wake::StartingUp, Wake::Close][random.below(3)];
            local.suspend(cut, random.millis(100, 1_000), wake).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        _ => {
            ledger.begin("restart and revocation at once");
            local.revoke_tokens();
            local.cut_sessions(cut).await?;
        }
    }
    ledger.end();
    tokio::time::sleep(random.millis(500, 4_000)).await;
    Ok(())
}

/// A generator whose seed repeats the same faults.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> usize {
        (self.next() % end) as usize
    }

    fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.next() % (high - low))
    }
}

fn argument(name: &str, default: u64) -> Outcome<u64> {
    let arguments: Vec<String> = std::env::args().collect();
    let Some(at) = arguments.iter().position(|argument| argument == name) else {
        return Ok(default);
    };
    let value = arguments
        .get(at + 1)
        .ok_or(format!("{name} needs a number"))?;
    Ok(value
        .parse()
        .map_err(|_| format!("{name}: {value:?} is not a number"))?)
}

async fn soak() -> Outcome<bool> {
    let length = Duration::from_secs(argument("--seconds", 60)?);
    let seed = argument("--seed", u64::from(std::process::id()))?;
    let mut random = Random(seed);
    println!("soak: {} s, seed {seed}", length.as_secs());
    let local = LocalLakebase::builder()
        .token_lifetime(TOKEN_LIFETIME)
        .start()
        .await?;
    let owner = local.client_id();
    let table = format!("CREATE TABLE soak (orm text NOT NULL); GRANT ALL ON soak TO \"{owner}\"");
    local.sql(&table).await?;
    let lakebase = Lakebase::new(Config::from_vars(local.env())?)?;
    let pool = lakebase_diesel::bb8::Builder::new()
        .max_size(BUSY)
        .configure(|inner| inner.max_lifetime(CONNECTION_LIFETIME))
        .configure(|inner| inner.reaper_rate(Duration::from_millis(500)))
        .build(&lakebase)
        .await?;
    let mut options = lakebase_seaorm::options();
    options
        .max_connections(BUSY)
        .max_lifetime(CONNECTION_LIFETIME);
    let db = lakebase_seaorm::connect_with(&lakebase, options).await?;

    let ledger = Ledger::default();
    let began = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..BUSY {
        let own = Random(random.next());
        tasks.push(tokio::spawn(with_diesel(pool.clone(), ledger.clone(), own)));
        let own = Random(random.next());
        tasks.push(tokio::spawn(with_seaorm(db.clone(), ledger.clone(), own)));
    }
    tasks.push(tokio::spawn(measure_turns(ledger.clone())));
    let progress = tokio::spawn(show(ledger.clone(), began));
    while began.elapsed() < length {
        disturb(&local, &ledger, &mut random).await?;
    }
    // Both ORMs must work after the last fault.
    let before = ledger.lock().statements.clone();
    let recovered = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let now = ledger.lock().statements.clone();
            let more = |orm| now.get(orm) > before.get(orm);
            if more("diesel") && more("seaorm") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let recovered = recovered.await.is_ok();
    progress.abort();
    for task in &tasks {
        task.abort();
    }
    let is_good = report(&ledger, &local, began.elapsed()) && recovered;
    if !recovered {
        println!("  NOT RECOVERED after the last fault");
    }
    println!("  verdict      {}", if is_good { "good" } else { "BAD" });
    drop(pool);
    drop(db);
    local.stop().await;
    Ok(is_good)
}

async fn show(ledger: Ledger, began: Instant) {
    let is_terminal = std::io::stderr().is_terminal();
    let mut every = tokio::time::interval(Duration::from_secs(if is_terminal { 1 } else { 10 }));
    loop {
        every.tick().await;
        let tally = ledger.lock();
        let statements: u64 = tally.statements.values().sum();
        let explained: u64 = tally.explained.values().sum();
        eprintln!(
            "{:>5} s  {statements:>8} statements  {explained:>5} explained  {:>3} unexplained  {}",
            began.elapsed().as_secs(),
            tally.unexplained.len(),
            tally.fault.unwrap_or("no fault"),
        );
    }
}

fn report(ledger: &Ledger, local: &LocalLakebase, length: Duration) -> bool {
    let tally = ledger.lock();
    let counters = local.counters();
    println!("after {:.0} s:", length.as_secs_f64());
    for (orm, count) in &tally.statements {
        println!("  {orm:<12} {count} statements");
    }
    println!(
        "  logins       {} accepted, {} refused; {} mints",
        counters.logins, counters.refused, counters.minted
    );
    for (fault, times) in &tally.faults {
        println!("  fault        {times} x {fault}");
    }
    for (what, count) in &tally.explained {
        println!("  explained    {count} x {what}");
    }
    // The machine is known to be slow only after the failure.
    let (slow, unexplained): (Vec<_>, Vec<_>) = tally.unexplained.iter().partition(|failure| {
        let (since, at, _) = failure;
        tally
            .slow
            .iter()
            .any(|(from, to)| from <= at && since <= to)
    });
    println!("  too slow     {} x the machine", slow.len());
    println!("  unexplained  {}", unexplained.len());
    for (_, _, text) in unexplained.iter().take(10) {
        println!("    {text}");
    }
    unexplained.is_empty()
}

#[tokio::main]
async fn main() -> ExitCode {
    match soak().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}
