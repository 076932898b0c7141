//! Checks the promises of the documentation on a real Lakebase, and prints a table. `.github/workflows/live.yml` runs it.
//!
//! `cargo run --locked -p lakebase-tests --bin live`, with the variables of an application (`docs/configuration.md`). It takes as
//! long as the shortest lifetime of a token, five minutes, and needs CAN MANAGE on the project and CREATE on the database. It
//! creates a schema and two temporary branches, and deletes them. It suspends nothing.
//!
//! On a local Lakebase: `lakebase-local target/debug/live`.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use futures_util::future::join_all;
use lakebase_core::testing::TestBranch;
use lakebase_core::{Config, Credential, CredentialProvider, Lakebase};
use lakebase_diesel::migrations::Migrations;
use lakebase_tests::{ADAPTERS, Adapter, App, open, tell};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// The shortest lifetime that the workspace accepts.
const TTL: Duration = Duration::from_secs(300);

type Outcome = Result<String, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let lakebase = match Config::builder().env().token_ttl(TTL).build() {
        Ok(config) => Lakebase::new(config),
        Err(error) => Err(error),
    };
    let lakebase = match lakebase {
        Ok(lakebase) => lakebase,
        Err(error) => {
            tell(&error.chain());
            return ExitCode::from(2);
        }
    };
    let schema = format!("lakebase_live_{}", std::process::id());
    let mut report = Report::default();

    report.add(
        "the workspace reports the identity",
        identity(&lakebase).await,
    );
    report.add(
        "the workspace reports the state of the compute",
        compute(&lakebase).await,
    );
    report.add(
        "a token has the requested lifetime at most",
        lifetime(&lakebase).await,
    );
    report.add(
        "the session's role is the configured user",
        role(&lakebase).await,
    );
    report.add(
        "a wrong token is rejected, and the error has the SQLSTATE",
        wrong_token(&lakebase).await,
    );

    let mut apps = Vec::new();
    for adapter in ADAPTERS {
        let outcome = match App::start(adapter, &lakebase).await {
            Ok(app) => {
                let outcome = app.ask().await;
                apps.push((adapter, app));
                outcome
            }
            Err(failure) => Err(failure),
        };
        let outcome = outcome.map(|()| String::new());
        report.add(
            &format!("{} logs in", adapter.name()),
            outcome.map_err(|failure| failure.to_string().into()),
        );
    }

    report.add(
        "a migration creates its schema and table there",
        migrate(&lakebase, &schema).await,
    );
    report.add(
        "a session begins in the configured schema",
        begins_in(&schema).await,
    );
    report.add(
        "a test branch is a copy, and is deleted",
        test_branch(&lakebase, &schema).await,
    );
    report.add(
        "a rehearsal runs what is pending on a copy only",
        rehearse(&lakebase, &schema).await,
    );

    report.add(
        "a token is renewed before its end, in the background",
        renewal(&lakebase, &apps).await,
    );
    for (adapter, app) in &apps {
        let outcome = app.log_in().await.map(|()| String::new());
        report.add(
            &format!("{} logs in after the first token's end", adapter.name()),
            outcome.map_err(|failure| failure.to_string().into()),
        );
    }
    report.add(
        "the schema is dropped",
        drop_schema(&lakebase, &schema).await,
    );
    report.finish()
}

/// Prints a row for each promise and counts.
#[derive(Default)]
struct Report {
    held: usize,
    broken: usize,
}

impl Report {
    fn add(&mut self, promise: &str, outcome: Outcome) {
        let (verdict, detail) = match outcome {
            Ok(detail) => {
                self.held += 1;
                ("held", detail)
            }
            Err(error) => {
                self.broken += 1;
                ("not held", chain(error.as_ref()))
            }
        };
        tell(&format!("{promise:<62}{verdict:<10}{detail}"));
    }

    fn finish(self) -> ExitCode {
        tell(&format!("{} held, {} not held", self.held, self.broken));
        if self.broken == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// The message and all causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.replace('\n', " ")
}

async fn identity(lakebase: &Lakebase) -> Outcome {
    let identity = lakebase.identity().await?;
    Ok(identity.ok_or("no workspace is configured")?)
}

async fn compute(lakebase: &Lakebase) -> Outcome {
    let status = lakebase
        .compute_status()
        .await?
        .ok_or("no workspace is configured")?;
    let state = status.state.ok_or("no state")?;
    Ok(match status.clock_ahead_seconds {
        Some(ahead) => format!("{state}, our clock is {ahead} s ahead"),
        None => state,
    })
}

async fn lifetime(lakebase: &Lakebase) -> Outcome {
    let left = left(&lakebase.credential().await?)?;
    if left > TTL + Duration::from_secs(5) {
        return Err(format!("{left:?} instead of {TTL:?}").into());
    }
    Ok(format!("{} s", left.as_secs()))
}

/// Returns the remaining validity by this machine's clock.
fn left(credential: &Credential) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let expiry = credential
        .expires_at()
        .ok_or("a password is configured, not a token")?;
    Ok(expiry.duration_since(SystemTime::now())?)
}

async fn value(lakebase: &Lakebase, sql: &str) -> Outcome {
    Ok(open(lakebase)
        .await?
        .query_one(sql, &[])
        .await?
        .try_get(0)?)
}

