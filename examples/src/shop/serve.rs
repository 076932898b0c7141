//! The HTTP server.

use std::env::VarError;

use axum::Router;
use tokio::net::TcpListener;

use crate::Result;

/// Serves on `SHOP_ADDRESS` (default: 127.0.0.1:8080) until Ctrl-C. Open requests are completed.
pub async fn serve(routes: Router) -> Result<()> {
    let address = match std::env::var("SHOP_ADDRESS") {
        Err(VarError::NotPresent) => "127.0.0.1:8080".to_owned(),
        given => given?,
    };
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("cannot listen on {address:?}: {error}"))?;
    println!("the shop is open at http://{}/", listener.local_addr()?);
    axum::serve(listener, routes)
        .with_graceful_shutdown(interrupted())
        .await?;
    Ok(())
}

async fn interrupted() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::warn!(%error, "cannot listen for Ctrl-C");
        std::future::pending::<()>().await;
    }
}
