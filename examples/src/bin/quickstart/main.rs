//! Runs migrations of both ORMs, inserts and queries on related tables, and then opens new connections while the tokens
//! rotate.
//!
//! If `LAKEBASE_ENDPOINT` or `PGHOST` is set, it uses that Lakebase with tokens of five minutes, which takes a quarter of
//! an hour. Otherwise it starts a local one with tokens of three seconds.

mod with_diesel;
mod with_seaorm;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lakebase_examples::{Example, Result, SCHEMA};

const LOCAL_TOKENS: Duration = Duration::from_secs(3);
/// The shortest lifetime that the platform mints.
const SHORTEST_TTL: Duration = Duration::from_secs(300);
const ROTATIONS: usize = 3;
/// Connections per ORM with a native password, which does not rotate.
const WITHOUT_ROTATION: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<()> {
    // A running `lakebase-local` has its own lifetime of tokens.
    let platform = std::env::var("DATABRICKS_HOST").is_ok_and(|host| host.starts_with("https"));
    let ttl = platform.then_some(SHORTEST_TTL);
    let example = Example::start_with(SCHEMA, LOCAL_TOKENS, ttl).await?;
    let lakebase = &example.lakebase;
    let began = Instant::now();
    lakebase.credential().await?;
    println!("the first credential took {:.1?}", began.elapsed());

    println!("\ndiesel: migrations, inserts and queries");
    let pool = lakebase_diesel::bb8::connect(lakebase).await?;
    let version = with_diesel::server_version(&pool).await?;
    println!("  {}, PostgreSQL {version}", lakebase.target().await?);
    with_diesel::create_schema(&pool, SCHEMA).await?;
    let migrations = with_diesel::migrate(lakebase).await?;
    println!("  ran {migrations} migrations");
    let order = with_diesel::place_orders(&pool).await?;
    println!("  {}", with_diesel::biggest_customer(&pool).await?);

    println!("\nSeaORM: migrations, inserts and queries on the same tables");
    let migrations = with_seaorm::migrate(lakebase).await?;
    println!("  ran {migrations} migrations");
    let db = lakebase_seaorm::connect(lakebase).await?;
    with_seaorm::ship(&db, order).await?;
    println!("  {}", with_seaorm::shipped_orders(&db).await?);

    match lakebase.uses_tokens() {
        true => println!(
            "\nnew connections of both ORMs, until {ROTATIONS} tokens have followed the first"
        ),
        false => println!("\n{WITHOUT_ROTATION} new connections of both ORMs"),
    }
    let mut connections: BTreeMap<u64, u32> = BTreeMap::new();
    let mut longest_wait = Duration::ZERO;
    loop {
        let began = Instant::now();
        let token = lakebase.credential().await?.generation();
        longest_wait = longest_wait.max(began.elapsed());
        let is_done = match lakebase.uses_tokens() {
            true => connections.len() > ROTATIONS,
            false => connections.values().sum::<u32>() >= WITHOUT_ROTATION,
        };
        if is_done {
            break;
        }
        with_diesel::log_in(&pool).await?;
        with_seaorm::log_in(&db).await?;
        *connections.entry(token).or_default() += 1;
        tokio::time::sleep(PAUSE).await;
    }
    for (token, count) in connections {
        println!("  token {token}: {count} of each");
    }
    println!("  the longest wait for a later credential: {longest_wait:.1?}");

    db.close().await?;
    example.stop().await;
    Ok(())
}
