//! The project and its branches.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::{HeaderMap, Uri};
use axum::response::IntoResponse as _;
use serde_json::{Value, json};

use super::branch_spec::Spec;
use super::page::{Params, is_set, page};
use super::{Shared, Workspace};
use crate::branches::{Branch, NewBranch, State, exists};
use crate::gateway::Gateway;
use crate::ids::is_id;
use crate::place::Place;
use crate::reply::{Answer, Failure, rfc3339};

/// Longest page of a list.
const PAGE: usize = 100;

impl Workspace {
    fn check_project(&self, project: &str) -> Result<(), Failure> {
        if format!("projects/{project}") == Place::project_path() {
            return Ok(());
        }
        Err(Failure::new(404, "NOT_FOUND", "project id not found"))
    }

    /// Returns a branch that is not deleted.
    pub(super) fn branch(&self, project: &str, branch: &str) -> Result<Arc<Branch>, Failure> {
        self.check_project(project)?;
        self.branches.get(branch)
    }

    /// Returns a ready branch and its gateway.
    pub(super) fn ready(
        &self,
        project: &str,
        branch: &str,
    ) -> Result<(Arc<Branch>, Arc<Gateway>), Failure> {
        let branch = self.branch(project, branch)?;
        let gateway = branch.gateway().cloned();
        let gateway = gateway.ok_or_else(|| busy(&branch))?;
        Ok((branch, gateway))
    }

    /// Checks that the caller may change this project.
    fn manager(&self, headers: &HeaderMap, project: &str) -> Result<(), Failure> {
        let identity = self.caller(headers)?;
        self.check_project(project)?;
        if self.branches.may_manage(&identity) {
            return Ok(());
        }
        let text = format!(
            "{identity} does not have CAN MANAGE on {}",
            Place::project_path()
        );
        Err(Failure::new(403, "PERMISSION_DENIED", text))
    }

    fn describe_project(&self) -> Value {
        let production = self.branches.production();
        let created = rfc3339(production.created);
        let id = Place::project_path().replace("projects/", "");
        json!({
            "name": Place::project_path(),
            "project_id": id,
            "uid": "0c2f6d1e-1111-2222-3333-444455556666",
            "create_time": created,
            "update_time": created,
            "status": {
                "project_id": id,
                "display_name": id,
                "default_branch": production.place.branch_path(),
                "default_endpoint_settings": {
                    "autoscaling_limit_min_cu": 0.5,
                    "autoscaling_limit_max_cu": 4.0,
                    "suspend_timeout_duration": "86400s",
                },
                "enable_pg_native_login": true,
                "history_retention_duration": "604800s",
                "owner": self.people.user,
            },
        })
    }
}

fn busy(branch: &Branch) -> Failure {
    let text = format!("branch \"{}\" is not ready", branch.place.branch);
    Failure::new(409, "ABORTED", text)
}

pub(super) async fn projects(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Query(params): Query<Params>,
) -> Answer {
    workspace.caller(&headers)?;
    page(
        "projects",
        vec![workspace.describe_project()],
        &params,
        PAGE,
    )
}

pub(super) async fn project(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path(project): Path<String>,
) -> Answer {
    workspace.caller(&headers)?;
    workspace.check_project(&project)?;
    Ok(Json(workspace.describe_project()).into_response())
}

pub(super) async fn list(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path(project): Path<String>,
    Query(params): Query<Params>,
) -> Answer {
    workspace.caller(&headers)?;
    workspace.check_project(&project)?;
    let mut branches = workspace.branches.all();
    if !is_set(&params, "show_deleted") {
        branches.retain(|branch| branch.facts().state != State::Deleted);
    }
    let branches = branches.iter().map(|branch| branch.describe()).collect();
    page("branches", branches, &params, PAGE)
}

pub(super) async fn get(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch)): Path<(String, String)>,
) -> Answer {
    workspace.caller(&headers)?;
    workspace.check_project(&project)?;
    let branch = workspace.branches.get_any(&branch)?;
    Ok(Json(branch.describe()).into_response())
}

pub(super) async fn create(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path(project): Path<String>,
    Query(params): Query<Params>,
    Json(body): Json<Value>,
) -> Answer {
    workspace.manager(&headers, &project)?;
    let id = params
        .get("branch_id")
        .map(String::as_str)
        .unwrap_or_default();
    if id.is_empty() {
        return Err(Failure::required("branch_id"));
    }
    if !is_id(id) {
        let text = format!(
            "branch_id \"{id}\" is not valid: it must match ^[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?$"
        );
        return Err(Failure::invalid(text));
    }
    let spec = Spec::parse(&body, workspace.branches.clock.now())?;
    let expires = spec.expires.ok_or_else(Spec::no_expiry)?;
    if let Some(branch) = workspace.branches.find(id) {
        // As documented, this updates the branch and keeps its source.
        if is_set(&params, "replace_existing") && branch.facts().state == State::Ready {
            let update = workspace
                .branches
                .update(branch, spec.is_protected, spec.expires);
            return Ok(Json(update.await).into_response());
        }
        return Err(exists());
    }
    if let Some(source) = &spec.source {
        let of_project = format!("{}/branches/", Place::project_path());
        if !source.starts_with(&of_project) {
            let text = format!("Field 'branch.spec.source_branch' must begin with {of_project}");
            return Err(Failure::invalid(text));
        }
    }
    let new = NewBranch {
        id: id.to_owned(),
        source: spec.source,
        lsn: spec.lsn,
        expires,
        is_protected: spec.is_protected.unwrap_or_default(),
    };
    Ok(Json(workspace.branches.create(new).await?).into_response())
}

pub(super) async fn update(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch)): Path<(String, String)>,
    Query(params): Query<Params>,
    Json(body): Json<Value>,
) -> Answer {
    workspace.manager(&headers, &project)?;
    let (branch, _) = workspace.ready(&project, &branch)?;
    let mask = params.get("update_mask").filter(|mask| !mask.is_empty());
    let mask = mask.ok_or_else(|| Failure::required("update_mask"))?;
    let spec = Spec::parse(&body, workspace.branches.clock.now())?.masked(mask)?;
    if branch.place.is_production() && matches!(spec.expires, Some(Some(_))) {
        let text = "the default branch cannot expire";
        return Err(Failure::bad("BAD_REQUEST", text));
    }
    let update = workspace
        .branches
        .update(branch, spec.is_protected, spec.expires);
    Ok(Json(update.await).into_response())
}

pub(super) async fn delete(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> Answer {
    workspace.manager(&headers, &project)?;
    let branch = workspace.branches.get_any(&branch)?;
    let delete = workspace.branches.delete(branch, is_set(&params, "purge"));
    Ok(Json(delete.await?).into_response())
}

pub(super) async fn undelete(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch)): Path<(String, String)>,
) -> Answer {
    workspace.manager(&headers, &project)?;
    let branch = workspace.branches.get_any(&branch)?;
    Ok(Json(workspace.branches.undelete(branch).await?).into_response())
}

/// The state of an operation. Its name is the path.
pub(super) async fn operation(Extract(workspace): Shared, headers: HeaderMap, uri: Uri) -> Answer {
    workspace.caller(&headers)?;
    let name = uri.path().trim_start_matches('/');
    match workspace.branches.operations.find(name) {
        Some(operation) => Ok(Json(operation).into_response()),
        None => Err(Failure::new(404, "NOT_FOUND", "operation id not found")),
    }
}
