//! The branches of the one project: a Postgres, a compute and a gateway each.
//!
//! A branch is a copy of its source as it is when it is made; there is no history to go back to. Every
//! branch but production listens on a loopback address of its own. Passwords of native roles are the same
//! on a branch as on its source, also where the source is protected and the platform makes new ones.

mod branch;
pub(crate) mod expiry;
mod operations;
mod place;
mod serving;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) use branch::{Branch, State};
pub(crate) use operations::{Operations, empty};
pub(crate) use place::Place;
pub(crate) use serving::Serving;

use crate::certs::Authority;
use crate::clock::PlatformClock;
use crate::events::{EventKind, EventLog};
use crate::faults::LoginFault;
use crate::gateway::Gateway;
use crate::postgres::{Original, Postgres};
use crate::workspace::Failure;
use operations::Due;

/// How long a deleted branch can be had back. The platform documents no time.
const RETENTION: Duration = Duration::from_secs(7 * 86_400);
/// An LSN that is older by no more counts as the current one: the server itself writes now and then.
const LSN_SLACK: i64 = 64 * 1024;
/// As many as the platform allows.
const MOST_BRANCHES: usize = 500;
/// SQLSTATE of a fresh branch that rejects good tokens; the platform documents none.
const FRESH_SQLSTATE: &str = "28000";

#[derive(Debug)]
pub(crate) struct Branches {
    pub(crate) authority: Authority,
    pub(crate) clock: Arc<PlatformClock>,
    pub(crate) events: Arc<EventLog>,
    pub(crate) operations: Operations,
    production: Arc<Branch>,
    /// With production, by id.
    all: Mutex<BTreeMap<String, Arc<Branch>>>,
    /// Tells those who wait for times that these may have changed.
    changes: watch::Sender<()>,
    settings: Mutex<Settings>,
}

#[derive(Debug)]
struct Settings {
    fresh_refusal: Option<Duration>,
    limit: usize,
    may_not_manage: HashSet<String>,
}

/// A branch that somebody asks for.
#[derive(Debug)]
pub(crate) struct NewBranch {
    pub(crate) id: String,
    /// Path of the source; the default branch if it is not named.
    pub(crate) source: Option<String>,
    /// Where in the WAL of the source.
    pub(crate) lsn: Option<String>,
    pub(crate) expires: Option<SystemTime>,
    pub(crate) is_protected: bool,
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

    /// Everything there is, deleted branches included.
    pub(crate) fn all(&self) -> Vec<Arc<Branch>> {
        self.lock().values().cloned().collect()
    }

