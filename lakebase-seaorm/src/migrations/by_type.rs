//! A migrator that is known by its type alone.

use std::marker::PhantomData;

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbErr, DynIden};
use sea_orm_migration::{
    IntoSchemaManagerConnection, Migration, MigrationTrait, MigratorTrait, MigratorTraitSelf,
};

/// As SeaORM does it for a value of such a type, with nothing that the type has of its own left out.
pub(super) struct ByType<M>(PhantomData<fn() -> M>);

impl<M> ByType<M> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

#[async_trait]
impl<M: MigratorTrait> MigratorTraitSelf for ByType<M> {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        M::migrations()
    }

    fn migration_table_name(&self) -> DynIden {
        M::migration_table_name()
    }

    fn get_migration_files(&self) -> Vec<Migration> {
        M::get_migration_files()
    }

    async fn get_migration_with_status_read_only<C>(&self, db: &C) -> Result<Vec<Migration>, DbErr>
    where
        C: ConnectionTrait,
    {
        M::get_migration_with_status_read_only(db).await
    }

    async fn get_pending_migrations_read_only<C>(&self, db: &C) -> Result<Vec<Migration>, DbErr>
    where
        C: ConnectionTrait,
    {
        M::get_pending_migrations_read_only(db).await
    }

    async fn get_applied_migrations_read_only<C>(&self, db: &C) -> Result<Vec<Migration>, DbErr>
    where
        C: ConnectionTrait,
    {
        M::get_applied_migrations_read_only(db).await
    }

    async fn fresh<'c, C>(&self, db: C) -> Result<(), DbErr>
    where
        C: IntoSchemaManagerConnection<'c>,
    {
        M::fresh(db).await
    }

    async fn reset<'c, C>(&self, db: C) -> Result<(), DbErr>
    where
        C: IntoSchemaManagerConnection<'c>,
    {
        M::reset(db).await
    }

    async fn up<'c, C>(&self, db: C, steps: Option<u32>) -> Result<(), DbErr>
    where
        C: IntoSchemaManagerConnection<'c>,
    {
        M::up(db, steps).await
    }

    async fn down<'c, C>(&self, db: C, steps: Option<u32>) -> Result<(), DbErr>
    where
        C: IntoSchemaManagerConnection<'c>,
    {
        M::down(db, steps).await
    }
}
