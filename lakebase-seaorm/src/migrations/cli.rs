//! The program of a migration crate.

use std::error::Error as StdError;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::exit;

use clap::Parser;
use lakebase_core::adapter::migration::{MigrationError, MigrationSession};
use lakebase_core::{Config, Error, Lakebase};
use sea_orm_cli::{MigrateSubcommands, run_migrate_generate, run_migrate_init};
use sea_orm_migration::{MigrationStatus, MigratorTraitSelf};
use sqlx::postgres::PgConnectOptions;

use super::run::{Action, Run};

const MIGRATION_DIR: &str = "./";

/// The arguments of sea-orm-migration's program, so that `sea-orm-cli migrate` can run this one.
#[derive(Parser)]
#[command(version, about = "Migrations on Databricks Lakebase Postgres")]
struct Cli {
    /// Show debug messages
    #[arg(short, long, global = true)]
    verbose: bool,

    /// Schema for tables and history; created if it does not exist
    #[arg(short = 's', long, global = true, env = "DATABASE_SCHEMA")]
    database_schema: Option<String>,

    /// Shared owner that runs the migrations and owns what they create; you must be a member
    #[arg(long, global = true, value_name = "ROLE")]
    owner: Option<String>,

    /// Postgres URL of the Lakebase, instead of LAKEBASE_ENDPOINT or PGHOST
    #[arg(short = 'u', long, global = true)]
    database_url: Option<String>,

    #[command(subcommand)]
    command: Option<MigrateSubcommands>,
}

/// Replaces `sea_orm_migration::cli::run_cli` in the `main` of a migration crate. It has the same commands and options, runs
/// them with [`Migrations`](super::Migrations), and needs no `DATABASE_URL`.
///
/// ```no_run
/// # struct Migrator;
/// # impl sea_orm_migration::MigratorTrait for Migrator {
/// #     fn migrations() -> Vec<Box<dyn sea_orm_migration::MigrationTrait>> { Vec::new() }
/// # }
/// #[tokio::main]
/// async fn main() {
///     // before: sea_orm_migration::cli::run_cli(Migrator).await;
///     lakebase_seaorm::migrations::run_cli(Migrator).await;
/// }
/// ```
///
/// Reads arguments, the environment and a `.env` file, and prints. Exits with status 1 on an error. It does not use
/// `DATABASE_URL`; if that is the URL of another database, commands that drop tables fail, and the others print a warning.
pub async fn run_cli<M: MigratorTraitSelf>(migrator: M) {
    let env_file = dotenvy::dotenv().ok();
    let cli = Cli::parse();
    let level = match cli.verbose {
        true => "debug",
        // The error at the end contains what these warnings say.
        false => "warn,lakebase=error,lakebase::migration=warn",
    };
    let _ = tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
    if let Err(error) = run(&migrator, cli, env_file.as_deref()).await {
        warn(&error.chain());
        exit(1);
    }
}

