//! An HTTP server that answers as a workspace or as configured, and records the requests.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

pub(crate) struct Stub {
    pub(crate) url: String,
    inner: Arc<Inner>,
    task: AbortHandle,
}

type Respond = dyn Fn(&Seen) -> Option<Answer> + Send + Sync;

struct Inner {
    url: String,
    seen: Mutex<Vec<Seen>>,
    answer: Box<Respond>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    /// The number of this request among those to its path, from 1.
    pub(crate) count: usize,
    /// URL of the server.
    pub(crate) url: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    /// A field of the form or of the query.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let url = format!("{}/?{}&{}", self.url, self.query, self.body);
        let url = reqwest::Url::parse(&url).expect("a URL");
        let mut pairs = url.query_pairs();
        let (_, value) = pairs.find(|(key, _)| key == name)?;
        Some(value.into_owned())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    gate: Option<Arc<Semaphore>>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            gate: None,
        }
    }

    /// Takes a permit from the gate before it is sent.
    pub(crate) fn behind(mut self, gate: &Arc<Semaphore>) -> Self {
        self.gate = Some(Arc::clone(gate));
        self
    }

    pub(crate) fn json(body: impl Into<String>) -> Self {
        Self::new(200, body).with("content-type", "application/json")
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Stub {
    /// A workspace without host metadata.
    pub(crate) async fn workspace() -> Self {
        Self::start(|_| None).await
    }

    /// Answers with `answer`; as a workspace where that is `None`.
    pub(crate) async fn start(
        answer: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let inner = Arc::new(Inner {
            url: url.clone(),
            seen: Mutex::default(),
            answer: Box::new(answer),
        });
        let router = Router::new()
            .fallback(respond)
            .with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            inner,
            task: task.abort_handle(),
        }
    }

    /// All requests to this path so far; to any path if it is empty.
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        let seen = self.inner.seen.lock().expect("not poisoned");
        let wanted = |seen: &&Seen| path.is_empty() || seen.path == path;
        seen.iter().filter(wanted).cloned().collect()
    }

    /// The last request to this path.
    pub(crate) fn last(&self, path: &str) -> Seen {
        let seen = self.seen(path).pop();
        seen.unwrap_or_else(|| panic!("no request for {path}: {:?}", self.paths()))
    }

    /// Attributes for a service principal of this workspace.
    pub(crate) fn service_principal(&self) -> [(&'static str, &str); 3] {
        [
            ("host", &self.url),
            ("client_id", "a"),
            ("client_secret", "b"),
        ]
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.seen("").into_iter().map(|seen| seen.path).collect()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) const METADATA: &str = "/.well-known/databricks-config";
pub(crate) const DISCOVERY: &str = "/oidc/.well-known/oauth-authorization-server";
pub(crate) const TOKEN: &str = "/oidc/v1/token";
pub(crate) const CREDENTIALS: &str = "/api/2.0/postgres/credentials";
pub(crate) const ME: &str = "/api/2.0/preview/scim/v2/Me";

async fn respond(
    State(inner): State<Arc<Inner>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let seen = {
        let mut all = inner.seen.lock().expect("not poisoned");
        let path = uri.path().to_owned();
        let seen = Seen {
            count: all.iter().filter(|seen| seen.path == path).count() + 1,
            path,
            query: uri.query().unwrap_or_default().to_owned(),
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
            url: inner.url.clone(),
        };
        all.push(seen.clone());
        seen
    };
    let answer = (inner.answer)(&seen).unwrap_or_else(|| usual(&seen));
    if let Some(gate) = answer.gate {
        gate.acquire().await.expect("never closed").forget();
    }
    let status = StatusCode::from_u16(answer.status).expect("a status");
    let mut response = (status, answer.body).into_response();
    for (name, value) in answer.headers {
        let value = value.parse().expect("a header");
        response.headers_mut().insert(name, value);
    }
    response
}

fn usual(seen: &Seen) -> Answer {
    let Seen { url, count, .. } = seen;
    match seen.path.as_str() {
        DISCOVERY => Answer::json(format!("{{\"token_endpoint\": \"{url}{TOKEN}\"}}")),
        TOKEN => Answer::json(token(*count, 3600)),
        CREDENTIALS => Answer::json(format!(
            "{{\"token\": \"database-{count}\", \"expire_time\": \"2999-01-01T00:00:00Z\"}}"
        )),
        ME => Answer::json("{\"userName\": \"ana@example.com\"}"),
        _ => Answer::new(404, ""),
    }
}

/// A reply with a workspace token.
pub(crate) fn token(number: usize, seconds: u64) -> String {
    format!(
        "{{\"access_token\": \"workspace-{number}\", \"token_type\": \"Bearer\", \"expires_in\": {seconds}}}"
    )
}
