//! A checkout from a pool with one statement.

use std::time::Instant;

use diesel::IntoSql as _;
use diesel::sql_types::Integer;
use diesel::{PgConnection, RunQueryDsl as _};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::{bb8, deadpool};
use sea_orm::DatabaseConnection;
use sqlx::{ConnectOptions as _, Executor as _, PgConnection as SqlxConnection};
use tokio::task::block_in_place;

use crate::Table;
use crate::places::{Drivers, NETWORKS, World, ask_seaorm, millis};

const OURS: &str = "with these crates";
const DEFAULT: &str = "default pool";
const HELD: &str = "held connection";
const COLUMNS: [&str; 3] = [OURS, DEFAULT, HELD];
const ROWS: [&str; 4] = ["bb8", "deadpool", "r2d2", "SeaORM"];

/// All connections and pools on one network, open before the first measurement.
struct Place {
    bb8: lakebase_diesel::bb8::Pool,
    default_bb8: bb8::Pool<AsyncPgConnection>,
    deadpool: lakebase_diesel::deadpool::Pool,
    default_deadpool: deadpool::Pool<AsyncPgConnection>,
    diesel: AsyncPgConnection,
    r2d2: lakebase_diesel::r2d2::Pool,
    default_r2d2: lakebase_diesel::r2d2::Pool,
    sync: PgConnection,
    seaorm: DatabaseConnection,
    default_seaorm: DatabaseConnection,
    sqlx: SqlxConnection,
}

pub fn measure(rounds: u32) -> Vec<Table> {
    crate::runtime(2).block_on(async {
        let world = World::start().await;
        let mut places = Vec::new();
        for (drivers, network) in world.networks() {
            places.push((Place::open(drivers).await, network));
        }
        let mut table = Table::new("checkout", "ms", &COLUMNS);
        let mut warm_up = Table::new("checkout", "ms", &COLUMNS);
        for (place, network) in &mut places {
            place.slice(&mut warm_up, network, 10, 0).await;
        }
        for round in 0..rounds {
            for (place, network) in &mut places {
                let statements = if *network == NETWORKS[0] { 60 } else { 15 };
                place
                    .slice(&mut table, network, statements, round as usize)
                    .await;
            }
        }
        for network in NETWORKS {
            for name in ROWS {
                let row = row(name, network);
                let is_far = network == NETWORKS[1];
                let goal = is_far.then_some(1.05);
                table.quotient(&format!("{row}: / held"), (&row, OURS), (&row, HELD), goal);
                table.quotient(
                    &format!("{row}: / default"),
                    (&row, OURS),
                    (&row, DEFAULT),
                    None,
                );
            }
        }
        vec![table]
    })
}

fn row(name: &str, network: &str) -> String {
    format!("{name}, {network}")
}

impl Place {
    async fn open(drivers: &Drivers) -> Self {
        let drivers_sync = drivers.clone();
        Self {
            bb8: drivers.bb8().await,
            default_bb8: drivers.default_bb8().await,
            deadpool: drivers.deadpool().await,
            default_deadpool: drivers.default_deadpool(),
            diesel: drivers.diesel().await,
            r2d2: drivers.r2d2().await,
            default_r2d2: drivers.default_r2d2().await,
            sync: crate::places::blocking(move || drivers_sync.diesel_sync()).await,
            seaorm: drivers.seaorm(crate::places::CONNECTIONS).await,
            default_seaorm: drivers.default_seaorm().await,
            sqlx: drivers.sqlx.connect().await.expect("a login"),
        }
    }

    async fn slice(&mut self, table: &mut Table, network: &str, statements: usize, turn: usize) {
        for name in ROWS {
            let mut times = [Vec::new(), Vec::new(), Vec::new()];
            for statement in 0..statements {
                for column in 0..COLUMNS.len() {
                    let column = (column + turn + statement) % COLUMNS.len();
                    times[column].push(self.ask(name, COLUMNS[column]).await);
                }
            }
            for (column, times) in COLUMNS.into_iter().zip(times) {
                table.add(&row(name, network), column, crate::figures::at(&times, 0.5));
            }
        }
    }

    async fn ask(&mut self, name: &str, column: &str) -> f64 {
        let began = Instant::now();
        match (name, column) {
            ("bb8", OURS) => ask(&mut self.bb8.get().await.expect("a connection")).await,
            ("bb8", DEFAULT) => ask(&mut self.default_bb8.get().await.expect("a connection")).await,
            ("deadpool", OURS) => ask(&mut self.deadpool.get().await.expect("a connection")).await,
            ("deadpool", DEFAULT) => {
                ask(&mut self.default_deadpool.get().await.expect("a connection")).await;
            }
            ("r2d2", OURS) => block_in_place(|| ask_sync(&mut self.r2d2.get().expect("one"))),
            ("r2d2", DEFAULT) => {
                block_in_place(|| ask_sync(&mut self.default_r2d2.get().expect("one")));
            }
            ("r2d2", _) => block_in_place(|| ask_sync(&mut self.sync)),
            ("SeaORM", OURS) => ask_seaorm(&self.seaorm).await,
            ("SeaORM", DEFAULT) => ask_seaorm(&self.default_seaorm).await,
            ("SeaORM", _) => {
                self.sqlx
                    .fetch_one(sqlx::query("SELECT 1"))
                    .await
                    .expect("an answer");
            }
            _ => ask(&mut self.diesel).await,
        }
        let took = millis(began.elapsed());
        // sqlx returns connections a moment after their use.
        match (name, column) {
            ("SeaORM", OURS) => lakebase_tests::all_idle(&self.seaorm).await,
            ("SeaORM", DEFAULT) => lakebase_tests::all_idle(&self.default_seaorm).await,
            _ => {}
        }
        took
    }
}

async fn ask(connection: &mut AsyncPgConnection) {
    let one = diesel::select(1.into_sql::<Integer>());
    let asked = diesel_async::RunQueryDsl::execute(one, connection).await;
    asked.expect("an answer");
}

fn ask_sync(connection: &mut PgConnection) {
    let one = diesel::select(1.into_sql::<Integer>());
    one.execute(connection).expect("an answer");
}
