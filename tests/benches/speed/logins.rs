//! A new connection with a cached token.

use std::time::Instant;

use diesel::PgConnection;
use diesel::r2d2::{ConnectionManager, ManageConnection as _};
use lakebase_tests::forget_idle;
use sea_orm::DatabaseConnection;

use crate::Table;
use crate::places::{Drivers, NETWORKS, World, ask_seaorm, blocking, millis};

const OURS: &str = "with these crates";
const STATIC: &str = "static password";
/// Each row with the goal of its quotient.
const ROWS: [(&str, f64); 4] = [
    ("tokio-postgres", 1.02),
    ("diesel-async", 1.02),
    ("r2d2 (libpq)", 1.02),
    ("SeaORM", 0.15),
];

struct Place<'a> {
    drivers: &'a Drivers,
    proxy: lakebase_core::proxy::Proxy,
    seaorm: DatabaseConnection,
    default_seaorm: DatabaseConnection,
}

pub fn measure(rounds: u32) -> Vec<Table> {
    crate::runtime(2).block_on(async {
        let world = World::start().await;
        let mut places = Vec::new();
        for drivers in &world.drivers {
            places.push(Place {
                drivers,
                proxy: drivers.lakebase.proxy().await.expect("a proxy"),
                seaorm: drivers.seaorm(1).await,
                default_seaorm: drivers.default_seaorm().await,
            });
        }
        let mut table = Table::new("logins", "ms", &[OURS, STATIC]);
        // The first logins fill caches.
        let mut warm_up = Table::new("logins", "ms", &[OURS, STATIC]);
        for (place, network) in places.iter().zip(NETWORKS) {
            place.slice(&mut warm_up, network, false).await;
        }
        for round in 0..rounds {
            for (place, network) in places.iter().zip(NETWORKS) {
                // The order alternates, because the second variant finds warmer caches.
                place.slice(&mut table, network, round % 2 == 1).await;
            }
        }
        for network in NETWORKS {
            for (name, goal) in ROWS {
                let row = row(name, network);
                // sqlx loses a constant time at a login, so the goal is for loopback only.
                let is_stated = name != "SeaORM" || network == NETWORKS[0];
                let goal = is_stated.then_some(goal);
                table.quotient(&row, (&row, OURS), (&row, STATIC), goal);
            }
        }
        vec![table]
    })
}

fn row(name: &str, network: &str) -> String {
    format!("{name}, {network}")
}

impl Place<'_> {
    async fn slice(&self, table: &mut Table, network: &str, is_swapped: bool) {
        const EACH: usize = 4;
        let order = if is_swapped {
            [STATIC, OURS]
        } else {
            [OURS, STATIC]
        };
        for (name, _) in ROWS {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..EACH {
                for variant in order {
                    let took = self.log_in(name, variant).await;
                    times[usize::from(variant == STATIC)].push(took);
                }
            }
            for (variant, times) in [OURS, STATIC].into_iter().zip(times) {
                table.add(
                    &row(name, network),
                    variant,
                    crate::figures::at(&times, 0.5),
                );
            }
        }
    }

    async fn log_in(&self, name: &str, variant: &str) -> f64 {
        let (drivers, is_ours) = (self.drivers, variant == OURS);
        match name {
            "tokio-postgres" => {
                let began = Instant::now();
                if is_ours {
                    let session = drivers.lakebase.connect().await.expect("a login");
                    let took = began.elapsed();
                    drop(session);
                    return millis(took);
                }
                let session = drivers.tokio_postgres.connect(drivers.tls.clone()).await;
                let took = began.elapsed();
                drop(session.expect("a login"));
                millis(took)
            }
            "diesel-async" => {
                let began = Instant::now();
                let connection = match is_ours {
                    true => lakebase_diesel::connect(&drivers.lakebase)
                        .await
                        .expect("a login"),
                    false => drivers.diesel().await,
                };
                let took = began.elapsed();
                drop(connection);
                millis(took)
            }
            "SeaORM" => {
                let db = if is_ours {
                    &self.seaorm
                } else {
                    &self.default_seaorm
                };
                forget_idle(db).await;
                let began = Instant::now();
                ask_seaorm(db).await;
                millis(began.elapsed())
            }
            _ => {
                // As the pool opens a connection.
                let url = if is_ours {
                    self.proxy.url()
                } else {
                    &drivers.libpq
                };
                let manager = ConnectionManager::<PgConnection>::new(url);
                blocking(move || {
                    let began = Instant::now();
                    let connection = manager.connect().expect("a login");
                    let took = began.elapsed();
                    drop(connection);
                    millis(took)
                })
                .await
            }
        }
    }
}
