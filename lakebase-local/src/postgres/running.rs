//! A server that somebody else runs, named by a URL: we borrow a database and some roles.

use std::fmt;
use std::time::Duration;

use tokio_postgres::config::Host;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::{OUR_PATH, Server, quote_ident, quote_literal, with_path};
use crate::Error;

/// Beginning of the names of the databases we make, and mark of the roles that belong to them.
const PREFIX: &str = "lakebase_local_";

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A database of our own on a running server. Dropping it drops that database and its roles.
pub(crate) struct Running {
    server: Server,
    config: tokio_postgres::Config,
    database: String,
    /// Holds the lock that says we are alive.
    _keeper: Client,
}

impl Running {
    /// `source` names where the URL came from; it may hold a password and is not repeated.
    pub(crate) async fn start(url: &str, source: &str) -> Result<Self, Error> {
        let mut config: tokio_postgres::Config = url
            .parse()
            .map_err(|error| Error::because(format!("{source} is no Postgres URL"), error))?;
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
        // Locks are local to a database: all must meet in the same one.
        config.dbname("postgres");
        with_path(&mut config, OUR_PATH);
        let keeper = connect(&config).await?;
        // The next start would take us for dead and drop what we use.
        run(&keeper, "SET idle_session_timeout = 0").await?;
        sweep(&keeper).await?;
        let database = format!("{PREFIX}{}", Uuid::new_v4().simple());
        let lock = format!(
            "SELECT pg_advisory_lock(hashtextextended({}, 0))",
            quote_literal(&database)
        );
        run(&keeper, &lock).await?;
        // Whatever the owner has put into template1 is not wanted here.
        run(
            &keeper,
            &format!("CREATE DATABASE {database} TEMPLATE template0"),
        )
        .await?;
        run(&keeper, &mark_database(&database, &database)).await?;
        Ok(Self {
            server: Server::running(config.clone(), database.clone()),
            config,
            database,
            _keeper: keeper,
        })
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
}

/// What a database of ours and its copies are commented with.
pub(crate) fn mark_database(name: &str, database: &str) -> String {
    let (name, mark) = (quote_ident(name), quote_literal(database));
    format!("COMMENT ON DATABASE {name} IS {mark}")
}

/// What a role is commented with, so that it can be found when its database goes.
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
        // Whatever runtime we are on (or none) may be ending; this one is ours.
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.map(|runtime| {
                runtime.block_on(async {
                    let admin = connect(&config).await?;
                    remove(&admin, &database).await
                })
            })
        });
        if let Ok(Ok(Err(error))) = cleaning.join() {
            tracing::warn!(%error, "could not remove the database");
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

async fn connect(config: &tokio_postgres::Config) -> Result<Client, Error> {
    let connecting = tokio::time::timeout(CONNECT_LIMIT, config.connect(NoTls)).await;
    let connecting = connecting
        .map_err(|_| Error::new("what listens there does not answer as a Postgres does"))?;
    let (client, connection) =
        connecting.map_err(|error| Error::because("cannot reach the running Postgres", error))?;
    tokio::spawn(connection);
    Ok(client)
}

async fn run(client: &Client, sql: &str) -> Result<(), Error> {
    client.batch_execute(sql).await.map_err(|error| {
        Error::because(
            "the running Postgres refuses (its user must be superuser)",
            error,
        )
    })
}

/// Removes what a run that was killed left behind: its lock is free.
async fn sweep(client: &Client) -> Result<(), Error> {
    let failed = |error| Error::because("cannot look for what was left behind", error);
    // Our exact form and our own mark: nobody else's database is touched.
    let pattern = format!("^{PREFIX}[0-9a-f]{{32}}$");
    let found = client
        .query(
            "SELECT datname FROM pg_database \
             WHERE datname ~ $1 AND shobj_description(oid, 'pg_database') = datname",
            &[&pattern],
        )
        .await
        .map_err(failed)?;
    for row in found {
        let database: String = row.get(0);
        let free: bool = client
            .query_one(
                "SELECT pg_try_advisory_lock(hashtextextended($1, 0))",
                &[&database],
            )
            .await
            .map_err(failed)?
            .get(0);
        if free {
            remove(client, &database).await?;
            let unlock = format!(
                "SELECT pg_advisory_unlock(hashtextextended({}, 0))",
                quote_literal(&database)
            );
            run(client, &unlock).await?;
        }
    }
    Ok(())
}

/// Drops a database, its copies and the roles marked with it.
async fn remove(client: &Client, database: &str) -> Result<(), Error> {
    let failed = |error| Error::because("cannot look for what to remove", error);
    let copies = client
        .query(
            "SELECT datname FROM pg_database \
             WHERE shobj_description(oid, 'pg_database') = $1 OR datname = $1",
            &[&database],
        )
        .await
        .map_err(failed)?;
    for row in copies {
        let name = quote_ident(row.get(0));
        run(
            client,
            &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
        )
        .await?;
    }
    let roles = client
        .query(
            "SELECT rolname FROM pg_roles WHERE shobj_description(oid, 'pg_authid') = $1",
            &[&database],
        )
        .await
        .map_err(failed)?;
    for row in roles {
        run(
            client,
            &format!("DROP ROLE IF EXISTS {}", quote_ident(row.get(0))),
        )
        .await?;
    }
    Ok(())
}
