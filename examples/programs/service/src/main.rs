//! A worker with SeaORM: it counts the words of documents, each in a transaction that runs again if the compute restarts in the
//! middle. Any number of workers can share the table: `SKIP LOCKED` gives each one another document.
//!
//! ```sh
//! export LAKEBASE_SCHEMA=app
//! lakebase local -- sh -c 'cargo run --bin migration && cargo run --bin service -- add "one" "one two" && cargo run --bin service'
//! ```

mod document;

use std::error::Error;
use std::io;
use std::time::Duration;

use lakebase_seaorm::{Lakebase, Retry, is_transient, transaction_with_retry};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{LockBehavior, LockType};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DatabaseConnection, DbErr, EntityTrait, IntoActiveModel,
    QueryFilter, QueryOrder, QuerySelect,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// Longer than the suspend timeout of the compute, so that it is suspended in between.
const PAUSE: Duration = Duration::from_secs(10 * 60);
const RETRY_PAUSE: Duration = Duration::from_secs(5);

async fn add(db: &DatabaseConnection, texts: Vec<String>) -> Result<(), DbErr> {
    let documents = texts.into_iter().map(|text| document::ActiveModel {
        text: Set(text),
        ..Default::default()
    });
    document::Entity::insert_many(documents).exec(db).await?;
    Ok(())
}

/// Returns the document that it has worked on, or `None` if there is no work.
async fn work(db: &DatabaseConnection) -> Result<Option<document::Model>, DbErr> {
    transaction_with_retry(db, Retry::new(), async |transaction| {
        let open = document::Entity::find()
            .filter(document::Column::Words.is_null())
            .order_by_asc(document::Column::Id)
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked);
        let Some(document) = open.one(transaction).await? else {
            return Ok(None);
        };
        let words = document.text.split_whitespace().count();
        let mut document = document.into_active_model();
        document.words = Set(i64::try_from(words).ok());
        document.update(transaction).await.map(Some)
    })
    .await
}

/// Works until there is no work, and then again after a pause. After a transient error, it retries.
async fn run(db: &DatabaseConnection) -> Result<(), DbErr> {
    loop {
        match work(db).await {
            Ok(Some(document)) => println!(
                "document {} has {} words",
                document.id,
                document.words.unwrap_or_default()
            ),
            Ok(None) => {
                println!("no more work");
                sleep(PAUSE).await;
            }
            Err(error) if is_transient(&error) => {
                eprintln!("{error}");
                sleep(RETRY_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Ctrl-C, or what a platform sends before it ends a container. The transaction under way is rolled back.
async fn stop() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let lakebase = Lakebase::from_env()?;
    let db = lakebase_seaorm::connect(&lakebase).await?;

    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("add") => add(&db, arguments.collect()).await?,
        Some(_) => return Err("usage: service [add TEXT..]".into()),
        None => tokio::select! {
            result = run(&db) => result?,
            result = stop() => result?,
        },
    }
    db.close().await?;
    Ok(())
}
