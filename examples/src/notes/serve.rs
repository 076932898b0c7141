//! Start-up of the programs.

use std::env::var;
use std::time::Duration;

use lakebase_core::users::UserPools;
use tokio::net::TcpListener;

use super::{Notes, Users, add_people, front, routes};
use crate::{Example, Result};

/// Uses the configured Lakebase or starts a local one with three people. The schema is that of `LAKEBASE_SCHEMA`, or `schema`.
pub async fn start(schema: &str) -> Result<Example> {
    let schema = var("LAKEBASE_SCHEMA").unwrap_or_else(|_| schema.to_owned());
    let example = Example::start_with(&schema, Duration::from_secs(3600), None).await?;
    if let Some(local) = &example.local {
        add_people(local).await?;
    }
    Ok(example)
}

/// Serves until Ctrl-C: on `NOTES_ADDRESS`, on the port that Databricks Apps set, or on 127.0.0.1:8080.
pub async fn serve<P: Notes>(pools: UserPools<P>, example: Example) -> Result<()> {
    let address = var("NOTES_ADDRESS")
        .or_else(|_| var("DATABRICKS_APP_PORT").map(|port| format!("0.0.0.0:{port}")))
        .unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(address).await?;
    let headers = Default::default();
    let mut app = routes(Users { pools, headers });
    if let Some(local) = &example.local {
        if !listener.local_addr()?.ip().is_loopback() {
            return Err(
                "the login page is for a loopback address only: set LAKEBASE_ENDPOINT".into(),
            );
        }
        app = front(app, local);
    }
    println!("notes are at http://{}/", listener.local_addr()?);
    let interrupted = async { drop(tokio::signal::ctrl_c().await) };
    let server = axum::serve(listener, app);
    server.with_graceful_shutdown(interrupted).await?;
    example.stop().await;
    Ok(())
}
