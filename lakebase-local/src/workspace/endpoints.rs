//! Endpoints of branches.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;

use super::api::not_found;
use super::page::{Params, page};
use super::{Shared, Workspace};
use crate::branches::Branch;
use crate::reply::{Answer, Failure};

impl Workspace {
    /// Returns the branch of an endpoint.
    pub(super) fn endpoint(&self, path: &str) -> Result<Arc<Branch>, Failure> {
        let branch = path.rsplit_once("/endpoints/").map(|(branch, _)| branch);
        let branch = branch.and_then(|branch| self.branches.get(branch).ok());
        let is_there = |branch: &Arc<Branch>| {
            let place = &branch.place;
            path == place.endpoint_path() || (path == place.replica_path() && place.is_production())
        };
        branch
            .filter(is_there)
            .ok_or_else(|| not_found("endpoint", path))
    }
}

pub(super) async fn list(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> Answer {
    workspace.caller(&headers)?;
    let branch = workspace.branch(&project, &branch)?;
    let endpoints = branch.describe_replica().into_iter();
    let endpoints = endpoints.chain([branch.describe_endpoint()]).collect();
    // One on a page, so that clients must read several pages.
    page("endpoints", endpoints, &params, 1)
}

pub(super) async fn get(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, endpoint)): Path<(String, String, String)>,
) -> Answer {
    workspace.caller(&headers)?;
    let path = format!("projects/{project}/branches/{branch}/endpoints/{endpoint}");
    let branch = workspace.endpoint(&path)?;
    let replica = branch.describe_replica();
    let replica = replica.filter(|_| path == branch.place.replica_path());
    let described = replica.unwrap_or_else(|| branch.describe_endpoint());
    Ok(Json(described).into_response())
}
