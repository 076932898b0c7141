//! The grant flow of README and `--help`: each command is run by the role that the text names, on each Postgres that is
//! here.

#![allow(clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};

use lakebase_core::{Config, Lakebase};
use lakebase_local::{LocalLakebase, SignIn};
use support::{run, skipped};

/// The bin folder of a Postgres 17; where it is set, it has to work.
const POSTGRES_17: &str = "LAKEBASE_TESTS_POSTGRES_17";

fn postgres_15() -> Option<PathBuf> {
    let folder = PathBuf::from("/usr/lib/postgresql/15/bin");
    folder.join("initdb").is_file().then_some(folder)
}

fn postgres_17() -> Option<PathBuf> {
    let folder = std::env::var_os(POSTGRES_17)?;
    (!folder.is_empty()).then(|| PathBuf::from(folder))
}

/// The commands of a text that grant or check, and whether the project's owner runs them or the role that has deployed the schema.
fn commands(text: &str) -> Vec<(bool, Vec<String>)> {
    let mut is_owner = None;
    let mut commands = Vec::new();
    for line in text.lines().map(str::trim) {
        let lower = line.to_lowercase();
        if lower.contains("as the project's owner") {
            is_owner = Some(true);
        } else if lower.contains("deployed the schema") {
            is_owner = Some(false);
        }
        let (Some(is_owner), Some(command)) = (is_owner, line.strip_prefix("lakebase ")) else {
            continue;
        };
        if command.contains("grant ") || command.ends_with("doctor") {
            let words = command.split_whitespace().map(str::to_owned).collect();
            commands.push((is_owner, words));
        }
    }
    commands
}

/// The page that has the flow.
fn readme() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = std::fs::read_dir(root.join("docs")).into_iter().flatten();
    let pages = docs.flatten().map(|page| page.path());
    let pages = std::iter::once(root.join("README.md")).chain(pages);
    let texts = pages.filter_map(|page| std::fs::read_to_string(page).ok());
    let mut flows = texts.filter(|text| !commands(text).is_empty());
    flows.next().expect("a page with the flow")
}

/// Changes that make the variables those of another service principal.
fn principal<'a>(id: &'a str, secret: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("DATABRICKS_CLIENT_ID", id),
        ("DATABRICKS_CLIENT_SECRET", secret),
        ("PGUSER", ""),
    ]
}

async fn sql(vars: Vec<(String, String)>, changes: &[(&str, &str)], sql: &str) {
    let mut vars = vars;
    vars.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    let changes = changes
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()));
    vars.extend(changes);
    let config = Config::from_vars(vars).expect("a configuration");
    let lakebase = Lakebase::new(config).expect("a handle");
    let (client, connection) = lakebase.connect().await.expect("a login");
    tokio::spawn(connection);
    let done = client.batch_execute(sql).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn flow(folder: &Path, text: &str) {
    let local = LocalLakebase::builder().postgres_bin_dir(folder);
    let local = local.start().await.expect("a local Lakebase");
    let (deployer, deployer_secret) = local.add_service_principal();
    let (app, app_secret) = local.add_service_principal();
    let (second, second_secret) = local.add_service_principal();
    let analyst = local.add_user("analyst@example.com");
    local.add_group("analysts", &["analyst@example.com"]);
    let owner = local.env_for(SignIn::Pat);
    let as_deployer = principal(&deployer, &deployer_secret);

    let mut is_deployed = false;
    let commands = commands(text);
    assert!(commands.len() >= 3, "{commands:?}");
    for (is_owner, words) in &commands {
        if !is_owner && !is_deployed {
            let tables = "CREATE SCHEMA app; CREATE TABLE app.orders (id SERIAL, item TEXT)";
            sql(local.env(), &as_deployer, tables).await;
            is_deployed = true;
        }
        let word = |word: &String| match word.as_str() {
            "6f2f0a2e-.." => deployer.clone(),
            "0b1c73d9-.." => app.clone(),
            "b41d7c52-.." => second.clone(),
            word => word.to_owned(),
        };
        let words: Vec<String> = words.iter().map(word).collect();
        let ran = match is_owner {
            true => run(&words, &owner, &[]).await,
            false => run(&words, &local.env(), &as_deployer).await,
        };
        assert_eq!(
            ran.code,
            Some(0),
            "{}: {words:?}: {}",
            folder.display(),
            ran.err
        );
    }
    assert!(is_deployed, "{commands:?}");
    let write = "INSERT INTO app.orders (item) VALUES ('a'); SELECT * FROM app.orders";
    let as_app = principal(&app, &app_secret);
    sql(local.env(), &as_app, write).await;
    if text.contains("--shared-owner app_owner") {
        let member = match text.contains("b41d7c52-..") {
            true => principal(&second, &second_secret),
            false => as_app,
        };
        let migrate =
            "SET ROLE app_owner; ALTER TABLE app.orders ADD note TEXT; CREATE TABLE app.later ()";
        sql(local.env(), &member, migrate).await;
        sql(
            local.env(),
            &as_app,
            "SELECT note FROM app.orders, app.later",
        )
        .await;
    }
    if text.contains("grant analysts --access read") {
        let group = [
            ("DATABRICKS_TOKEN", analyst.as_str()),
            ("PGUSER", "analysts"),
        ];
        sql(owner.clone(), &group, "SELECT * FROM app.orders").await;
    }
}

