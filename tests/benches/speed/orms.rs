//! The work of applications: inserts of many rows, small transactions, and pages of joined rows.

use std::time::Instant;

use diesel::{Connection as _, ExpressionMethods as _, PgConnection, QueryDsl as _, RunQueryDsl};
use diesel_async::pooled_connection::bb8;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, ConnectionTrait as _, DatabaseConnection, EntityTrait as _,
    QueryFilter as _, QueryOrder as _, QuerySelect as _, TransactionTrait as _,
};
use tokio::task::block_in_place;

use crate::Table;
use crate::places::{Drivers, millis};
use crate::platform::Platform;

pub const TABLES: &str = "CREATE SCHEMA bench; GRANT ALL ON SCHEMA bench TO PUBLIC; \
    CREATE TABLE bench.items (id int PRIMARY KEY, text text NOT NULL); \
    CREATE TABLE bench.authors (id int PRIMARY KEY, name text NOT NULL); \
    CREATE TABLE bench.books (id int PRIMARY KEY, author_id int NOT NULL REFERENCES bench.authors, \
        title text NOT NULL, sold int NOT NULL DEFAULT 0); \
    INSERT INTO bench.authors SELECT n, 'author ' || n FROM generate_series(1, 20) n; \
    INSERT INTO bench.books SELECT n, 1 + n % 20, 'title ' || n FROM generate_series(1, 1000) n; \
    GRANT ALL ON ALL TABLES IN SCHEMA bench TO PUBLIC; ANALYZE bench.books; ANALYZE bench.authors";

const OURS: &str = "with these crates";
const STATIC: &str = "the ORM's own pool, static password";
const ITEMS: i32 = 10_000;
const TRANSACTIONS: i32 = 1_000;
const PAGES: i32 = 40;
const PAGE: i64 = 50;
const INSERT: &str = "insert of 10,000 rows";
const TRANSACT: &str = "1,000 small transactions";
const READ: &str = "page of 50 joined rows";
const WORKS: [&str; 3] = [INSERT, TRANSACT, READ];
/// Each ORM with the goal of its quotients.
const ORMS: [(&str, f64); 3] = [
    ("diesel-async", 1.02),
    ("diesel (r2d2)", 1.02),
    ("SeaORM", 1.0),
];

diesel::table! {
    bench.items (id) {
        id -> Integer,
        text -> Text,
    }
}

diesel::table! {
    bench.authors (id) {
        id -> Integer,
        name -> Text,
    }
}

diesel::table! {
    bench.books (id) {
        id -> Integer,
        author_id -> Integer,
        title -> Text,
        sold -> Integer,
    }
}

diesel::joinable!(books -> authors (author_id));
diesel::allow_tables_to_appear_in_same_query!(books, authors);

mod item {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(schema_name = "bench", table_name = "items")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i32,
        pub text: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod author {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(schema_name = "bench", table_name = "authors")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i32,
        pub name: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

mod book {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(schema_name = "bench", table_name = "books")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i32,
        pub author_id: i32,
        pub title: String,
        pub sold: i32,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {
        #[sea_orm(
            belongs_to = "super::author::Entity",
            from = "Column::AuthorId",
            to = "super::author::Column::Id"
        )]
        Author,
    }

    impl Related<super::author::Entity> for Entity {
        fn to() -> RelationDef {
            Relation::Author.def()
        }
    }

    impl ActiveModelBehavior for ActiveModel {}
}

struct Pools {
    bb8: lakebase_diesel::bb8::Pool,
    default_bb8: bb8::Pool<AsyncPgConnection>,
    r2d2: lakebase_diesel::r2d2::Pool,
    default_r2d2: lakebase_diesel::r2d2::Pool,
    seaorm: DatabaseConnection,
    default_seaorm: DatabaseConnection,
}

pub fn measure(rounds: u32) -> Vec<Table> {
    crate::runtime(2).block_on(async {
        let platform = Platform::start();
        let drivers = Drivers::at(&platform.vars).await;
        let pools = Pools {
            bb8: drivers.bb8().await,
            default_bb8: drivers.default_bb8().await,
            r2d2: drivers.r2d2().await,
            default_r2d2: drivers.default_r2d2().await,
            seaorm: drivers.seaorm(crate::places::CONNECTIONS).await,
            default_seaorm: drivers.default_seaorm().await,
        };
        let mut table = Table::new("orms", "ms", &[OURS, STATIC]);
        let mut warm_up = Table::new("orms", "ms", &[OURS, STATIC]);
        pools.slice(&mut warm_up, 0).await;
        for round in 1..=rounds {
            pools.slice(&mut table, round).await;
        }
        for (orm, goal) in ORMS {
            for work in WORKS {
                let row = row(work, orm);
                table.quotient(&row, (&row, OURS), (&row, STATIC), Some(goal));
            }
        }
        vec![table]
    })
}

fn row(work: &str, orm: &str) -> String {
    format!("{work}, {orm}")
}

impl Pools {
    async fn slice(&self, table: &mut Table, round: u32) {
        for (orm, _) in ORMS {
            for work in WORKS {
                let mut order = [true, false];
                order.rotate_left((round % 2) as usize);
                for is_ours in order {
                    let empty = self.seaorm.execute_unprepared("TRUNCATE bench.items");
                    empty.await.expect("emptied");
                    let took = match orm {
                        "diesel-async" => self.diesel(work, is_ours).await,
                        "SeaORM" => self.seaorm(work, is_ours).await,
                        _ => block_in_place(|| self.sync(work, is_ours)),
                    };
                    table.add(&row(work, orm), if is_ours { OURS } else { STATIC }, took);
                }
            }
        }
    }