    /// By id or path, deleted or not.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Branch>> {
        let prefix = format!("{}/branches/", Place::project_path());
        let id = name.strip_prefix(&prefix).unwrap_or(name);
        self.lock().get(id).cloned()
    }

    /// One that is not deleted.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Branch>, Failure> {
        let found = self.find(name);
        found
            .filter(|branch| branch.facts().state != State::Deleted)
            .ok_or_else(unknown)
    }

    /// One that is there, or was deleted and can be had back.
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

    /// Starts to make a branch. The answer is the operation.
    pub(crate) async fn create(self: &Arc<Self>, new: NewBranch) -> Result<Value, Failure> {
        let path = new.source.as_deref();
        let source = match path {
            Some(path) => self.get(path)?,
            None => Arc::clone(&self.production),
        };
        if source.facts().state == State::Init {
            return Err(busy(&source));
        }
        let serving = source.serving().ok_or_else(unknown)?;
        let original = serving.original().ok_or_else(|| {
            Failure::bad(
                "BAD_REQUEST",
                "branches need a Postgres of lakebase-local's own: this one runs on a borrowed server, \
                 see LAKEBASE_LOCAL_PG_URL",
            )
        })?;
        if let Some(lsn) = &new.lsn {
            check_current(&original, lsn).await?;
        }
        let port = self
            .production
            .serving()
            .map(|serving| serving.address.port());
        let listening = serving::listen(port.unwrap_or_default()).await;
        let (listener, address, ip) =
            listening.map_err(|error| Failure::bad("BAD_REQUEST", error.chain()))?;
        let branch = Arc::new(Branch::new(
            Place::of_branch(&new.id, ip),
            Some(source.place.branch_path()),
            self.clock.now(),
            new.expires,
            new.is_protected,
        ));
        self.reserve(&branch)?;
        let branches = Arc::clone(self);
        let job = |due| async move {
            let made = branches.make(&branch, &source, original, due).await;
            let (gateway, postgres) = made.inspect_err(|_| branches.forget(&branch))?;
            let serving = Serving::start(gateway, postgres, listener, address);
            branch.serve(serving, branches.clock.now());
            branches.record(EventKind::BranchCreated {
                branch: branch.place.branch.clone(),
            });
            Ok(branch.describe())
        };
        let path = format!("{}/branches/{}", Place::project_path(), new.id);
        Ok(self.operations.run(&path, "Branch", job).await)
    }

    /// Takes the id, if it is free.
    fn reserve(&self, branch: &Arc<Branch>) -> Result<(), Failure> {
        let limit = self.settings().limit;
        let mut all = self.lock();
        let id = &branch.place.branch;
        if all.contains_key(id) {
            return Err(exists());
        }
        let is_there = |branch: &&Arc<Branch>| branch.facts().state != State::Deleted;
        if all.values().filter(is_there).count() >= limit {
            let text = format!("the project has reached its limit of {limit} branches");
            return Err(Failure::bad("BAD_REQUEST", text));
        }
        all.insert(id.clone(), Arc::clone(branch));
        Ok(())
    }

    fn forget(&self, branch: &Branch) {
        self.lock().remove(&branch.place.branch);
    }

    /// Makes what serves a branch.
    async fn make(
        &self,
        branch: &Branch,
        source: &Branch,
        original: Original,
        mut due: Due,
    ) -> Result<(Arc<Gateway>, Postgres), Failure> {
        let failed = |error: crate::Error| Failure::internal(error.chain());
        let tls = self.authority.server(branch.place.names());
        let tls = tls.map_err(failed)?;
        let (postgres, lsn) = original.copy().await.map_err(failed)?;
        let now = self.clock.now();
        branch.update(now, |facts| facts.point = Some((lsn, now)));
        let serving = source.serving().ok_or_else(unknown)?;
        let server = postgres.server().clone();
        let gateway = serving.gateway.of_branch(branch.place.clone(), tls, server);
        due.wait().await;
        if let Some(duration) = self.settings().fresh_refusal {
            let fault = LoginFault::fresh_branch(FRESH_SQLSTATE);
            gateway.rules.login_faults.set_for(duration, fault);
        }
        Ok((Arc::new(gateway), postgres))
    }

    /// Starts to delete a branch, for good or so that it can be had back.
    pub(crate) async fn delete(
        self: &Arc<Self>,
        branch: Arc<Branch>,
        purge: bool,
    ) -> Result<Value, Failure> {
        self.check_deletable(&self.lock(), &branch, purge)?;
        let branches = Arc::clone(self);
        let path = branch.place.branch_path();
        let job = |mut due: Due| async move {
            due.wait().await;
            branches.remove(&branch, purge).await?;
            Ok(empty())
        };
        Ok(self.operations.run(&path, "Branch", job).await)
    }

    fn check_deletable(
        &self,
        all: &BTreeMap<String, Arc<Branch>>,
        branch: &Arc<Branch>,
        purge: bool,
    ) -> Result<(), Failure> {
        let facts = branch.facts();
        let path = branch.place.branch_path();
        let is_known = all
            .get(&branch.place.branch)
            .is_some_and(|known| Arc::ptr_eq(known, branch));
        if !is_known || (facts.state == State::Deleted && !purge) {
            return Err(unknown());
        }
        if branch.place.is_production() {
            let text = format!("Cannot delete root branch '{path}'");
            return Err(Failure::bad("BAD_REQUEST", text).with_detail(json!({
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "RESOURCE_CONFLICT",
                "domain": "postgres.databricks.com",
                "metadata": { "declarative_context": "MANAGED_BY_PARENT" },
            })));
        }
        if facts.is_protected {
            return Err(Failure::bad(
                "BAD_REQUEST",
                "cannot delete protected branch",
            ));
        }
        if facts.state == State::Init {
            return Err(busy(branch));
        }
        let is_child = |other: &&Arc<Branch>| {
            other.source.as_ref() == Some(&path) && other.facts().state != State::Deleted
        };
        match all.values().find(is_child) {
            Some(child) => {
                let child = &child.place.branch;
                let text = format!("cannot delete branch with children, such as \"{child}\"");
                Err(Failure::bad("BAD_REQUEST", text))
            }
            None => Ok(()),
        }
    }

    async fn remove(&self, branch: &Arc<Branch>, purge: bool) -> Result<(), Failure> {
        let now = self.clock.now();
        {
            let mut all = self.lock();
            self.check_deletable(&all, branch, purge)?;
            if purge {
                all.remove(&branch.place.branch);
            }
            branch.update(now, |facts| {
                facts.state = State::Deleted;
                facts.deleted.get_or_insert((now, now + RETENTION));
            });
        }
        if let Some(serving) = branch.serving() {
            serving.close().await;
            if purge {
                // Waits for the server to end.
                let postgres = serving.take();
                let _ = tokio::task::spawn_blocking(move || drop(postgres)).await;
            }
        }
        self.record(EventKind::BranchDeleted {
            branch: branch.place.branch.clone(),
            purged: purge,
        });
        Ok(())
    }

    /// Starts to bring a deleted branch back.
    pub(crate) async fn undelete(self: &Arc<Self>, branch: Arc<Branch>) -> Result<Value, Failure> {
        if branch.facts().state != State::Deleted {
            return Err(Failure::bad("BAD_REQUEST", "branch is not deleted"));
        }
        let branches = Arc::clone(self);
        let path = branch.place.branch_path();
        let job = |mut due: Due| async move {
            due.wait().await;
            let serving = branch.serving().ok_or_else(unknown)?;
            let opened = serving.open().await;
            opened.map_err(|error| Failure::internal(error.chain()))?;
            let now = branches.clock.now();
            branch.update(now, |facts| {
                facts.state = State::Ready;
                facts.deleted = None;
                // It would go away again at once.
                facts.expires = facts.expires.filter(|expires| *expires > now);
            });
            branches.changes.send_replace(());
            Ok(branch.describe())
        };
        Ok(self.operations.run(&path, "Branch", job).await)
    }

    /// Changes protection and expiry; the outer `None` leaves things as they are.
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

    /// Stops accepting. Dropping what is returned stops every Postgres and removes its data, and blocks.
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

/// There is no history, so the LSN has to be the current one.
async fn check_current(original: &Original, lsn: &str) -> Result<(), Failure> {
    let invalid = |text| Err(Failure::bad("INVALID_PARAMETER_VALUE", text));
    let is_number = |part: &str| {
        (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if !lsn
        .split_once('/')
        .is_some_and(|(high, low)| is_number(high) && is_number(low))
    {
        return invalid(format!("source_branch_lsn \"{lsn}\" is not an LSN"));
    }
    let bytes = original.bytes_since(lsn).await;
    match bytes.map_err(|error| Failure::internal(error.chain()))? {
        ..0 => invalid(format!("source_branch_lsn \"{lsn}\" is still to come")),
        0..=LSN_SLACK => Ok(()),
        _ => invalid(format!(
            "source_branch_lsn \"{lsn}\" is too old: lakebase-local keeps no history"
        )),
    }
}
