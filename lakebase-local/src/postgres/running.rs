//! A borrowed server: a running Postgres on which we create a database and roles.

use std::fmt;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::{OUR_PATH, Server, quote_ident, quote_literal, with_path};
use crate::Error;

/// Prefix of the name of a run. Its database has that name, and its roles have it as their mark.
const PREFIX: &str = "lakebase_local_";

/// Postgres's limit for names, in bytes.
const LONGEST_NAME: usize = 63;

/// The databases and roles of each run, and the statement that drops each. A database is recognised by its random
/// name, as a run may be killed before it adds a comment.
const TRACES: &str = "(
    SELECT substring(datname::text FROM '^(lakebase_local_[0-9a-f]{32})(_[0-9a-f]{15})?$') AS run,
        format('DROP DATABASE IF EXISTS %I WITH (FORCE)', datname) AS removal FROM pg_database
    UNION ALL
    SELECT substring(shobj_description(oid, 'pg_authid') FROM '^lakebase_local_[0-9a-f]{32}$'),
        format('DROP ROLE IF EXISTS %I', rolname) FROM pg_roles
) AS traces";

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Pause between attempts to take the lock again.
const KEEPER_PAUSE: Duration = Duration::from_millis(50);

/// A database of our own on a running server. Dropping it drops that database and its roles.
pub(crate) struct Running {
    server: Server,
    config: tokio_postgres::Config,
    database: String,
    /// Holds the lock of this run.
    keeper: JoinHandle<()>,
}

