//! Metrics and probes of `lakebase proxy`, over HTTP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lakebase_core::Lakebase;
use lakebase_core::telemetry::Stats;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use crate::metrics;

/// Time limit of a connection. Responses come from memory, so only the client can be slow.
const CONNECTION_LIMIT: Duration = Duration::from_secs(5);
/// More connections wait.
const MOST_CONNECTIONS: usize = 64;

/// Serves until the runtime ends. Returns the address.
pub(crate) async fn serve(
    address: SocketAddr,
    databases: Vec<Lakebase>,
) -> Result<SocketAddr, lakebase_core::Error> {
    let bound = TcpListener::bind(address).await;
    let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = bound.map_err(|error| {
        lakebase_core::Error::config(format!("--http: cannot listen on {address}: {error}"))
    })?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(databases.into())
        .layer(map_response(async |response: Response| {
            ([(CONNECTION, "close")], response)
        }));
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let limited = Limited { listener, places };
    tokio::spawn(async move { axum::serve(limited, router).await });
    Ok(address)
}

type Databases = State<Arc<[Lakebase]>>;

async fn metrics(State(databases): Databases) -> impl IntoResponse {
    let stats: Vec<_> = databases
        .iter()
        .map(|lakebase| (lakebase.database(), lakebase.stats()))
        .collect();
    (
        [(CONTENT_TYPE, metrics::CONTENT_TYPE)],
        metrics::render(&stats),
    )
}

async fn readyz(State(databases): Databases) -> Response {
    let failing: Map<String, Value> = databases
        .iter()
        .filter_map(|lakebase| {
            let cause = failure(&lakebase.stats())?;
            Some((lakebase.database().to_owned(), cause.into()))
        })
        .collect();
    match failing.is_empty() {
        true => "ok\n".into_response(),
        false => {
            let body = Json(json!({ "not_ready": failing }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

/// Returns why a login would fail now. An outage of Postgres alone is no reason: it ends with the next login, which a
/// failing probe would prevent.
fn failure(stats: &Stats) -> Option<String> {
    let last_error = stats.logins.last_error.clone();
    if stats.logins.succeeded.count == 0 {
        return Some(last_error.unwrap_or_else(|| "no login has succeeded yet".to_owned()));
    }
    let usable_for = stats.token.as_ref()?.usable_for.unwrap_or_default();
    last_error.filter(|_| usable_for.is_zero())
}

/// Limits the number of connections, and their time.
struct Limited {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl axum::serve::Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        let connection = Connection {
            stream,
            end: Box::pin(sleep(CONNECTION_LIMIT)),
            _place: place,
        };
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Returns the stream, or an error after the time limit.
    fn stream(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream(cx)?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(cx)?.poll_shutdown(cx)
    }
}