async fn role(lakebase: &Lakebase) -> Outcome {
    let role = value(lakebase, "SELECT session_user::text").await?;
    let target = lakebase.target().await?;
    if role != target.user() {
        return Err(format!("{role} instead of {}", target.user()).into());
    }
    Ok(format!(
        "{role}, Postgres {}",
        value(lakebase, "SHOW server_version").await?
    ))
}

#[derive(Debug)]
struct WrongToken;

impl CredentialProvider for WrongToken {
    async fn credential(&self) -> Result<Credential, lakebase_core::Error> {
        Ok(Credential::new("not-a-token", SystemTime::now() + TTL))
    }
}

async fn wrong_token(lakebase: &Lakebase) -> Outcome {
    let target = lakebase.target().await?;
    // Without the variables for authentication.
    let postgres =
        std::env::vars().filter(|(name, _)| name.starts_with("PG") && name != "PGPASSWORD");
    let config = Config::builder()
        .vars(postgres)
        .host(target.host())
        .user(target.user())
        .credential_provider(WrongToken)
        .build()?;
    match Lakebase::new(config)?.connect().await {
        Ok(_) => Err("it was accepted".into()),
        Err(error) if error.is_login() => {
            let state = error
                .sqlstate()
                .ok_or_else(|| format!("no SQLSTATE: {}", error.chain()))?;
            Ok(state.to_owned())
        }
        Err(error) => Err(error.chain().into()),
    }
}

fn migrations(lakebase: &Lakebase, schema: &str) -> Migrations {
    Migrations::new(lakebase).schema(schema).create_schema(true)
}

async fn migrate(lakebase: &Lakebase, schema: &str) -> Outcome {
    let first = migrations(lakebase, schema).run(MIGRATIONS).await?;
    let second = migrations(lakebase, schema).run(MIGRATIONS).await?;
    if first.is_empty() || !second.is_empty() {
        return Err(format!("first {first:?}, then {second:?}").into());
    }
    Ok(first.join(", "))
}

async fn begins_in(schema: &str) -> Outcome {
    let config = Config::builder().env().schema(schema).build()?;
    let found = value(&Lakebase::new(config)?, "SELECT current_schema()::text").await?;
    if found != schema {
        return Err(format!("{found} instead of {schema}").into());
    }
    Ok(found)
}

async fn test_branch(lakebase: &Lakebase, schema: &str) -> Outcome {
    let began = std::time::Instant::now();
    let branch = TestBranch::of_own(lakebase).await?;
    let ready = began.elapsed();
    let id = branch.branch().id().to_owned();
    // Only on the branch.
    let dropped = drop_schema(&branch.lakebase(), schema).await;
    branch.finish().await?;
    dropped?;
    if tables(lakebase, schema).await? == "0" {
        return Err("a change on the branch was one of the database".into());
    }
    let listed = lakebase.branches()?.list().await?;
    if listed.iter().any(|branch| branch.id() == id) {
        return Err(format!("{id} is still there").into());
    }
    Ok(format!("ready after {:.1} s", ready.as_secs_f64()))
}

async fn tables(lakebase: &Lakebase, schema: &str) -> Outcome {
    let sql = format!("SELECT count(*)::text FROM pg_tables WHERE schemaname = '{schema}'");
    value(lakebase, &sql).await
}

async fn rehearse(lakebase: &Lakebase, schema: &str) -> Outcome {
    let schema = format!("{schema}_rehearsed");
    let report = migrations(lakebase, &schema).rehearse(MIGRATIONS).await?;
    if !report.is_ok() {
        return Err(report.to_string().into());
    }
    if tables(lakebase, &schema).await? != "0" {
        return Err("the database itself was migrated".into());
    }
    Ok(report
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// Waits for a renewal in the background, and then for the expiry of the first token. Its session stays open.
async fn renewal(lakebase: &Lakebase, apps: &[(Adapter, App)]) -> Outcome {
    let session = open(lakebase).await?;
    let first = lakebase.credential().await?;
    let lifetime = left(&first)?;
    let mints = || lakebase.stats().token.map_or(0, |token| token.mints.count);
    let minted = mints();
    let mut wait = tokio::time::interval(Duration::from_secs(1));
    let ends = tokio::time::Instant::now() + lifetime;
    let mut renewed = None;
    while tokio::time::Instant::now() < ends {
        wait.tick().await;
        if renewed.is_none() && mints() > minted {
            renewed = Some(ends - tokio::time::Instant::now());
        }
    }
    session.simple_query("SELECT 1").await?;
    for outcome in join_all(apps.iter().map(|(_, app)| app.ask())).await {
        outcome.map_err(|failure| failure.to_string())?;
    }
    let early = renewed.ok_or("no new token before the first one's end")?;
    Ok(format!(
        "{} s before; open sessions continue",
        early.as_secs()
    ))
}

async fn drop_schema(lakebase: &Lakebase, schema: &str) -> Outcome {
    let sql = format!("DROP SCHEMA \"{schema}\" CASCADE");
    open(lakebase).await?.batch_execute(&sql).await?;
    Ok(schema.to_owned())
}