async fn flows(folder: &Path) {
    flow(folder, &readme()).await;
    let help = run(["grant", "--help"], &[], &[]).await;
    flow(folder, &help.out).await;
}

#[tokio::test]
async fn the_documented_grants_work_as_written_on_postgres_15() {
    match postgres_15() {
        Some(folder) => flows(&folder).await,
        None => skipped("grants: Postgres 15 is not installed"),
    }
}

#[tokio::test]
async fn the_documented_grants_work_as_written_on_postgres_17() {
    match postgres_17() {
        Some(folder) => flows(&folder).await,
        None => skipped(&format!("grants: {POSTGRES_17} names no bin folder")),
    }
}

#[tokio::test]
async fn a_grant_to_public_or_to_a_too_long_name_is_rejected() {
    let local = support::local().await;
    let owner = local.env_for(SignIn::Pat);
    let long = "x".repeat(64);
    for (role, word) in [("public", "every role"), (long.as_str(), "64 bytes")] {
        let args = ["--schema", "app", "grant", role, "--access", "write"];
        let ran = run(args, &owner, &[]).await;
        assert_eq!(ran.code, Some(2), "{role}: {}", ran.err);
        assert!(ran.err.contains(word), "{role}: {}", ran.err);
    }
    let ran = run(["--schema", "app,public", "url"], &owner, &[]).await;
    assert!(
        ran.code == Some(2) && ran.err.contains("schema"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn the_option_search_path_sets_the_search_path_of_the_role() {
    let local = support::local().await;
    let native = local.create_native_role("native", "a-password").await;
    native.expect("a role");
    let native = [
        ("LAKEBASE_ENDPOINT", ""),
        ("PGUSER", "native"),
        ("PGPASSWORD", "a-password"),
    ];
    let args = ["--schema", "app", "grant", "native", "--search-path"];
    let ran = run(args, &local.env(), &native).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let set = "DO $$ BEGIN ASSERT (SELECT setconfig::text LIKE '%search_path=app, public%' \
        FROM pg_db_role_setting WHERE setrole = 'native'::regrole AND setdatabase <> 0); END $$";
    local.sql(set).await.expect("the setting");
}

#[tokio::test]
async fn exec_warns_of_a_schema_that_is_missing() {
    let local = support::local().await;
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path().display().to_string();
    let changes = [("HOME", home.as_str())];
    let args = ["--schema", "app", "exec", "--", "true"];
    let ran = run(args, &local.env(), &changes).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for part in ["warning", "CREATE SCHEMA \"app\""] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    local
        .sql("CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC")
        .await
        .expect("a schema");
    let ran = run(args, &local.env(), &changes).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
}
