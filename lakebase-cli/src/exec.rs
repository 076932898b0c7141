//! A login for another program.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::{Command, ExitCode};
use std::time::Duration;

use lakebase_core::Lakebase;
use lakebase_core::migration::MigrationSession;

use crate::args::{self, Target};
use crate::connection::{Password, sslmode, url_of};
use crate::roots;

/// Would lead a driver elsewhere, or make it want what a token login cannot give.
const IN_THE_WAY: &[&str] = &[
    "LAKEBASE_PG_URL",
    "PGCHANNELBINDING",
    "PGGSSENCMODE",
    "PGHOSTADDR",
    "PGLOADBALANCEHOSTS",
    "PGPASSFILE",
    "PGREQUIREAUTH",
    "PGREQUIRESSL",
    "PGSERVICE",
    "PGSSLCERT",
    "PGSSLCERTMODE",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLKEY",
    "PGSSLNEGOTIATION",
    "PGSSLSNI",
    "PGTARGETSESSIONATTRS",
];

/// What a warning is worth.
const SCHEMA_CHECK: Duration = Duration::from_secs(10);

/// The command with everything in its environment that drivers look for.
pub(crate) async fn prepare(
    wanted: &Target,
    command: &[OsString],
    password_in_url: bool,
) -> Result<Command, Box<dyn Error>> {
    let (program, arguments) = command.split_first().ok_or("no command")?;
    if program.is_empty() || program.as_encoded_bytes().starts_with(b"-") {
        let text = format!("{program:?} is no command, but an option that exec does not have");
        return Err(lakebase_core::Error::config(text).into());
    }
    let config = wanted.config()?;
    // What was said on the command line counts below it, too.
    let compute = [
        ("endpoint", "LAKEBASE_ENDPOINT"),
        ("instance", "LAKEBASE_INSTANCE_NAME"),
    ]
    .map(|(name, variable)| (variable, args::setting(&config, name)));
    let lakebase = Lakebase::new(config.clone())?.direct();
    let target = lakebase.target().await?;
    let roots = roots::file(&config, &target)?;
    let credential = lakebase.credential().await?;
    let password = match password_in_url {
        true => Password::Shown(credential.expose()),
        false => Password::Elsewhere,
    };
    let url = url_of(&target, password, roots.as_deref())?;
    let mut command = Command::new(program);
    for name in IN_THE_WAY {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .env("PGHOST", target.host())
        .env("PGPORT", target.port().to_string())
        .env("PGDATABASE", target.database())
        .env("PGUSER", target.user())
        .env("PGPASSWORD", credential.expose())
        .env("PGSSLMODE", sslmode(&target))
        .env("DATABASE_URL", url.as_str())
        .env("LAKEBASE_EXEC", "1");
    for (variable, value) in compute {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    match roots {
        Some(roots) => command.env("PGSSLROOTCERT", roots),
        None => command.env_remove("PGSSLROOTCERT"),
    };
    if let Some(address) = target.hostaddr() {
        command.env("PGHOSTADDR", address.to_string());
    }
    if let Some(schema) = lakebase.schema() {
        warn_of_missing_schema(&lakebase).await;
        command.env("LAKEBASE_SCHEMA", schema);
        // What sea-orm-cli calls it.
        command.env("DATABASE_SCHEMA", schema);
    }
    // The URL itself is taken away.
    if let Some(name) = args::setting_of_url(&config, "application_name") {
        command.env("PGAPPNAME", name);
    }
    if let Some(profile) = &wanted.profile {
        command.env("DATABRICKS_CONFIG_PROFILE", profile);
    }
    if wanted.timeout.is_some() || args::setting_of_url(&config, "connect_timeout").is_some() {
        // Whole seconds, to libpq; zero is no limit there.
        let seconds = lakebase.connect_timeout().as_secs_f64().ceil().max(1.0);
        command.env("PGCONNECT_TIMEOUT", seconds.to_string());
    }
    if let Some(options) = target.startup_options() {
        let known = std::env::var("PGOPTIONS").unwrap_or_default();
        command.env("PGOPTIONS", format!("{known} {options}").trim_start());
    }
    Ok(command)
}

/// Tools say "permission denied for schema public" then: Postgres skips a schema that is missing. No more than a
/// warning, as the command may be the one that creates it.
async fn warn_of_missing_schema(lakebase: &Lakebase) {
    let wait = SCHEMA_CHECK.min(lakebase.connect_timeout());
    let Ok((client, connection)) = lakebase.with_connect_timeout(wait).connect().await else {
        // The command says why.
        return;
    };
    let session = tokio::spawn(connection);
    if let Err(error) = MigrationSession::new(lakebase).has_schema(&client).await {
        let _ = writeln!(io::stderr(), "lakebase: warning: {}", error.chain());
    }
    drop(client);
    let _ = session.await;
}

/// Never comes back where a process can become another one.
pub(crate) fn become_command(mut command: Command) -> ExitCode {
    #[cfg(unix)]
    let outcome: Result<ExitCode, _> = Err(std::os::unix::process::CommandExt::exec(&mut command));
    #[cfg(not(unix))]
    let outcome = command.status().map(|status| {
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        ExitCode::from(code.unwrap_or(1))
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let program = command.get_program().display();
            let _ = writeln!(io::stderr(), "lakebase: cannot run {program}: {error}");
            // As shells say it.
            ExitCode::from(match error.kind() {
                io::ErrorKind::NotFound => 127,
                _ => 126,
            })
        }
    }
}
