//! Programs of SeaORM work as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use lakebase_seaorm::{connect, connect_with, options};
use lakebase_tests::{
    forget_idle, in_time, lakebase, local, local_with_schema, local_with_tokens_of, logged_in,
    logins, minted, no_expired_token_was_used, soon,
};
use sea_orm::ActiveValue::Set;
use sea_orm::{
    ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseConnection, DbErr, EntityTrait,
    PaginatorTrait, QueryFilter, Schema, Statement, StreamTrait, TransactionError,
    TransactionTrait,
};

mod book {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "books")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub title: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

async fn with_books(db: &DatabaseConnection) {
    let schema = Schema::new(db.get_database_backend());
    db.execute(&schema.create_table_from_entity(book::Entity))
        .await
        .expect("a table");
    for title in ["Notes", "Letters"] {
        let new = book::ActiveModel {
            title: Set(title.to_owned()),
            ..Default::default()
        };
        new.insert(db).await.expect("a book");
    }
}

/// A function that takes SeaORM's own type.
async fn count(db: &DatabaseConnection) -> Result<u64, DbErr> {
    book::Entity::find().count(db).await
}

#[tokio::test]
async fn entities_raw_statements_and_streams_work() {
    let local = local_with_schema().await;
    let db = connect(&lakebase(&local)).await.expect("a connection");
    with_books(&db).await;
    assert_eq!(count(&db).await.expect("a count"), 2);
    let found = book::Entity::find()
        .filter(book::Column::Title.eq("Notes"))
        .one(&db)
        .await;
    assert_eq!(
        found.expect("an answer").map(|book| book.title).as_deref(),
        Some("Notes")
    );
    let raw = Statement::from_string(
        db.get_database_backend(),
        "SELECT title FROM books ORDER BY 1",
    );
    let rows = db.query_all_raw(raw.clone()).await.expect("rows");
    let titles: Vec<String> = rows
        .iter()
        .map(|row| row.try_get("", "title").expect("text"))
        .collect();
    assert_eq!(titles, ["Letters", "Notes"]);
    let streamed: Vec<_> = db
        .stream_raw(raw)
        .await
        .expect("a stream")
        .try_collect()
        .await
        .expect("rows");
    assert_eq!(streamed.len(), 2);
    let entities: Vec<book::Model> = book::Entity::find()
        .stream(&db)
        .await
        .expect("a stream")
        .try_collect()
        .await
        .expect("books");
    assert_eq!(entities.len(), 2);
}

#[tokio::test]
async fn transactions_commit_and_roll_back() {
    let local = local_with_schema().await;
    let db = connect(&lakebase(&local)).await.expect("a connection");
    with_books(&db).await;
    let transaction = db.begin().await.expect("begun");
    book::Entity::delete_many()
        .exec(&transaction)
        .await
        .expect("deleted");
    transaction.rollback().await.expect("rolled back");
    assert_eq!(count(&db).await.expect("a count"), 2);

    let failed = db
        .transaction(|transaction| {
            Box::pin(async move {
                book::Entity::delete_many().exec(transaction).await?;
                Err::<(), _>(DbErr::Custom("no".to_owned()))
            })
        })
        .await;
    assert!(
        matches!(failed, Err(TransactionError::Transaction(_))),
        "{failed:?}"
    );
    assert_eq!(count(&db).await.expect("a count"), 2);

    db.transaction(|transaction| {
        Box::pin(async move {
            book::Entity::delete_many()
                .exec(transaction)
                .await
                .map(drop)
        })
    })
    .await
    .expect("committed");
    assert_eq!(count(&db).await.expect("a count"), 0);
}

#[tokio::test]
async fn connect_options_of_seaorm_apply() {
    let local = local().await;
    local.sql("CREATE SCHEMA app").await.expect("a schema");
    let seen = Arc::new(AtomicUsize::new(0));
    let (after, mapped) = (Arc::clone(&seen), Arc::clone(&seen));
    let mut options = options();
    options
        .max_connections(3)
        .set_schema_search_path("app")
        .set_application_name("shop")
        .statement_timeout(Duration::from_secs(7))
        .after_connect(move |db| {
            let after = Arc::clone(&after);
            Box::pin(async move {
                db.execute_unprepared("SELECT 1").await?;
                after.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        })
        .map_sqlx_postgres_opts(move |options| {
            mapped.fetch_add(10, Ordering::SeqCst);
            options.options([("work_mem", "5MB")])
        });
    let db = connect_with(&lakebase(&local), options)
        .await
        .expect("a connection");
    assert_eq!(
        db.get_postgres_connection_pool()
            .options()
            .get_max_connections(),
        3
    );
    assert_eq!(
        seen.load(Ordering::SeqCst) % 10,
        1,
        "after_connect ran once, with a login"
    );
    assert!(seen.load(Ordering::SeqCst) >= 10, "the hook for sqlx ran");
    for (setting, expected) in [
        ("search_path", "app"),
        ("application_name", "shop"),
        ("statement_timeout", "7s"),
        ("work_mem", "5MB"),
    ] {
        let show = Statement::from_string(db.get_database_backend(), format!("SHOW {setting}"));
        let row = db
            .query_one_raw(show)
            .await
            .expect("an answer")
            .expect("a row");
        let value: String = row.try_get_by_index(0).expect("text");
        assert_eq!(value, expected, "{setting}");
    }
}

#[tokio::test]
async fn the_url_inside_the_options_is_ignored() {
    let local = local().await;
    let elsewhere = "postgres://someone:secret@db.example.com:1/other?sslmode=disable".to_owned();
    let db = connect_with(&lakebase(&local), elsewhere.into())
        .await
        .expect("a connection");
    db.ping().await.expect("an answer");
    let login = logins(&local.events()).pop().expect("a login").1;
    assert_eq!(
        (login.user.as_str(), login.database.as_str()),
        (local.client_id(), "databricks_postgres")
    );
}

#[tokio::test]
async fn a_lazy_connection_logs_in_with_its_first_statement() {
    let local = local().await;
    let mut options = options();
    options.connect_lazy(true);
    let db = connect_with(&lakebase(&local), options)
        .await
        .expect("a connection");
    assert_eq!(local.counters().logins, 0);
    db.ping().await.expect("an answer");
    assert_eq!(local.counters().logins, 1);
}

#[tokio::test]
async fn the_pool_inside_a_connection_logs_in_with_current_tokens_after_its_drop() {
    in_time(async || {
        let local = local_with_tokens_of(Duration::from_secs(2)).await;
        let db = logged_in(&local, connect(&lakebase(&local)).await)?;
        let pool = db.get_postgres_connection_pool().clone();
        drop(db);
        soon(local.wait_until(|events| minted(events).len() >= 3)).await;
        let again = DatabaseConnection::from(pool);
        forget_idle(&again).await;
        logged_in(&local, again.execute_unprepared("SELECT 1").await)?;
        no_expired_token_was_used(&local)
    })
    .await;
}
