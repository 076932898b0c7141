//! Runs migrations of both ORMs, typed inserts and queries on related tables, and then opens new connections while the
//! tokens rotate.
//!
//! If `LAKEBASE_ENDPOINT` or `PGHOST` is set, it uses that Lakebase with tokens of five minutes, which takes a quarter of
//! an hour. Otherwise it starts a local one with tokens of three seconds.

mod report;
mod with_diesel;
mod with_seaorm;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lakebase_examples::{Place, SCHEMA, place};
use report::{Orm, Report};

const LOCAL_TOKENS: Duration = Duration::from_secs(3);
/// The shortest lifetime that the platform mints.
const SHORTEST_TTL: Duration = Duration::from_secs(300);
const ROTATIONS: u64 = 3;
/// Logins per ORM with a native password, without rotation.
const LOGINS_WITHOUT_ROTATION: u64 = 20;
const PAUSE: Duration = Duration::from_millis(100);

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let mut report = Report::default();
    let finished = tokio::select! {
        finished = run(&mut report) => Some(finished),
        _ = tokio::signal::ctrl_c() => None,
    };
    match finished {
        Some(Ok(())) => {
            report.print();
            if report.failures() == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Some(Err(error)) => {
            report::print_error(&*error);
            ExitCode::FAILURE
        }
        None => {
            println!("\nstopped by Ctrl-C; so far:");
            report.print();
            ExitCode::from(130)
        }
    }
}

async fn run(report: &mut Report) -> Result<()> {
    report.step("looking for a Lakebase");
    // A running `lakebase-local` has its own lifetime of tokens.
    let platform = std::env::var("DATABRICKS_HOST").is_ok_and(|host| host.starts_with("https"));
    let place = place(LOCAL_TOKENS, platform.then_some(SHORTEST_TTL)).await?;
    let outcome = work(&place, report).await;
    place.leave().await;
    outcome
}

async fn work(place: &Place, report: &mut Report) -> Result<()> {
    let lakebase = &place.lakebase;
    let began = Instant::now();
    lakebase.credential().await?;
    report.waited(began.elapsed());
    let target = lakebase.target().await?;
    let kind = if place.local.is_some() {
        "a local Lakebase"
    } else {
        "your Lakebase"
    };
    report.place(format!(
        "{kind}, {}:{}/{}",
        target.host(),
        target.port(),
        target.database()
    ));

    report.step("diesel: schema, migrations, inserts and queries");
    let pool = lakebase_diesel::bb8::connect(lakebase).await?;
    report.server(with_diesel::server_version(&pool).await?);
    with_diesel::create_schema(&pool, SCHEMA).await?;
    report.migrations("diesel", with_diesel::migrate(lakebase).await?);
    let order = with_diesel::place_orders(&pool).await?;
    report.found(with_diesel::biggest_customer(&pool).await?);

    report.step("SeaORM: migrations, inserts and queries on the same tables");
    report.migrations("SeaORM", with_seaorm::migrate(lakebase).await?);
    let db = lakebase_seaorm::connect(lakebase).await?;
    with_seaorm::ship(&db, order).await?;
    report.found(with_seaorm::shipped_orders(&db).await?);

    let goal = if lakebase.uses_tokens() { ROTATIONS } else { 0 };
    report.step(&match goal {
        0 => format!("opening {LOGINS_WITHOUT_ROTATION} new connections with both ORMs"),
        _ => format!(
            "opening new connections with both ORMs until {goal} tokens have followed the first"
        ),
    });
    let mut rounds = 0;
    loop {
        let began = Instant::now();
        let generation = lakebase.credential().await?.generation();
        report.waited(began.elapsed());
        let done = report.rotations() >= goal && (goal > 0 || rounds >= LOGINS_WITHOUT_ROTATION);
        if done {
            break;
        }
        report.login(Orm::Diesel, generation, with_diesel::log_in(&pool).await);
        report.login(Orm::SeaOrm, generation, with_seaorm::log_in(&db).await);
        report.progress(goal);
        rounds += 1;
        tokio::time::sleep(PAUSE).await;
    }
    db.close().await?;
    Ok(())
}
