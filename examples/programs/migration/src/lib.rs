//! The migrations of the program `service`.

use sea_orm_migration::prelude::*;

mod m20260302_100000_documents;
mod m20260309_100000_words;

pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20260302_100000_documents::Migration),
            Box::new(m20260309_100000_words::Migration),
        ]
    }
}
