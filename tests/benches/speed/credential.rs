//! Reads of the cached credential, compared with a lock and with a general cache.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lakebase_core::{Config, Credential, CredentialProvider, Error, Lakebase};
use tokio::sync::RwLock;

use crate::Table;

const READS: u32 = 200_000;
const THREADS: [usize; 3] = [1, 2, 4];
const OURS: &str = "`Lakebase::credential`";
const LOCK: &str = "`tokio::sync::RwLock`";
const MOKA: &str = "moka";
const GOAL_NS: f64 = 30.0;

#[derive(Debug)]
struct Provider;

impl CredentialProvider for Provider {
    async fn credential(&self) -> Result<Credential, Error> {
        // The length of a real token.
        let end = SystemTime::now() + Duration::from_secs(3600);
        Ok(Credential::new("x".repeat(900), end))
    }
}

pub fn measure(rounds: u32) -> Vec<Table> {
    let config = Config::builder()
        .host("db.example.com")
        .user("app")
        .credential_provider(Provider)
        .build();
    let lakebase = Lakebase::new(config.expect("a configuration")).expect("a handle");
    let first = crate::runtime(1);
    let credential = first.block_on(lakebase.credential()).expect("a credential");
    let lock = Arc::new(RwLock::new(credential.clone()));
    let cache = moka::sync::Cache::new(1);
    cache.insert((), credential);
    let mut table = Table::new("credential", "ns", &[OURS, LOCK, MOKA]);
    for _ in 0..rounds {
        for threads in THREADS {
            let row = row(threads);
            let ours = read(threads, || async {
                lakebase.credential().await.expect("a credential")
            });
            table.add(&row, OURS, ours);
            table.add(
                &row,
                LOCK,
                read(threads, || async { lock.read().await.clone() }),
            );
            let moka = read(threads, || async { cache.get(&()).expect("a credential") });
            table.add(&row, MOKA, moka);
        }
    }
    for threads in THREADS {
        let row = row(threads);
        for other in [LOCK, MOKA] {
            table.quotient(
                &format!("{row}: ours / {other}"),
                (&row, OURS),
                (&row, other),
                None,
            );
        }
    }
    let read = crate::figures::at(table.figures(&row(1), OURS), 0.5);
    table.fact("one thread, ns", read, Some(GOAL_NS));
    vec![table]
}

fn row(threads: usize) -> String {
    format!("{threads} thread{}", if threads == 1 { "" } else { "s" })
}

/// Returns nanoseconds for each read while all threads read.
fn read<F: Future<Output = Credential>>(threads: usize, read: impl Fn() -> F + Sync) -> f64 {
    let barrier = std::sync::Barrier::new(threads);
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async {
            // The first read of a thread takes longer.
            black_box(read().await);
            barrier.wait();
            let began = Instant::now();
            for _ in 0..READS {
                black_box(read().await);
            }
            began.elapsed().as_secs_f64() * 1e9 / f64::from(READS)
        })
    };
    let times: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let times = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        times.collect()
    });
    times.iter().sum::<f64>() / times.len() as f64
}
