//! The SeaORM half: shipments of those orders.

use lakebase_examples::Result;
use lakebase_seaorm::Lakebase;
use lakebase_seaorm::migrations::Migrations;
use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, DatabaseConnection, EntityTrait, PaginatorTrait};
use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, pk_auto, text};

mod order {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "orders")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub customer_id: i64,
        pub cents: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {
        #[sea_orm(has_many = "super::shipment::Entity")]
        Shipments,
    }

    impl Related<super::shipment::Entity> for Entity {
        fn to() -> RelationDef {
            Relation::Shipments.def()
        }
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod shipment {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "shipments")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub order_id: i64,
        pub carrier: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {
        #[sea_orm(
            belongs_to = "super::order::Entity",
            from = "Column::OrderId",
            to = "super::order::Column::Id"
        )]
        Order,
    }

    impl Related<super::order::Entity> for Entity {
        fn to() -> RelationDef {
            Relation::Order.def()
        }
    }

    impl ActiveModelBehavior for ActiveModel {}
}

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(CreateShipments)]
    }
}

struct CreateShipments;

impl MigrationName for CreateShipments {
    fn name(&self) -> &str {
        "m20260115_100000_create_shipments"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateShipments {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut order = ForeignKey::create()
            .from("shipments", "order_id")
            .to("orders", "id")
            .take();
        let table = Table::create()
            .table("shipments")
            .col(pk_auto("id").big_integer())
            .col(big_integer("order_id"))
            .col(text("carrier"))
            .foreign_key(&mut order)
            .take();
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::drop().table("shipments").take();
        manager.drop_table(table).await
    }
}

pub(crate) async fn migrate(lakebase: &Lakebase) -> Result<usize> {
    let ran = Migrations::new(lakebase).up::<Migrator>(None).await?;
    Ok(ran.len())
}

pub(crate) async fn ship(db: &DatabaseConnection, order_id: i64) -> Result<()> {
    let new = shipment::ActiveModel {
        order_id: Set(order_id),
        carrier: Set("owl".to_owned()),
        ..Default::default()
    };
    new.insert(db).await?;
    Ok(())
}

pub(crate) async fn shipped_orders(db: &DatabaseConnection) -> Result<String> {
    let shipped = shipment::Entity::find()
        .find_also_related(order::Entity)
        .all(db)
        .await?;
    let cents: i64 = shipped
        .iter()
        .filter_map(|(_, order)| Some(order.as_ref()?.cents))
        .sum();
    let count = shipped.len();
    Ok(format!("{count} shipped, worth {cents} cents"))
}

/// Opens a new connection: closes one of the pool, so that the next statement logs in.
pub(crate) async fn log_in(db: &DatabaseConnection) -> Result<()> {
    use sqlx::Connection as _;

    let idle = db.get_postgres_connection_pool().acquire().await?;
    idle.detach().close().await?;
    let count = order::Entity::find().count(db).await?;
    match count {
        0 => Err("the orders are missing".into()),
        _ => Ok(()),
    }
}
