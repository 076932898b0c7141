//! What happened: a log for assertions and reports.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

/// One thing that happened, in the order it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, by this machine's clock.
    pub at: SystemTime,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The workspace API answered a request.
    Api {
        /// Which call.
        call: Call,
        /// HTTP status; 0 if the connection was broken instead.
        status: u16,
    },
    /// Somebody signed in to the workspace and got a token, of whatever kind.
    WorkspaceToken {
        /// Client id of a service principal, or name of a person.
        identity: String,
    },
    /// A database credential was minted.
    Minted {
        /// Serial number of the token, counted from 1.
        token: u64,
        /// Whom it was made for.
        identity: String,
        /// Tables of Unity Catalog that it may read.
        claims: Vec<String>,
        /// By the platform's clock.
        issued_at: SystemTime,
        /// By the platform's clock.
        expires_at: SystemTime,
    },
    /// A login was accepted.
    LoggedIn(Login),
    /// A login was refused.
    Refused {
        /// The attempt.
        login: Login,
        /// SQLSTATE sent.
        sqlstate: String,
        /// Text sent.
        message: String,
    },
    /// A session ended.
    Ended {
        /// Postgres role.
        user: String,
    },
    /// The compute was suspended.
    Suspended,
    /// The compute is awake again.
    Awake,
    /// A branch was created and is ready.
    BranchCreated {
        /// Its id.
        branch: String,
    },
    /// A branch was deleted, by a request or because it had expired.
    BranchDeleted {
        /// Its id.
        branch: String,
        /// Permanently: it cannot be undeleted.
        purged: bool,
    },
}

/// A login as the gateway saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Postgres role asked for.
    pub user: String,
    /// Database asked for.
    pub database: String,
    /// `application_name` of the client.
    pub application_name: String,
    /// Host name the client asked TLS for.
    pub host: Option<String>,
    /// Id of the branch.
    pub branch: String,
    /// Serial number of the token; `None` for native passwords and unknown tokens.
    pub token: Option<u64>,
}

/// Calls of the workspace API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// OAuth and host metadata documents.
    Discovery,
    /// `POST /oidc/v1/token`.
    Token,
    /// `POST /api/2.0/postgres/credentials` and its Provisioned twin.
    Credential,
    /// Reads of endpoints and instances.
    Endpoint,
    /// `GET /api/2.0/preview/scim/v2/Me`.
    Me,
    /// An identity token, asked from the stand-in of GitHub.
    IdToken,
    /// A token of Entra ID, from its stand-in or that of the instance metadata service.
    Entra,
    /// A run of the stand-in of a command-line tool.
    Cli,
    /// The stand-in of the metadata service of an editor.
    MetadataService,
    /// Projects and their branches.
    Branch,
    /// Roles of a branch.
    Role,
    /// Databases of a branch.
    Database,
    /// Polls of long-running operations.
    Operation,
    /// Anything else.
    Other,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Requests to the workspace API.
    pub requests: u64,
    /// Calls of the credential API, whatever the answer.
    pub credential_calls: u64,
    /// Calls of the token endpoint, whatever the answer.
    pub token_calls: u64,
    /// Database credentials minted.
    pub minted: u64,
    /// Workspace tokens issued.
    pub workspace_tokens: u64,
    /// Logins accepted.
    pub logins: u64,
    /// Logins refused.
    pub refused: u64,
    /// Sessions open now.
    pub open_sessions: u64,
    /// Branches created.
    pub branches_created: u64,
    /// Deletions of branches. A soft deletion and the purge after it are two.
    pub branches_deleted: u64,
}

#[derive(Debug)]
pub(crate) struct EventLog {
    events: Mutex<Vec<Event>>,
    count: watch::Sender<usize>,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        Self {
            events: Mutex::default(),
            count: watch::Sender::new(0),
        }
    }

    pub(crate) fn record(&self, kind: EventKind) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        tracing::debug!(?kind, "event");
        events.push(Event {
            at: SystemTime::now(),
            kind,
        });
        self.count.send_replace(events.len());
    }

    pub(crate) fn all(&self) -> Vec<Event> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until the log satisfies `enough`, and returns it.
    pub(crate) async fn wait_until(&self, mut enough: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
        let mut count = self.count.subscribe();
        loop {
            count.mark_unchanged();
            let events = self.all();
            if enough(&events) || count.changed().await.is_err() {
                return events;
            }
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        for event in &*self.events.lock().unwrap_or_else(PoisonError::into_inner) {
            match &event.kind {
                EventKind::Api { call, .. } => {
                    counters.requests += 1;
                    match call {
                        Call::Credential => counters.credential_calls += 1,
                        Call::Token => counters.token_calls += 1,
                        _ => {}
                    }
                }
                EventKind::WorkspaceToken { .. } => counters.workspace_tokens += 1,
                EventKind::Minted { .. } => counters.minted += 1,
                EventKind::LoggedIn(_) => {
                    counters.logins += 1;
                    counters.open_sessions += 1;
                }
                EventKind::Refused { .. } => counters.refused += 1,
                EventKind::Ended { .. } => counters.open_sessions -= 1,
                EventKind::BranchCreated { .. } => counters.branches_created += 1,
                EventKind::BranchDeleted { .. } => counters.branches_deleted += 1,
                EventKind::Suspended | EventKind::Awake => {}
            }
        }
        counters
    }
}
