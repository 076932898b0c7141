//! An adapter for a pool that these crates do not support, on `lakebase_core::adapter`: mobc with tokio-postgres.

use lakebase_core::{Error, Lakebase, adapter};
use lakebase_examples::{Example, Result};
use mobc::{Connection, Pool};
use tokio::time::timeout;
use tokio_postgres::Client;

struct Manager(Lakebase);

#[mobc::async_trait]
impl mobc::Manager for Manager {
    type Connection = Client;
    type Error = Error;

    async fn connect(&self) -> Result<Client, Error> {
        let login = adapter::login(&self.0, |login| async move { login.open().await });
        let (client, connection) = login.await?;
        tokio::spawn(connection); // ends when the client is dropped
        Ok(client)
    }

    /// If this fails, mobc opens a new connection. The timeout limits the wait on a network that loses all packets.
    async fn check(&self, client: Client) -> Result<Client, Error> {
        match timeout(adapter::pool::CHECK_LIMIT, client.simple_query("")).await {
            Ok(Ok(_)) => Ok(client),
            Ok(Err(error)) => Err(Error::network("an idle connection was lost").with_source(error)),
            Err(_) => Err(Error::timeout("the check of an idle connection timed out")),
        }
    }

    fn validate(&self, client: &mut Client) -> bool {
        !client.is_closed()
    }
}

/// mobc closes an idle connection only at the next checkout, so the last ones may keep the compute active.
fn build(lakebase: &Lakebase) -> Pool<Manager> {
    Pool::builder()
        .max_open(adapter::pool::MAX_SIZE.into())
        .max_idle_lifetime(Some(adapter::pool::IDLE_TIMEOUT))
        .max_lifetime(Some(adapter::pool::max_lifetime()))
        .get_timeout(Some(adapter::pool::wait(lakebase)))
        .build(Manager(lakebase.clone()))
}

/// Returns a connection. After mobc's timeout, the error is the one of the last failed login, if there is one.
async fn get(pool: &Pool<Manager>, lakebase: &Lakebase) -> Result<Connection<Manager>, Error> {
    pool.get().await.map_err(|error| match error {
        mobc::Error::Inner(cause) => cause,
        other => adapter::last_failure_within(lakebase, lakebase.connect_timeout())
            .unwrap_or_else(|| Error::timeout(other.to_string())),
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let example = Example::start().await?;
    let pool = build(&example.lakebase);
    let mut connections = Vec::new();
    for _ in 0..3 {
        let connection = get(&pool, &example.lakebase).await?;
        let row = connection.query_one("SELECT pg_backend_pid()", &[]);
        connections.push((row.await?.get::<_, i32>(0), connection));
    }
    let missing = example.lakebase.with_database("missing")?;
    let failed = get(&build(&missing), &missing).await.err();
    let failed = failed.as_ref().and_then(Error::sqlstate);
    let failed = failed.unwrap_or("none");
    let ids: Vec<_> = connections.iter().map(|(id, _)| id).collect();
    println!("sessions {ids:?}; a login to a missing database: SQLSTATE {failed}");
    drop(connections);
    example.stop().await;
    Ok(())
}
