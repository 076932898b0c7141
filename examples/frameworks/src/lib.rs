//! The Lakebase of the programs, and the client of the loco applications.

use std::collections::HashSet;
use std::env::var_os;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use lakebase_core::{Config, Lakebase};
use lakebase_local::{EventKind, LocalLakebase};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// The schema of all tables: an app's service principal has no privileges in `public`.
pub const SCHEMA: &str = "lakebase_examples";

/// The error type of all programs.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Returns the Lakebase of `LAKEBASE_ENDPOINT` or `PGHOST`, or starts a local one, whose tokens expire after three
/// seconds, if neither is set. Keep the local one as long as you connect.
pub async fn place() -> Result<(Lakebase, Option<LocalLakebase>), BoxError> {
    let is_set = |name| var_os(name).is_some_and(|value| !value.is_empty());
    let config = Config::builder().schema(SCHEMA);
    if is_set("LAKEBASE_ENDPOINT") || is_set("PGHOST") {
        return Ok((Lakebase::new(config.env().build()?)?, None));
    }
    let local = LocalLakebase::builder()
        .token_lifetime(Duration::from_secs(3))
        .start()
        .await?;
    let config = config.vars(local.env()).build()?;
    Ok((Lakebase::new(config)?, Some(local)))
}

/// Writes and reads notes over HTTP for six seconds. After each note it ends the connection that the application used,
/// so each note needs a new login.
pub async fn write_and_read(
    application: SocketAddr,
    lakebase: &Lakebase,
    local: Option<&LocalLakebase>,
) -> Result<String, BoxError> {
    let (client, connection) = lakebase.connect().await?;
    tokio::spawn(connection);
    let earlier = local.map_or(0, |local| local.events().len());

    let notes = 6;
    let mut sessions = HashSet::new();
    for number in 1..=notes {
        let text = format!("note {number}");
        let written = request(application, "POST /api/notes", &json!({ "text": text })).await?;
        let path = format!("GET /api/notes/{}", written["id"]);
        let read = request(application, &path, &Value::Null).await?;
        if read != written || read["text"] != json!(text) {
            return Err(format!("wrote {written}, read {read}").into());
        }
        let session = written["session"].as_i64().ok_or("no session")?;
        sessions.insert(session);
        let end = format!("SELECT pg_terminate_backend({session}, 5000)");
        client.batch_execute(&end).await?;
        sleep(Duration::from_secs(1)).await;
    }
    if sessions.len() != notes {
        return Err(format!("{notes} notes over {} connections", sessions.len()).into());
    }

    let Some(local) = local else {
        return Ok(format!("{notes} notes, each over a new connection"));
    };
    let events = local.events().into_iter().skip(earlier);
    let tokens: HashSet<_> = events
        .filter_map(|event| match event.kind {
            EventKind::LoggedIn(login) => login.token,
            _ => None,
        })
        .collect();
    if tokens.len() < 2 {
        return Err("the token did not rotate".into());
    }
    let tokens = tokens.len();
    Ok(format!(
        "{notes} notes, each over a new connection, with {tokens} tokens"
    ))
}

/// Sends one HTTP request and returns the JSON of the response.
async fn request(to: SocketAddr, request: &str, body: &Value) -> Result<Value, BoxError> {
    let body = body.to_string();
    let length = body.len();
    let mut stream = TcpStream::connect(to).await?;
    let message = format!(
        "{request} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(message.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or("no HTTP response")?;
    if !head.contains(" 200 ") {
        return Err(format!("{request}: {response}").into());
    }
    Ok(serde_json::from_str(body)?)
}
