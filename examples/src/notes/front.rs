//! A replacement for the proxy of Databricks Apps, for a local Lakebase only: a login page without passwords.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Form, Request, State};
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use lakebase_local::LocalLakebase;
use serde::Deserialize;

use super::page;
use crate::Result;

/// The first one can read all notes.
const PEOPLE: [&str; 3] = ["ana@example.com", "bo@example.com", "cy@example.com"];
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Creates three people with roles, and the group that reads all notes.
pub async fn add_people(local: &LocalLakebase) -> Result<()> {
    for person in PEOPLE {
        local.add_user(person);
        local.create_role(person).await?;
    }
    let [admin, ..] = PEOPLE;
    local.create_group_role("notes_admins", &[admin]).await?;
    let grant = format!("GRANT notes_admins TO \"{admin}\"");
    Ok(local.sql(&grant).await?)
}

/// Puts the login page in front of the application.
pub fn front(app: Router, local: &LocalLakebase) -> Router {
    let token = |person| local.forwarded_token(person, TOKEN_LIFETIME, &["postgres"]);
    let tokens = Arc::new(PEOPLE.map(|person| (person, token(person))));
    Router::new()
        .route("/login", get(async || page::login(&PEOPLE)).post(log_in))
        .merge(app.layer(from_fn_with_state(tokens, forward)))
}

#[derive(Deserialize)]
struct Login {
    person: String,
}

async fn log_in(Form(Login { person }): Form<Login>) -> Response {
    let cookie = format!("person={person}; Path=/; HttpOnly; SameSite=Lax");
    ([(SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

type Tokens = Arc<[(&'static str, String); 3]>;

/// Replaces the headers of the client by those of the person in the cookie.
async fn forward(State(tokens): State<Tokens>, mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    let is_forwarded = |name: &&HeaderName| name.as_str().starts_with("x-forwarded-");
    let sent: Vec<HeaderName> = headers.keys().filter(is_forwarded).cloned().collect();
    for name in sent {
        headers.remove(name);
    }
    let Some((person, token)) = person(headers, &tokens) else {
        return Redirect::to("/login").into_response();
    };
    headers.insert("x-forwarded-email", person);
    headers.insert("x-forwarded-access-token", token);
    next.run(request).await
}

fn person(headers: &HeaderMap, tokens: &Tokens) -> Option<(HeaderValue, HeaderValue)> {
    let mut cookies = headers.get(COOKIE)?.to_str().ok()?.split("; ");
    let name = cookies.find_map(|cookie| cookie.strip_prefix("person="))?;
    let (person, token) = tokens.iter().find(|(person, _)| *person == name)?;
    Some((HeaderValue::from_static(person), token.parse().ok()?))
}
