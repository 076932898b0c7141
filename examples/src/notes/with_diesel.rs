//! Notes on diesel-async, with a pool of bb8 for each user.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use lakebase_core::Lakebase;
use lakebase_diesel::bb8::{Pool, RunError};
use lakebase_diesel::migrations::Migrations;

use super::{Failure, Note, Notes, SHOWN};
use crate::Result;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("src/notes/migrations");

diesel::table! {
    notes (id) {
        id -> BigInt,
        owner -> Text,
        text -> Text,
    }
}

/// Runs the pending migrations as the application's service principal, which then owns the table.
pub async fn migrate(lakebase: &Lakebase) -> Result<()> {
    let migrations = Migrations::new(lakebase).create_schema(true);
    migrations.run(MIGRATIONS).await?;
    Ok(())
}

type Row = (i64, String, String);

fn note((id, owner, text): Row) -> Note {
    Note { id, owner, text }
}

impl Notes for Pool {
    async fn list(&self) -> Result<Vec<Note>, Failure> {
        let newest = notes::table.order(notes::id.desc()).limit(SHOWN.into());
        let rows: Vec<Row> = newest.load(&mut self.get().await?).await?;
        Ok(rows.into_iter().map(note).collect())
    }

    async fn add(&self, text: &str) -> Result<Note, Failure> {
        let insert = diesel::insert_into(notes::table).values(notes::text.eq(text));
        Ok(note(insert.get_result(&mut self.get().await?).await?))
    }

    async fn delete(&self, id: i64) -> Result<bool, Failure> {
        let delete = diesel::delete(notes::table.find(id));
        Ok(delete.execute(&mut self.get().await?).await? > 0)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match lakebase_diesel::cause(&error) {
            Some(cause) => cause.clone().into(),
            None => Self::statement(error),
        }
    }
}

impl From<diesel::result::Error> for Failure {
    fn from(error: diesel::result::Error) -> Self {
        Self::statement(error)
    }
}
