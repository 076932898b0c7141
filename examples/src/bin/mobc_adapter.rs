//! An adapter for a pool that these crates do not support, on `lakebase_core::adapter`: mobc with tokio-postgres.

use std::time::Duration;

use lakebase_core::{Error, Lakebase, adapter};
use lakebase_examples::place;
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

    /// If this fails, mobc opens a new connection. The timeout limits the delay on a dead network.
    async fn check(&self, client: Client) -> Result<Client, Error> {
        match timeout(Duration::from_secs(2), client.simple_query("")).await {
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
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let place = place(Duration::from_secs(3600), None).await?;
    let pool = build(&place.lakebase);
    let mut connections = Vec::new();
    for _ in 0..3 {
        let connection = get(&pool, &place.lakebase).await?;
        let row = connection.query_one("SELECT pg_backend_pid()", &[]);
        connections.push((row.await?.get::<_, i32>(0), connection));
    }
    let missing = place.lakebase.with_database("missing")?;
    let failed = get(&build(&missing), &missing).await.err();
    let failed = failed.as_ref().and_then(Error::sqlstate);
    let failed = failed.unwrap_or("none");
    let ids: Vec<_> = connections.iter().map(|(id, _)| id).collect();
    println!("sessions {ids:?}; a login to a missing database: SQLSTATE {failed}");
    drop(connections);
    place.leave().await;
    Ok(())
}