impl Running {
    /// `source` names the setting of the URL. Errors do not repeat the URL, which may contain a password.
    pub(crate) async fn start(url: &str, source: &str) -> Result<Self, Error> {
        let mut config: tokio_postgres::Config = url
            .parse()
            .map_err(|error| Error::because(format!("{source} is not a Postgres URL"), error))?;
        let is_here = |host: &Host| match host {
            Host::Tcp(name) => {
                name == "localhost"
                    || name
                        .parse()
                        .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
            }
            Host::Unix(_) => true,
        };
        let addresses = config.get_hostaddrs();
        if config.get_hosts().len() != 1
            || !config.get_hosts().iter().all(is_here)
            || !addresses.iter().all(|address| address.is_loopback())
        {
            return Err(Error::new(format!(
                "{source} must name one host, on this machine: the connection is not encrypted"
            )));
        }
        // Locks are local to a database, so all runs use the same one.
        config.dbname("postgres");
        with_path(&mut config, OUR_PATH);
        let database = format!("{PREFIX}{}", Uuid::new_v4().simple());
        let keeper = claim(&config, &database).await?;
        warn_of(sweep(&keeper.0).await);
        // template1 may contain objects of the server's owner.
        let create = format!("CREATE DATABASE {database} TEMPLATE template0");
        run(&keeper.0, &create).await?;
        Ok(Self {
            server: Server::running(config.clone(), database.clone()),
            keeper: tokio::spawn(keep(config.clone(), database.clone(), keeper)),
            config,
            database,
        })
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
}

/// Returns a new name for a copy. Its form makes the cleanup of the run drop it.
pub(crate) fn copy_name(database: &str) -> String {
    let mut name = format!("{database}_{}", Uuid::new_v4().simple());
    name.truncate(LONGEST_NAME);
    name
}

/// The comment of a role, by which the cleanup finds it.
pub(crate) fn mark(role: &str, database: &str) -> String {
    format!(
        "COMMENT ON ROLE {} IS {}",
        quote_ident(role),
        quote_literal(database)
    )
}

impl Drop for Running {
    fn drop(&mut self) {
        let (config, database) = (self.config.clone(), self.database.clone());
        // A runtime of our own, as the caller's may be ending.
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.map(|runtime| {
                runtime.block_on(async {
                    let (admin, _) = connect(&config).await?;
                    remove(&admin, &database).await
                })
            })
        });
        if let Ok(Ok(cleaned)) = cleaning.join() {
            warn_of(cleaned);
        }
        self.keeper.abort();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// A session, and the task that ends when the session does.
type Session = (Client, JoinHandle<()>);

async fn connect(config: &tokio_postgres::Config) -> Result<Session, Error> {
    let connecting = tokio::time::timeout(CONNECT_LIMIT, config.connect(NoTls)).await;
    let connecting =
        connecting.map_err(|_| Error::new("the server does not respond like a Postgres"))?;
    let (client, connection) =
        connecting.map_err(|error| Error::because("cannot reach the running Postgres", error))?;
    let connection = tokio::spawn(async {
        let _ = connection.await;
    });
    Ok((client, connection))
}

/// Opens the session that holds the lock of this run: other starts remove a run whose lock is free.
async fn claim(config: &tokio_postgres::Config, database: &str) -> Result<Session, Error> {
    let session = connect(config).await?;
    let lock = format!(
        "SET idle_session_timeout = 0; SELECT pg_advisory_lock(hashtextextended({}, 0))",
        quote_literal(database)
    );
    run(&session.0, &lock).await?;
    Ok(session)
}

/// Takes the lock again when the session ends, for example when the server restarts. Another start that sweeps
/// before that drops our database.
async fn keep(config: tokio_postgres::Config, database: String, mut session: Session) {
    loop {
        let _ = (&mut session.1).await;
        session = loop {
            match claim(&config, &database).await {
                Ok(session) => break session,
                Err(_) => tokio::time::sleep(KEEPER_PAUSE).await,
            }
        };
    }
}

async fn run(client: &Client, sql: &str) -> Result<(), Error> {
    client.batch_execute(sql).await.map_err(|error| {
        Error::because(
            "the running Postgres rejected a statement (its user must be superuser)",
            error,
        )
    })
}

/// Removes the traces of runs whose locks are free: those were killed, or could not remove everything.
async fn sweep(client: &Client) -> Result<(), Error> {
    let failed = |error| Error::because("cannot look for ended runs", error);
    let runs = format!("SELECT DISTINCT run FROM {TRACES} WHERE run IS NOT NULL");
    let runs = client.query(&runs, &[]).await.map_err(failed)?;
    let mut left = Vec::new();
    for row in runs {
        let run: String = row.get(0);
        let lock = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))";
        let lock = client.query_one(lock, &[&run]).await.map_err(failed)?;
        if lock.get(0) {
            let removed = remove(client, &run).await;
            left.extend(removed.err().map(|error| error.chain()));
            let unlock = "SELECT pg_advisory_unlock(hashtextextended($1, 0))";
            client.query(unlock, &[&run]).await.map_err(failed)?;
        }
    }
    none_of(left)
}

/// Drops a run's databases, then its roles, which own objects in those. Continues after a failure: the next
/// sweep finds the run by any trace that is left.
async fn remove(client: &Client, run: &str) -> Result<(), Error> {
    let failed = |error| Error::because("cannot look for databases and roles", error);
    let removals = format!("SELECT removal FROM {TRACES} WHERE run = $1 ORDER BY removal");
    let removals = client.query(&removals, &[&run]).await.map_err(failed)?;
    let mut left = Vec::new();
    for row in removals {
        let removal: String = row.get(0);
        if let Err(error) = client.batch_execute(&removal).await {
            left.push(Error::because(removal, error).chain().replace('\n', " "));
        }
    }
    none_of(left)
}

fn none_of(left: Vec<String>) -> Result<(), Error> {
    match left.is_empty() {
        true => Ok(()),
        false => Err(Error::new(left.join("; "))),
    }
}

fn warn_of(left: Result<(), Error>) {
    if let Err(error) = left {
        tracing::warn!(
            "objects remain on the borrowed Postgres; the next start removes them: {}",
            error.chain()
        );
    }
}
