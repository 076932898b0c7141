//! loco 0.16 with SeaORM 1.1, with the URL of the auth proxy.

// In your program they have these names in `Cargo.toml`.
extern crate loco_rs_0 as loco_rs;
extern crate sea_orm_1 as sea_orm;
extern crate sea_orm_migration_1 as sea_orm_migration;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;

use lakebase_core::{Lakebase, proxy::Proxy};
use lakebase_examples_frameworks::{BoxError, SCHEMA, place, write_and_read};
use loco_rs::app::{AppContext, Hooks};
use loco_rs::bgworker::Queue;
use loco_rs::boot::{BootResult, ServeParams, StartMode, create_app, start};
use loco_rs::config::Config;
use loco_rs::controller::AppRoutes;
use loco_rs::environment::Environment;
use loco_rs::task::Tasks;
use loco_rs::{Error, Result};
use sea_orm::ConnectionTrait;
use serde_json::json;
use tokio::net::TcpListener;

/// The entity.
mod note {
    use sea_orm::entity::prelude::*;
    use serde::Serialize;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, Serialize)]
    #[sea_orm(table_name = "loco_0_notes")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub text: String,
        pub session: i32,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The migration crate.
mod migration {
    use sea_orm_migration::prelude::*;

    pub struct Migrator;

    impl MigratorTrait for Migrator {
        fn migrations() -> Vec<Box<dyn MigrationTrait>> {
            vec![Box::new(LocoNotes)]
        }
        // Other examples have migrations in the same schema.
        fn migration_table_name() -> DynIden {
            "loco_0_migrations".into_iden()
        }
    }

    struct LocoNotes;

    impl MigrationName for LocoNotes {
        fn name(&self) -> &str {
            "m1_loco_0_notes"
        }
    }

    #[async_trait::async_trait]
    impl MigrationTrait for LocoNotes {
        async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
            let sql = "CREATE TABLE loco_0_notes (id BIGSERIAL PRIMARY KEY, text TEXT NOT NULL,
                session INTEGER NOT NULL DEFAULT pg_backend_pid())";
            manager.get_connection().execute_unprepared(sql).await?;
            Ok(())
        }
    }
}

/// The controller.
mod notes {
    use loco_rs::prelude::*;

    use super::note;

    #[derive(serde::Deserialize)]
    struct Params {
        text: String,
    }

    async fn add(State(ctx): State<AppContext>, Json(params): Json<Params>) -> Result<Response> {
        let note = note::ActiveModel {
            text: Set(params.text),
            ..Default::default()
        };
        format::json(note.insert(&ctx.db).await?)
    }

    async fn get_one(State(ctx): State<AppContext>, Path(id): Path<i64>) -> Result<Response> {
        let note = note::Entity::find_by_id(id).one(&ctx.db).await?;
        format::json(note.ok_or(Error::NotFound)?)
    }

    pub fn routes() -> Routes {
        Routes::new()
            .prefix("api/notes")
            .add("/", post(add))
            .add("/{id}", get(get_one))
    }
}

/// In your program, `load_config` creates it with `Lakebase::from_env()`.
static LAKEBASE: OnceLock<Lakebase> = OnceLock::new();
/// Runs as long as the application.
static PROXY: OnceLock<Proxy> = OnceLock::new();

fn lakebase() -> Result<&'static Lakebase> {
    LAKEBASE.get().ok_or_else(|| Error::string("no Lakebase"))
}

struct App;

#[async_trait::async_trait]
impl Hooks for App {
    fn app_name() -> &'static str {
        env!("CARGO_CRATE_NAME")
    }

    async fn load_config(_environment: &Environment) -> Result<Config> {
        // In your program: `let mut config = environment.load()?;`
        let mut config: Config = serde_json::from_value(json!({
            "logger": { "enable": false, "level": "info", "format": "compact" },
            "workers": { "mode": "BackgroundAsync" },
            "server": { "host": "http://127.0.0.1", "port": 5150 },
            "database": {
                "uri": "postgres://loco:loco@localhost:5432/app",
                "enable_logging": false,
                "connect_timeout": 500,
                "idle_timeout": 500,
                "min_connections": 1,
                "max_connections": 1,
                "auto_migrate": true,
            },
        }))?;
        let proxy = lakebase()?.proxy().await.map_err(Error::wrap)?;
        config.database.uri = PROXY.get_or_init(|| proxy).url().to_owned();
        // A second more than the proxy's limit, so that the proxy's error arrives.
        config.database.connect_timeout = 31_000;
        // With loco's values, an idle pool logs in every second, and the compute stays awake.
        config.database.idle_timeout = 240_000;
        config.database.min_connections = 0;
        Ok(config)
    }

    async fn boot(mode: StartMode, on: &Environment, config: Config) -> Result<BootResult> {
        create_app::<Self, migration::Migrator>(mode, on, config).await
    }

    async fn after_context(ctx: AppContext) -> Result<AppContext> {
        // Before the migrations, whose history is in this schema.
        let sql = format!("CREATE SCHEMA IF NOT EXISTS {SCHEMA}");
        ctx.db.execute_unprepared(&sql).await?;
        Ok(ctx)
    }

    /// Serves on the listener of `main`, which needs its port. Your program uses loco's own function.
    async fn serve(app: axum::Router, ctx: &AppContext, _: &ServeParams) -> Result<()> {
        let listener = ctx.shared_store.remove::<TcpListener>();
        let listener = listener.ok_or_else(|| Error::string("no listener"))?;
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        Ok(axum::serve(listener, app).await?)
    }

    fn routes(_ctx: &AppContext) -> AppRoutes {
        AppRoutes::with_default_routes().add_route(notes::routes())
    }

    async fn connect_workers(_ctx: &AppContext, _queue: &Queue) -> Result<()> {
        Ok(())
    }

    fn register_tasks(_tasks: &mut Tasks) {}

    async fn truncate(_ctx: &AppContext) -> Result<()> {
        Ok(())
    }

    async fn seed(_ctx: &AppContext, _base: &Path) -> Result<()> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (lakebase, local) = place().await?;
    let lakebase = LAKEBASE.get_or_init(|| lakebase);

    let environment = Environment::Production;
    let config = App::load_config(&environment).await?;
    let boot = App::boot(StartMode::ServerOnly, &environment, config).await?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let ctx = boot.app_context.clone();
    ctx.shared_store.insert(listener);
    let params = ServeParams {
        binding: address.ip().to_string(),
        port: address.port().into(),
    };
    let result = tokio::select! {
        served = start::<App>(boot, params, true) => return Err(format!("served: {served:?}").into()),
        result = write_and_read(address, lakebase, local.as_ref()) => result?,
    };
    println!("loco 0.16: {result}");

    ctx.db.close().await?;
    if let Some(local) = local {
        local.stop().await;
    }
    Ok(())
}
