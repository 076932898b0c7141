//! The configured schema is first on the search path of every connection.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use diesel::IntoSql as _;
use diesel::sql_types::Integer;
use diesel_async::RunQueryDsl as _;
use futures_util::future::join_all;
use lakebase_core::admin::Plan;
use lakebase_core::config::TlsMode;
use lakebase_core::{Config, Lakebase};
use lakebase_local::LocalLakebase;
use lakebase_tests::{
    ADAPTERS, Adapter, App, NATIVE_LOGIN, NATIVE_PASSWORD, lakebase_with, local, native, session,
    soon, through_every_adapter,
};
use sea_orm::{ConnectionTrait as _, DbBackend, Statement};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

const IN_IT: &str = "DO $$ BEGIN ASSERT current_schema() = 'Shop One', current_setting('search_path'); \
                     PERFORM 1 FROM only_there; END $$";

async fn with_schema() -> LocalLakebase {
    let local = local().await;
    local
        .sql(
            "CREATE SCHEMA \"Shop One\"; GRANT USAGE ON SCHEMA \"Shop One\" TO PUBLIC; \
             CREATE TABLE \"Shop One\".only_there (); GRANT SELECT ON \"Shop One\".only_there TO PUBLIC",
        )
        .await
        .expect("a schema");
    native(&local, &[]).await;
    local
}

fn pooled(local: &LocalLakebase, schema: &str) -> Lakebase {
    let changes = [
        ("PGHOST", local.pooled_host()),
        ("PGHOSTADDR", "127.0.0.1"),
        ("LAKEBASE_SCHEMA", schema),
    ];
    lakebase_with(local, &[NATIVE_LOGIN, &changes].concat())
}

#[tokio::test]
async fn the_schema_is_first_on_the_search_path_of_every_connection() {
    let local = with_schema().await;
    through_every_adapter(|adapter| {
        let lakebase = lakebase_with(&local, &[("LAKEBASE_SCHEMA", "Shop One")]);
        async move {
            let app = App::start(adapter, &lakebase)
                .await
                .expect("an application");
            soon(app.run(IN_IT)).await.expect("in the schema");
            app.log_in().await.expect("another connection");
            soon(app.run(IN_IT)).await.expect("in the schema again");
        }
    })
    .await;
}

const NO_SETTING: &str = "DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM pg_db_role_setting \
    WHERE setrole = 'native'::regrole), 'settings'; END $$";

/// Without SeaORM, whose driver cannot connect to an address with another name. No name server has the local pooler.
#[tokio::test]
async fn the_error_of_a_pooled_host_names_the_statement_that_sets_the_search_path() {
    let local = with_schema().await;
    let error = soon(pooled(&local, "Shop One").connect()).await;
    let error = error.map(drop).expect_err("no path");
    assert!(error.is_config(), "{error}");
    local.sql(NO_SETTING).await.expect("no setting");
    let statement = "ALTER ROLE \"native\" IN DATABASE \"databricks_postgres\" \
                     SET search_path TO \"Shop One\", public";
    let text = error.to_string();
    assert!(
        text.contains(statement) && text.contains("--search-path"),
        "{text}"
    );

    // The role itself can run the statement on the direct host.
    let direct = pooled(&local, "").direct();
    let client = session(&direct).await;
    client.batch_execute(statement).await.expect("allowed");
    for adapter in ADAPTERS {
        let lakebase = pooled(&local, "Shop One");
        let app = App::start(adapter, &lakebase)
            .await
            .expect("an application");
        soon(app.run(IN_IT)).await.expect("in the schema");
    }
}

#[tokio::test]
async fn a_plan_sets_the_search_path_that_a_pooled_host_needs() {
    let local = with_schema().await;
    let direct = pooled(&local, "").direct();
    let plan = Plan::new(direct.database()).set_search_path("Shop One", "native");
    plan.apply(&direct).await.expect("applied");
    let app = App::start(Adapter::TokioPostgres, &pooled(&local, "Shop One")).await;
    let app = app.expect("an application");
    soon(app.run(IN_IT)).await.expect("in the schema");
}

