//! A web service with axum, bb8 and diesel-async: it migrates at start-up, stores notes, and reports its health without a query.
//! A failure that can pass is a 503, so that clients and load balancers retry. On SIGTERM it answers the open requests and ends.
//!
//! ```sh
//! LAKEBASE_SCHEMA=app lakebase local -- cargo run --bin api
//! curl -i --json '{"text": "milk"}' localhost:8000/notes
//! curl -i localhost:8000/health
//! ```

mod failure;

use std::env;
use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use lakebase_diesel::Lakebase;
use lakebase_diesel::bb8::Pool;
use lakebase_diesel::migrations::Migrations;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!();

diesel::table! {
    notes (id) {
        id -> BigInt,
        text -> Text,
    }
}

#[derive(Queryable, Selectable, Serialize)]
struct Note {
    id: i64,
    text: String,
}

#[derive(Deserialize, Insertable)]
#[diesel(table_name = notes)]
struct NewNote {
    text: String,
}

#[derive(Clone)]
struct App {
    lakebase: Lakebase,
    pool: Pool,
}

async fn list(State(app): State<App>) -> Result<Json<Vec<Note>>, Failure> {
    let mut connection = app.pool.get().await?;
    let query = notes::table.select(Note::as_select()).order(notes::id);
    Ok(Json(query.load(&mut connection).await?))
}

async fn add(
    State(app): State<App>,
    Json(note): Json<NewNote>,
) -> Result<(StatusCode, Json<Note>), Failure> {
    let mut connection = app.pool.get().await?;
    let insert = diesel::insert_into(notes::table)
        .values(note)
        .returning(Note::as_returning());
    Ok((
        StatusCode::CREATED,
        Json(insert.get_result(&mut connection).await?),
    ))
}

/// Sick if logins fail and no token is usable. Without a query, so that probes do not resume a suspended compute.
async fn health(State(app): State<App>) -> Response {
    let stats = app.lakebase.stats();
    let is_usable = |left: Option<Duration>| left.is_some_and(|left| !left.is_zero());
    let has_token = stats.token.is_none_or(|token| is_usable(token.usable_for));
    let status = if has_token || stats.logins.last_error.is_none() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(app.pool.stats())).into_response()
}

async fn stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("a handler for SIGTERM");
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome.expect("a handler for Ctrl-C"),
        _ = terminate.recv() => {}
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let lakebase = Lakebase::from_env()?;
    Migrations::new(&lakebase)
        .create_schema(true)
        .run(MIGRATIONS)
        .await?;
    let pool = lakebase_diesel::bb8::connect(&lakebase).await?;

    let app = Router::new()
        .route("/notes", get(list).post(add))
        .route("/health", get(health))
        .with_state(App { lakebase, pool });
    // Databricks Apps set the port, and connect from outside.
    let port = env::var("DATABRICKS_APP_PORT").map_or(Ok(8000), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop())
        .await?;
    Ok(())
}
