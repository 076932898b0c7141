//! Creates a branch: checks the request at once, and copies the source in the background.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use super::operations::Due;
use super::serving::{Serving, listen};
use super::{Branch, Branches, State, busy, exists, unknown};
use crate::events::EventKind;
use crate::faults::LoginFault;
use crate::gateway::Gateway;
use crate::place::Place;
use crate::postgres::{Original, Postgres};
use crate::reply::Failure;

/// An LSN that is at most this much older counts as the current one, as the server itself writes WAL.
const LSN_SLACK: i64 = 64 * 1024;
/// SQLSTATE with which a new branch rejects valid tokens; the platform documents none.
const FRESH_SQLSTATE: &str = "28000";

/// A branch to create, as a request describes it.
#[derive(Debug)]
pub(crate) struct NewBranch {
    pub(crate) id: String,
    /// Path of the source. Default: the default branch.
    pub(crate) source: Option<String>,
    /// Position in the WAL of the source.
    pub(crate) lsn: Option<String>,
    pub(crate) expires: Option<SystemTime>,
    pub(crate) is_protected: bool,
}

impl Branches {
    /// Starts to create a branch. Returns the operation.
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
        let listening = listen(port.unwrap_or_default()).await;
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

    /// Reserves the id, if it is free.
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

    /// Copies the Postgres of the source, and creates the gateway.
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
}

/// There is no history, so the LSN must be the current one.
async fn check_current(original: &Original, lsn: &str) -> Result<(), Failure> {
    let invalid = |text| Err(Failure::invalid(text));
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