async fn run<M: MigratorTraitSelf>(
    migrator: &M,
    cli: Cli,
    env_file: Option<&Path>,
) -> Result<(), MigrationError> {
    let not_written =
        |error: Box<dyn StdError>| MigrationError::new("cannot write the files", false, &*error);
    match &cli.command {
        Some(MigrateSubcommands::Init) => {
            return run_migrate_init(MIGRATION_DIR).map_err(not_written);
        }
        Some(MigrateSubcommands::Generate {
            migration_name,
            local_time,
            ..
        }) => {
            let written = run_migrate_generate(MIGRATION_DIR, migration_name, !local_time);
            return written.map_err(not_written);
        }
        _ => {}
    }
    let config = match &cli.database_url {
        Some(url) => Config::from_url(url)?,
        None => Config::from_env()?,
    };
    let lakebase = Lakebase::new(config)?;
    if cli.database_url.is_none() {
        check_database_url(&lakebase, cli.command.as_ref(), env_file).await?;
    }
    let mut session = MigrationSession::new(&lakebase);
    session.create_schema = true;
    session.schema = cli.database_schema.or(session.schema);
    session.owner = cli.owner;
    let run = Run {
        session: &session,
        migrations: Box::new(|| migrator.migrations()),
        history: migrator.migration_table_name(),
        observer: None,
        rehearsal: None,
    };
    let action = match cli.command {
        Some(MigrateSubcommands::Status) => {
            for (name, status) in run.read_status().await? {
                say(&format!("{:<8} {name}", status.to_string()));
            }
            return Ok(());
        }
        Some(MigrateSubcommands::Fresh) => Action::Fresh,
        Some(MigrateSubcommands::Refresh) => Action::Refresh,
        Some(MigrateSubcommands::Reset) => Action::Reset,
        Some(MigrateSubcommands::Down { num }) => Action::Down(Some(num)),
        Some(MigrateSubcommands::Up { num }) => Action::Up(num),
        _ => Action::Up(None),
    };
    let names = run.run(action).await?;
    let (done, nothing) = match action {
        Action::Up(_) => ("applied", "nothing pending"),
        Action::Down(_) => ("reverted", "nothing to revert"),
        Action::Fresh | Action::Refresh | Action::Reset => {
            let status = run.read_status().await?.into_iter();
            let applied = status.filter(|(_, status)| *status == MigrationStatus::Applied);
            say(&format!("done: {} applied", applied.count()));
            return Ok(());
        }
    };
    for name in &names {
        say(&format!("{done} {name}"));
    }
    if names.is_empty() {
        say(nothing);
    }
    Ok(())
}

/// `sea-orm-cli migrate -u URL` sets `DATABASE_URL`. If that is another database, the user may mean that one, so no command
/// drops tables.
async fn check_database_url(
    lakebase: &Lakebase,
    command: Option<&MigrateSubcommands>,
    env_file: Option<&Path>,
) -> Result<(), Error> {
    #[allow(clippy::disallowed_methods)] // a program
    let var = |name| std::env::var(name).ok().filter(|url| !url.is_empty());
    // `lakebase exec` sets it to the proxy of the same Lakebase.
    let by_exec = var("LAKEBASE_EXEC");
    let Some(url) = var("DATABASE_URL").filter(|url| by_exec.as_ref() != Some(url)) else {
        return Ok(());
    };
    let target = lakebase.direct().target().await?;
    let pooled = lakebase.target().await?;
    // With a socket, the host is the one of the environment.
    let parsed = url.parse::<PgConnectOptions>().ok();
    let parsed = parsed.filter(|url| url.get_socket().is_none());
    let is_same = parsed.as_ref().is_some_and(|url| {
        [target.host(), pooled.host()].contains(&url.get_host())
            && url.get_port() == target.port()
            && url.get_database() == Some(target.database())
    });
    if is_same {
        return Ok(());
    }
    let there = parsed.map_or(String::new(), |url| format!(" ({})", url.get_host()));
    let (from, remedy) = match env_file.filter(|file| has_database_url(file, &url)) {
        Some(file) => (
            format!("DATABASE_URL in {}", file.display()),
            "remove the line from that file",
        ),
        None => ("DATABASE_URL".to_owned(), "unset it"),
    };
    let here = format!("{}:{}/{}", target.host(), target.port(), target.database());
    let text = format!("{from} names another database{there} than the Lakebase {here}");
    match command {
        Some(
            MigrateSubcommands::Fresh
            | MigrateSubcommands::Refresh
            | MigrateSubcommands::Reset
            | MigrateSubcommands::Down { .. },
        ) => {
            let remedy = format!("{remedy} if the Lakebase is the one to be changed");
            Err(Error::config(format!("{text}: {remedy}")))
        }
        _ => {
            warn(&format!("{text}, where the migrations are"));
            Ok(())
        }
    }
}

/// True also if `sea-orm-cli`, which reads the same file, has set the variable.
fn has_database_url(file: &Path, url: &str) -> bool {
    let Ok(mut lines) = dotenvy::from_path_iter(file) else {
        return false;
    };
    lines.any(|line| line.is_ok_and(|(name, value)| name == "DATABASE_URL" && value == url))
}

#[allow(clippy::print_stderr)] // a program
fn warn(line: &str) {
    eprintln!("{line}");
}

#[allow(clippy::print_stdout)] // a program
fn say(line: &str) {
    println!("{line}");
}