#[tokio::test]
async fn on_a_pooled_host_a_role_with_another_search_path_is_an_error() {
    let local = with_schema().await;
    local
        .sql("ALTER ROLE native SET search_path = other, public")
        .await
        .expect("a path");
    let lakebase = pooled(&local, "Shop One");
    let error = soon(lakebase.connect())
        .await
        .map(drop)
        .expect_err("rejected");
    assert!(error.is_config(), "{error}");
    for word in ["schema", "\"native\"", "other, public", "separate role"] {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    // A path that begins with the schema is accepted.
    local
        .sql("ALTER ROLE native SET search_path = \"Shop One\"")
        .await
        .expect("a path");
    let app = App::start(Adapter::DieselBb8, &lakebase)
        .await
        .expect("an application");
    app.run(IN_IT).await.expect("in the schema");
}

#[tokio::test]
async fn without_a_schema_a_login_to_a_pooled_host_changes_no_setting() {
    let local = with_schema().await;
    let lakebase = pooled(&local, "");
    App::start(Adapter::TokioPostgres, &lakebase)
        .await
        .expect("an application");
    local.sql(NO_SETTING).await.expect("no setting");
}

/// PgBouncer in transaction mode in front of the gateway.
struct PgBouncer {
    _process: Child,
    _folder: TempDir,
    port: u16,
    keeps_prepared_statements: bool,
}

impl PgBouncer {
    async fn start(local: &LocalLakebase) -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
        let Some(program) = program.into_iter().find(|path| Path::new(path).is_file()) else {
            lakebase_tests::tell("SKIPPED schema: pgbouncer is not installed");
            return None;
        };
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("set");
            path
        };
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("set");
        let version = Command::new(program).arg("--version").output().await;
        let version = String::from_utf8(version.expect("it runs").stdout).expect("text");
        // `PgBouncer 1.24.1` and a line for each library.
        let mut numbers = version.split([' ', '.', '\n']).skip(1);
        let mut next = || numbers.next()?.parse::<u32>().ok();
        let keeps_prepared_statements = (next(), next()) >= (Some(1), Some(21));
        let prepared = match keeps_prepared_statements {
            true => "max_prepared_statements = 100\n",
            false => "",
        };
        let users = write("users", format!("\"native\" \"{NATIVE_PASSWORD}\"\n"));
        let settings = write(
            "settings",
            format!(
                "[databases]\ndatabricks_postgres = host=127.0.0.1 port={}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\n\
                 server_tls_sslmode = require\ndefault_pool_size = 2\n{prepared}",
                local.postgres_port(),
                users.display()
            ),
        );
        let mut command = Command::new(program);
        command
            .arg(settings)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if nix::unistd::geteuid().is_root() {
            // It does not run as root.
            command.uid(65_534);
        }
        let mut process = command.spawn().expect("it starts");
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let mut lines = log.lines();
        soon(async {
            while let Some(line) = lines.next_line().await.expect("text") {
                if line.contains("process up") {
                    return;
                }
            }
            panic!("pgbouncer does not start");
        })
        .await;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Self {
            _process: process,
            _folder: folder,
            port,
            keeps_prepared_statements,
        })
    }

    fn lakebase(&self, schema: Option<&str>) -> Lakebase {
        let mut config = Config::builder()
            .host("shop-pooler.example.com")
            .hostaddr([127, 0, 0, 1].into())
            .port(self.port)
            .user("native")
            .password(NATIVE_PASSWORD)
            .tls_mode(TlsMode::Disable)
            .dangerously_allow_plaintext();
        if let Some(schema) = schema {
            config = config.schema(schema);
        }
        Lakebase::new(config.build().expect("a configuration")).expect("a handle")
    }
}

#[tokio::test]
async fn behind_pgbouncer_an_older_session_with_another_search_path_is_an_error() {
    let local = with_schema().await;
    let Some(bouncer) = PgBouncer::start(&local).await else {
        return;
    };
    // The pooler keeps sessions that began with another path.
    let before = bouncer.lakebase(None);
    let clients = [(); 3].map(|()| App::start(Adapter::TokioPostgres, &before));
    let clients = soon(futures_util::future::try_join_all(clients))
        .await
        .expect("applications");
    let busy = clients
        .iter()
        .map(|client| client.run("SELECT pg_sleep(0.2)"));
    soon(futures_util::future::try_join_all(busy))
        .await
        .expect("sessions");
    let path = "ALTER ROLE native SET search_path = \"Shop One\", public";
    local.sql(path).await.expect("a path");
    let error = soon(bouncer.lakebase(Some("Shop One")).connect()).await;
    let error = error.map(drop).expect_err("an old session");
    assert!(
        error.is_config() && error.to_string().contains("began before"),
        "{error}"
    );
    drop(clients);
    drop(bouncer);

    let Some(bouncer) = PgBouncer::start(&local).await else {
        return;
    };
    for adapter in ADAPTERS
        .into_iter()
        .filter(|&adapter| adapter != Adapter::SeaOrm)
    {
        let app = App::start(adapter, &bouncer.lakebase(Some("Shop One"))).await;
        let app = app.unwrap_or_else(|failure| panic!("{adapter:?}: {failure}"));
        for _ in 0..5 {
            soon(app.run(IN_IT))
                .await
                .unwrap_or_else(|failure| panic!("{adapter:?}: {failure}"));
        }
    }
}

#[tokio::test]
async fn behind_pgbouncer_statements_that_an_orm_has_prepared_run_on_any_session() {
    /// More than the pooler has sessions.
    const AT_ONCE: i32 = 8;
    const REPEATS: usize = 20;
    let local = local().await;
    native(&local, &[]).await;
    let Some(bouncer) = PgBouncer::start(&local).await else {
        return;
    };
    if !bouncer.keeps_prepared_statements {
        lakebase_tests::tell("SKIPPED schema: pgbouncer is older than 1.21");
        return;
    }
    let lakebase = bouncer.lakebase(None);

    let pool = lakebase_diesel::bb8::connect(&lakebase).await;
    let pool = pool.expect("a pool");
    let ask = async |number: i32| {
        for _ in 0..REPEATS {
            let mut connection = pool.get().await.expect("a connection");
            let statement = diesel::select(number.into_sql::<Integer>());
            let answer = statement.get_result::<i32>(&mut connection).await;
            assert_eq!(answer.expect("an answer"), number);
        }
    };
    soon(join_all((0..AT_ONCE).map(ask))).await;

    let db = lakebase_seaorm::connect(&lakebase).await;
    let db = db.expect("connected");
    let ask = async |number: i32| {
        for _ in 0..REPEATS {
            let sql = "SELECT $1::int4";
            let statement =
                Statement::from_sql_and_values(DbBackend::Postgres, sql, [number.into()]);
            let row = db.query_one_raw(statement).await.expect("an answer");
            let answer = row.expect("a row").try_get_by_index::<i32>(0);
            assert_eq!(answer.expect("a number"), number);
        }
    };
    soon(join_all((0..AT_ONCE).map(ask))).await;
}
