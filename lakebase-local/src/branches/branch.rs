//! One branch, and its description by the API.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::serving::Serving;
use crate::gateway::Gateway;
use crate::place::Place;
use crate::reply::rfc3339;

#[derive(Debug)]
pub(crate) struct Branch {
    pub(crate) place: Place,
    pub(crate) created: SystemTime,
    /// Path of the source; the root has none.
    pub(crate) source: Option<String>,
    facts: Mutex<Facts>,
    serving: OnceLock<Serving>,
}

/// The parts that change.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) state: State,
    pub(crate) state_changed: SystemTime,
    pub(crate) updated: SystemTime,
    pub(crate) is_protected: bool,
    pub(crate) expires: Option<SystemTime>,
    /// When it was deleted, and when it is purged.
    pub(crate) deleted: Option<(SystemTime, SystemTime)>,
    /// LSN and time of the copy of the source.
    pub(crate) point: Option<(String, SystemTime)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Init,
    Ready,
    Deleted,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Ready => "READY",
            Self::Deleted => "DELETED",
        }
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, state, host) = (&self.place.branch, self.facts().state, &self.place.host);
        write!(f, "{id:24}{:9}{host:16}", state.name())?;
        let source = self.source.as_deref().unwrap_or_default();
        f.write_str(source.rsplit('/').next().unwrap_or_default())
    }
}

impl Branch {
    pub(crate) fn new(
        place: Place,
        source: Option<String>,
        now: SystemTime,
        expires: Option<SystemTime>,
        is_protected: bool,
    ) -> Self {
        Self {
            place,
            created: now,
            source,
            facts: Mutex::new(Facts {
                state: State::Init,
                state_changed: now,
                updated: now,
                is_protected,
                expires,
                deleted: None,
                point: None,
            }),
            serving: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn facts(&self) -> Facts {
        self.lock().clone()
    }

    pub(crate) fn update(&self, now: SystemTime, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.lock();
        let before = facts.state;
        change(&mut facts);
        facts.updated = now;
        if facts.state != before {
            facts.state_changed = now;
        }
    }

    /// Makes it ready.
    pub(crate) fn serve(&self, serving: Serving, now: SystemTime) {
        let _ = self.serving.set(serving);
        self.update(now, |facts| facts.state = State::Ready);
    }

    /// `None` until it is ready for the first time.
    pub(crate) fn serving(&self) -> Option<&Serving> {
        self.serving.get()
    }

    /// `None` unless it is ready.
    pub(crate) fn gateway(&self) -> Option<&Arc<Gateway>> {
        match self.facts().state {
            State::Ready => self.serving().map(|serving| &serving.gateway),
            State::Init | State::Deleted => None,
        }
    }

    pub(crate) fn describe(&self) -> Value {
        let facts = self.facts();
        let mut status = json!({
            "branch_id": self.place.branch,
            "current_state": facts.state.name(),
            "default": self.place.is_production(),
            "is_protected": facts.is_protected,
            "state_change_time": rfc3339(facts.state_changed),
        });
        let mut add = |name: &str, value: String| status[name] = value.into();
        if facts.state == State::Init {
            add("pending_state", "READY".to_owned());
        }
        if let Some(source) = &self.source {
            add("source_branch", source.clone());
        }
        if let Some((lsn, time)) = facts.point {
            add("source_branch_lsn", lsn);
            add("source_branch_time", rfc3339(time));
        }
        if let Some(expires) = facts.expires {
            add("expire_time", rfc3339(expires));
        }
        if let Some((deleted, purged)) = facts.deleted {
            add("delete_time", rfc3339(deleted));
            add("purge_time", rfc3339(purged));
        }
        json!({
            "name": self.place.branch_path(),
            "branch_id": self.place.branch,
            "parent": Place::project_path(),
            "uid": self.place.uid,
            "create_time": rfc3339(self.created),
            "update_time": rfc3339(facts.updated),
            "status": status,
        })
    }

    pub(crate) fn describe_endpoint(&self) -> Value {
        let place = &self.place;
        let state = match self.gateway() {
            Some(gateway) if gateway.compute.is_awake() => "ACTIVE",
            Some(_) => "IDLE",
            None => "INIT",
        };
        let mut endpoint = json!({
            "name": place.endpoint_path(),
            "uid": place.endpoint_uid,
            "parent": place.branch_path(),
            "endpoint_id": "primary",
            "create_time": rfc3339(self.created),
            "status": {
                "endpoint_id": "primary",
                "endpoint_type": "ENDPOINT_TYPE_READ_WRITE",
                "current_state": state,
                "autoscaling_limit_min_cu": 0.5,
                "autoscaling_limit_max_cu": 4.0,
                "suspend_timeout_duration": "86400s",
                "disabled": false,
                "group": { "min": 1, "max": 1, "enable_readable_secondaries": false },
                "settings": { "pg_settings": {} },
            },
        });
        // As on the platform, a new endpoint has no hosts yet.
        if state != "INIT" {
            endpoint["status"]["hosts"] = json!({
                "host": place.host,
                "read_write_pooled_host": place.pooled_host,
                "read_only_host": place.read_only_host,
                "read_only_pooled_host": place.read_only_pooled_host,
            });
        }
        endpoint
    }

    /// A read replica, which only the root has.
    pub(crate) fn describe_replica(&self) -> Option<Value> {
        let place = &self.place;
        let replica = || {
            json!({
                "name": place.replica_path(),
                "uid": "ep-replica",
                "parent": place.branch_path(),
                "endpoint_id": "replica",
                "status": {
                    "endpoint_id": "replica",
                    "endpoint_type": "ENDPOINT_TYPE_READ_ONLY",
                    "current_state": "ACTIVE",
                    "hosts": {
                        "host": place.read_only_host,
                        "read_only_host": place.read_only_host,
                        "read_only_pooled_host": place.read_only_pooled_host,
                    },
                },
            })
        };
        place.is_production().then(replica)
    }
}
