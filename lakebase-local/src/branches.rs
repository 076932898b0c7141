//! The branches of the project, each with a Postgres, a compute and a gateway.
//!
//! A branch is a copy of the present state of its source; there is no history. Every branch except production
//! listens on a loopback address of its own. A branch keeps the passwords of native roles, although the platform
//! creates new ones if the source is protected.

mod branch;
mod create;
mod delete;
pub(crate) mod expiry;
mod operations;
mod serving;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::watch;

pub(crate) use branch::{Branch, State};
pub(crate) use create::NewBranch;
pub(crate) use operations::{Operations, empty};
pub(crate) use serving::Serving;

use crate::certs::Authority;
use crate::clock::PlatformClock;
use crate::events::{EventKind, EventLog};
use crate::place::Place;
use crate::postgres::Postgres;
use crate::reply::Failure;

/// The platform's limit.
const MOST_BRANCHES: usize = 500;

#[derive(Debug)]
pub(crate) struct Branches {
    pub(crate) authority: Authority,
    pub(crate) clock: Arc<PlatformClock>,
    pub(crate) events: Arc<EventLog>,
    pub(crate) operations: Operations,
    production: Arc<Branch>,
    /// By id, with production.
    all: Mutex<BTreeMap<String, Arc<Branch>>>,
    /// Changes when an expiry may have changed.
    changes: watch::Sender<()>,
    settings: Mutex<Settings>,
}

#[derive(Debug)]
struct Settings {
    fresh_refusal: Option<Duration>,
    limit: usize,
    may_not_manage: HashSet<String>,
}

impl Branches {
    pub(crate) fn new(
        authority: Authority,
        clock: Arc<PlatformClock>,
        events: Arc<EventLog>,
        place: Place,
        serving: Serving,
    ) -> Self {
        let now = clock.now();
        let production = Arc::new(Branch::new(place, None, now, None, false));
        production.serve(serving, now);
        let all = [(production.place.branch.clone(), Arc::clone(&production))];
        Self {
            authority,
            clock,
            events,
            operations: Operations::default(),
            production,
            all: Mutex::new(all.into()),
            changes: watch::Sender::new(()),
            settings: Mutex::new(Settings {
                fresh_refusal: None,
                limit: MOST_BRANCHES,
                may_not_manage: HashSet::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Branch>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn production(&self) -> &Arc<Branch> {
        &self.production
    }

    /// All branches, including deleted ones.
    pub(crate) fn all(&self) -> Vec<Arc<Branch>> {
        self.lock().values().cloned().collect()
    }

    /// Finds a branch by id or path, deleted or not.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Branch>> {
        let prefix = format!("{}/branches/", Place::project_path());
        let id = name.strip_prefix(&prefix).unwrap_or(name);
        self.lock().get(id).cloned()
    }

    /// Returns a branch that is not deleted.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Branch>, Failure> {
        let found = self.find(name);
        found
            .filter(|branch| branch.facts().state != State::Deleted)
            .ok_or_else(unknown)
    }

    /// Returns a branch, deleted or not.
    pub(crate) fn get_any(&self, name: &str) -> Result<Arc<Branch>, Failure> {
        self.find(name).ok_or_else(unknown)
    }

    pub(crate) fn set_fresh_refusal(&self, duration: Option<Duration>) {
        self.settings().fresh_refusal = duration;
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.settings().limit = limit;
    }

    pub(crate) fn set_may_manage(&self, identity: &str, may: bool) {
        let mut settings = self.settings();
        match may {
            true => settings.may_not_manage.remove(identity),
            false => settings.may_not_manage.insert(identity.to_owned()),
        };
    }

    pub(crate) fn may_manage(&self, identity: &str) -> bool {
        !self.settings().may_not_manage.contains(identity)
    }

    /// Changes protection and expiry; an outer `None` keeps the current value.
    pub(crate) async fn update(
        &self,
        branch: Arc<Branch>,
        is_protected: Option<bool>,
        expires: Option<Option<SystemTime>>,
    ) -> Value {
        branch.update(self.clock.now(), |facts| {
            facts.is_protected = is_protected.unwrap_or(facts.is_protected);
            facts.expires = expires.unwrap_or(facts.expires);
        });
        self.changes.send_replace(());
        let path = branch.place.branch_path();
        let job = |_| async move { Ok(branch.describe()) };
        self.operations.run(&path, "Branch", job).await
    }

    fn record(&self, kind: EventKind) {
        self.events.record(kind);
        self.changes.send_replace(());
    }

    /// Stops accepting connections. Dropping the result stops every Postgres and removes its data, and blocks.
    pub(crate) fn take(&self) -> Vec<Postgres> {
        self.operations.abort();
        let all = self.all();
        let serving = all.iter().filter_map(|branch| branch.serving());
        serving.filter_map(Serving::take).collect()
    }
}

fn unknown() -> Failure {
    Failure::new(404, "NOT_FOUND", "branch id not found")
}

pub(crate) fn exists() -> Failure {
    let text = "branch with such id already exists";
    Failure::new(409, "ALREADY_EXISTS", text)
}

fn busy(branch: &Branch) -> Failure {
    let id = &branch.place.branch;
    let text = format!("branch \"{id}\" is not ready: another operation is in progress");
    Failure::new(409, "ABORTED", text)
}
