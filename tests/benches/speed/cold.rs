//! Cold handles: the first credential of many tasks, and the first query of a process.

use std::time::Instant;

use lakebase_core::Lakebase;

use crate::Table;
use crate::places::millis;
use crate::platform::{NATIVE, PASSWORD, Platform, Port, SLOW};

const LAST: &str = "the last of them has a credential, ms";
const MINTS: &str = "mints";
const TASKS: [usize; 4] = [1, 10, 100, 1000];
const TOOK: &str = "measured";
const SUM: &str = "sum of its round trips";

pub fn measure(rounds: u32) -> Vec<Table> {
    // A round takes seconds.
    let rounds = rounds.div_ceil(2);
    let mut platform = Platform::with(std::time::Duration::from_secs(3600), SLOW, Port::Free);
    let runtime = crate::runtime(2);
    let mut herd = Table::new("herd", "ms", &[LAST, MINTS]);
    for _ in 0..rounds {
        for tasks in TASKS {
            let lakebase = platform.lakebase(&[]);
            let before = platform.minted();
            let began = Instant::now();
            runtime.block_on(async {
                let one = || {
                    let lakebase = lakebase.clone();
                    tokio::spawn(async move { lakebase.credential().await.map(drop) })
                };
                let all: Vec<_> = (0..tasks).map(|_| one()).collect();
                for task in all {
                    task.await.expect("no panic").expect("a credential");
                }
            });
            herd.add(&row(tasks), LAST, millis(began.elapsed()));
            let minted = platform.minted() - before;
            herd.add(&row(tasks), MINTS, minted as f64);
        }
    }
    for tasks in &TASKS[1..] {
        let name = format!("{tasks} tasks / 1 task");
        herd.quotient(&name, (&row(*tasks), LAST), (&row(1), LAST), Some(1.2));
    }
    let mints = TASKS
        .iter()
        .map(|tasks| crate::figures::at(herd.figures(&row(*tasks), MINTS), 1.0));
    let most = mints.fold(0.0, f64::max);
    herd.fact("most mints of a cold handle", most, Some(1.0));
    vec![herd, first_query(&platform, rounds)]
}

fn row(tasks: usize) -> String {
    format!("{tasks} task{}", if tasks == 1 { "" } else { "s" })
}

fn first_query(platform: &Platform, rounds: u32) -> Table {
    let vars = |name: &str| platform.vars[name].as_str();
    let native = [
        ("PGUSER", NATIVE),
        ("PGPASSWORD", PASSWORD),
        ("LAKEBASE_ENDPOINT", ""),
    ];
    let access_token = vec![
        ("DATABRICKS_CLIENT_ID", ""),
        ("DATABRICKS_CLIENT_SECRET", ""),
        ("DATABRICKS_TOKEN", vars("USER_TOKEN")),
        ("PGUSER", vars("USER_NAME")),
    ];
    let bare = [("PGHOST", ""), ("PGUSER", "")];
    let bare_token = [&access_token[..], &bare].concat();
    // With the number of requests that depend on each other.
    let rows = [
        ("access token, all set", 1, access_token),
        ("access token, endpoint only", 1, bare_token),
        ("service principal, all set", 3, Vec::new()),
        ("service principal, endpoint only", 3, bare.to_vec()),
    ];
    let runtime = crate::runtime(2);
    let first = |changes: &[(&str, &str)]| {
        let lakebase: Lakebase = platform.lakebase(changes);
        runtime.block_on(async {
            let began = Instant::now();
            let (client, connection) = lakebase.connect().await.expect("a login");
            let session = tokio::spawn(connection);
            client.simple_query("SELECT 1").await.expect("an answer");
            let took = began.elapsed();
            drop(client);
            session.await.expect("no panic").expect("a clean end");
            millis(took)
        })
    };
    let mut table = Table::new("cold", "ms", &[TOOK, SUM]);
    for _ in 0..rounds {
        for (name, calls, changes) in &rows {
            let query = first(&native);
            table.add(name, SUM, f64::from(*calls) * millis(SLOW) + query);
            table.add(name, TOOK, first(changes));
        }
    }
    for (name, ..) in &rows {
        table.quotient(name, (name, TOOK), (name, SUM), Some(1.1));
    }
    table
}