    async fn diesel(&self, work: &str, is_ours: bool) -> f64 {
        use diesel_async::RunQueryDsl;

        async fn work_on(connection: &mut AsyncPgConnection, work: &str, turn: i32) {
            match work {
                INSERT => {
                    let insert = diesel::insert_into(items::table).values(new_items());
                    let inserted = RunQueryDsl::execute(insert, connection)
                        .await
                        .expect("done");
                    assert_eq!(inserted, ITEMS as usize);
                }
                TRANSACT => {
                    let done = connection.transaction(async |connection| {
                        let book = books::table.find(1 + turn % TRANSACTIONS);
                        let update = diesel::update(book).set(books::sold.eq(turn));
                        RunQueryDsl::execute(update, connection).await
                    });
                    assert_eq!(done.await.expect("committed"), 1);
                }
                _ => {
                    let page = books::table
                        .inner_join(authors::table)
                        .filter(books::id.gt(turn * 10))
                        .order(books::id)
                        .select((books::id, books::title, authors::name))
                        .limit(PAGE);
                    let page = RunQueryDsl::load::<(i32, String, String)>(page, connection).await;
                    assert_eq!(page.expect("rows").len(), PAGE as usize);
                }
            }
        }
        let began = Instant::now();
        for turn in 0..turns(work) {
            if is_ours {
                let mut connection = self.bb8.get().await.expect("a connection");
                work_on(&mut connection, work, turn).await;
            } else {
                let mut connection = self.default_bb8.get().await.expect("a connection");
                work_on(&mut connection, work, turn).await;
            }
        }
        each(work, began)
    }

    fn sync(&self, work: &str, is_ours: bool) -> f64 {
        fn work_on(connection: &mut PgConnection, work: &str, turn: i32) {
            match work {
                INSERT => {
                    let insert = diesel::insert_into(items::table).values(new_items());
                    let inserted = RunQueryDsl::execute(insert, connection).expect("done");
                    assert_eq!(inserted, ITEMS as usize);
                }
                TRANSACT => {
                    let done = connection.transaction(|connection| {
                        let book = books::table.find(1 + turn % TRANSACTIONS);
                        let update = diesel::update(book).set(books::sold.eq(turn));
                        RunQueryDsl::execute(update, connection)
                    });
                    assert_eq!(done.expect("committed"), 1);
                }
                _ => {
                    let page = books::table
                        .inner_join(authors::table)
                        .filter(books::id.gt(turn * 10))
                        .order(books::id)
                        .select((books::id, books::title, authors::name))
                        .limit(PAGE);
                    let page = RunQueryDsl::load::<(i32, String, String)>(page, connection);
                    assert_eq!(page.expect("rows").len(), PAGE as usize);
                }
            }
        }
        let pool = if is_ours {
            &self.r2d2
        } else {
            &self.default_r2d2
        };
        let began = Instant::now();
        for turn in 0..turns(work) {
            work_on(&mut pool.get().expect("a connection"), work, turn);
        }
        each(work, began)
    }

    async fn seaorm(&self, work: &str, is_ours: bool) -> f64 {
        let db = if is_ours {
            &self.seaorm
        } else {
            &self.default_seaorm
        };
        let began = Instant::now();
        for turn in 0..turns(work) {
            match work {
                INSERT => {
                    let items = (0..ITEMS).map(|id| item::ActiveModel {
                        id: Set(id),
                        text: Set(text(id)),
                    });
                    let inserted = item::Entity::insert_many(items).exec_without_returning(db);
                    inserted.await.expect("done");
                }
                TRANSACT => {
                    let transaction = db.begin().await.expect("begun");
                    let done = book::Entity::update_many()
                        .col_expr(book::Column::Sold, turn.into())
                        .filter(book::Column::Id.eq(1 + turn % TRANSACTIONS))
                        .exec(&transaction);
                    assert_eq!(done.await.expect("done").rows_affected, 1);
                    transaction.commit().await.expect("committed");
                }
                _ => {
                    let page = book::Entity::find()
                        .find_also_related(author::Entity)
                        .filter(book::Column::Id.gt(turn * 10))
                        .order_by_asc(book::Column::Id)
                        .limit(PAGE as u64)
                        .all(db);
                    assert_eq!(page.await.expect("rows").len(), PAGE as usize);
                }
            }
        }
        each(work, began)
    }
}

fn turns(work: &str) -> i32 {
    match work {
        INSERT => 1,
        TRANSACT => TRANSACTIONS,
        _ => PAGES,
    }
}

/// Returns milliseconds for one page, or for all of the other work.
fn each(work: &str, began: Instant) -> f64 {
    let took = millis(began.elapsed());
    match work {
        READ => took / f64::from(PAGES),
        _ => took,
    }
}

fn text(id: i32) -> String {
    format!("the text of row {id}")
}

fn new_items() -> Vec<(
    diesel::dsl::Eq<items::id, i32>,
    diesel::dsl::Eq<items::text, String>,
)> {
    (0..ITEMS)
        .map(|id| (items::id.eq(id), items::text.eq(text(id))))
        .collect()
}
