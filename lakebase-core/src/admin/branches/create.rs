//! Creates a branch and waits until it accepts a login.

use std::time::Duration;

use reqwest::Method;
use tokio::time::Instant;

use super::Branches;
use super::api::{Change, encoded};
use super::branch::{Branch, api_of};
use super::new_branch::NewBranch;
use super::rule::DELETED;
use super::state::BranchState;
use super::wait::Wait;
use crate::error::Error;

/// The platform reports times in whole seconds, and its clocks differ a little.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

/// Why [`Branches::try_create`] failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct NotCreated {
    /// The cause.
    pub error: Error,
    /// Whether the branch may exist now or later. False only if the workspace rejected the one request for it, or no request was sent;
    /// a branch with this id is then another one.
    pub may_exist: bool,
}

/// The branch that has the requested id.
enum Found {
    /// None, or a deleted branch.
    Nothing,
    Created(Branch),
    Another,
}

impl Branches {
    /// Creates a branch and waits until it accepts a login. A new branch rejects valid credentials for some time, which is part of the
    /// wait.
    ///
    /// If the reply to the request is lost, the branch may exist. This method then looks it up, and takes it as the new one if its
    /// source and its time of creation match.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] for settings that contradict each other. [`Error::is_sign_in`] if the identity lacks CAN MANAGE on
    /// the project. [`Error::is_platform`] with a hint for each rule of the platform: the id is in use (HTTP status 409), a deleted
    /// branch has it, the expiry is too late, the project has too many branches. [`Error::is_timeout`] after
    /// [`NewBranch::timeout`], or about a minute if the workspace never replies; the branch may exist then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a branch may remain until its expiry.
    pub async fn create(&self, new: NewBranch) -> Result<Branch, Error> {
        self.try_create(new).await.map_err(|failed| failed.error)
    }

    /// Like [`create`](Self::create), for callers that clean up: the error has a flag for a branch that may exist.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    ///
    /// # Cancel safety
    ///
    /// As [`create`](Self::create).
    pub async fn try_create(&self, new: NewBranch) -> Result<Branch, NotCreated> {
        let mut may_exist = false;
        let created = self.create_inner(new, &mut may_exist).await;
        created.map_err(|error| NotCreated { error, may_exist })
    }

    async fn create_inner(&self, new: NewBranch, may_exist: &mut bool) -> Result<Branch, Error> {
        let api = api_of(&self.lakebase, format!("branch {}", self.path(&new.id)))?;
        let body = new.body(&self.project)?;
        let mut wait = Wait::new(&api.resource, new.timeout).unless_unreachable();
        let path = format!(
            "{}/branches?branch_id={}",
            self.project,
            encoded(new.id.as_str())
        );
        let began = Instant::now();
        let mut in_doubt = false;
        let found = loop {
            *may_exist = true;
            match api
                .change(&Method::POST, &path, Some(&body), &mut wait)
                .await?
            {
                Change::Done => break None,
                Change::InDoubt(error) if !error.is_transient() => return Err(error),
                Change::InDoubt(error) => {
                    in_doubt = true;
                    if let Found::Created(branch) =
                        self.find_created(&new, began, &mut wait).await?
                    {
                        break Some(branch);
                    }
                    wait.pause(error).await?;
                }
                Change::Rejected(error) if error.status() == Some(409) => {
                    *may_exist = in_doubt;
                    match self.find_created(&new, began, &mut wait).await {
                        Ok(Found::Created(branch)) if in_doubt => break Some(branch),
                        Ok(Found::Nothing) => return Err(error.with_hint(DELETED)),
                        _ => return Err(error),
                    }
                }
                Change::Rejected(error) => {
                    *may_exist = in_doubt;
                    return Err(error);
                }
            }
        };
        let mut branch = match found {
            Some(branch) => branch,
            None => self.look_up(&self.path(&new.id), &mut wait).await?,
        };
        branch.until_ready(&mut wait, new.logs_in).await?;
        Ok(branch)
    }

    /// Finds the branch that a request may have created.
    async fn find_created(
        &self,
        new: &NewBranch,
        began: Instant,
        wait: &mut Wait,
    ) -> Result<Found, Error> {
        let reply = match self.api()?.get(&self.path(&new.id), wait).await {
            Ok(reply) => reply,
            Err(error) if error.status() == Some(404) => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let branch = Branch::read(&self.lakebase, &reply.json()?)?;
        if *branch.state() == BranchState::Deleted {
            return Ok(Found::Nothing);
        }
        let now = reply.date.unwrap_or(reply.received.wall);
        let age = branch
            .created_at()
            .map(|at| now.duration_since(at).unwrap_or_default());
        let is_new = age.is_some_and(|age| age <= began.elapsed() + CLOCK_SLACK);
        let source = match &new.source {
            Some(source) => Some(source.clone()),
            None => {
                let all = self.list().await?;
                let default = all.iter().find(|branch| branch.is_default());
                default.map(|branch| branch.id().to_owned())
            }
        };
        let is_ours = is_new && branch.source() == source.as_deref();
        Ok(match is_ours {
            true => Found::Created(branch),
            false => Found::Another,
        })
    }
}
