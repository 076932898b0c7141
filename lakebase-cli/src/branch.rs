//! Branches: list, create, delete, and one for a single command.

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anstyle::AnsiColor;
use lakebase_core::Lakebase;
use lakebase_core::admin::schema::Snapshot;
use lakebase_core::admin::{Branch, BranchId, BranchState, Branches, Expiry, NewBranch};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::args::{BranchCommand, CreateBranch, Target};
use crate::command::Signals;
use crate::terminal::{print_note, progress};
use crate::write_stdout;

/// Attempts to delete a branch whose creation a signal has interrupted.
const MOST_ATTEMPTS: u32 = 3;

pub(crate) async fn run(target: &Target, command: &BranchCommand) -> Result<(), Box<dyn Error>> {
    let branches = target.lakebase()?.branches()?;
    match command {
        BranchCommand::List { json } => {
            let mut all = branches.list().await?;
            all.sort_by(|one, other| one.id().cmp(other.id()));
            match json {
                true => {
                    let all: Vec<Value> = all.iter().map(to_json).collect();
                    write_stdout(&format!("{:#}\n", json!({ "branches": all })))?;
                }
                false => write_stdout(&table(&all))?,
            }
        }
        BranchCommand::Create(args) => create(&branches, args).await?,
        BranchCommand::Show { name, json } => show(&branches.get(name).await?, *json)?,
        BranchCommand::Wait { name, limit, json } => {
            let mut branch = branches.get(name).await?;
            let text = format!("waiting for {name}");
            progress(&text, branch.wait_ready(*limit)).await?;
            show(&branch, *json)?;
        }
        BranchCommand::Delete {
            name,
            purge,
            yes,
            if_exists,
        } => {
            let mut branch = match if_exists {
                false => branches.get(name).await?,
                true => match find(&branches, name).await? {
                    Some(branch) => branch,
                    None => return Ok(()),
                },
            };
            check_deletion(&branch, *yes)?;
            let text = format!("deleting {name}");
            progress(&text, delete_protected(&mut branch, *purge)).await?;
        }
        BranchCommand::Diff {
            before,
            after,
            markdown,
            json,
        } => {
            let (before, after) = (branches.get(before).await?, branches.get(after).await?);
            let (one, other) = (before.lakebase(), after.lakebase());
            let (before, after) = tokio::try_join!(snapshot(&one), snapshot(&other))?;
            let difference = before.diff(&after);
            write_stdout(&match (markdown, json) {
                (true, _) => difference.to_markdown(),
                (_, true) => format!("{:#}\n", serde_json::to_value(&difference)?),
                _ => coloured(&difference.to_string()),
            })?;
        }
        BranchCommand::Extend {
            name,
            ttl,
            yes,
            json,
        } => {
            let mut branch = branches.get(name).await?;
            check_change(&branch, *yes)?;
            branch.set_expiry(*ttl).await?;
            show(&branch, *json)?;
        }
        BranchCommand::Cleanup {
            prefix,
            older_than,
            purge,
            yes,
        } => cleanup(&branches, prefix, *older_than, *purge, *yes).await?,
    }
    Ok(())
}

/// Colours the lines of a difference.
fn coloured(difference: &str) -> String {
    let line = |line: &str| {
        let style = match line.as_bytes().first() {
            Some(b'+') => AnsiColor::Green.on_default(),
            Some(b'-') => AnsiColor::Red.on_default(),
            Some(b'~') => AnsiColor::Yellow.on_default(),
            _ => return format!("{line}\n"),
        };
        format!("{style}{line}{style:#}\n")
    };
    difference.lines().map(line).collect()
}

async fn find(branches: &Branches, name: &str) -> Result<Option<Branch>, lakebase_core::Error> {
    match branches.get(name).await {
        Err(error) if error.status() == Some(404) => Ok(None),
        found => found.map(Some),
    }
}

/// Reads the configured schema, or all schemas.
async fn snapshot(lakebase: &Lakebase) -> Result<Snapshot, lakebase_core::Error> {
    let snapshot = Snapshot::of(lakebase).await?;
    Ok(match lakebase.schema() {
        Some(schema) => snapshot.only_schema(schema),
        None => snapshot,
    })
}

/// Returns the branch of this id, if it can be used instead of a new one. Purges a deleted branch, which keeps its id until
/// then.
async fn existing(
    branches: &Branches,
    id: &BranchId,
    args: &CreateBranch,
) -> Result<Option<Branch>, lakebase_core::Error> {
    let Some(mut branch) = find(branches, id.as_str()).await? else {
        return Ok(None);
    };
    if *branch.state() == BranchState::Deleted {
        branch.purge().await?;
        return Ok(None);
    }
    if let (Some(wanted), source) = (&args.from, branch.source())
        && source != Some(wanted)
    {
        let source = source.unwrap_or("no other branch");
        let text = format!("branch {id} exists and was made from {source}, not from {wanted}");
        return Err(lakebase_core::Error::config(text));
    }
    // A branch that is still being created has a new expiry.
    if *branch.state() != BranchState::Init {
        extend(&mut branch, args.ttl).await?;
    }
    let text = format!("waiting for {id}");
    let wait = async {
        match args.no_login {
            true => branch.wait_ready_without_login(args.limit).await,
            false => branch.wait_ready(args.limit).await,
        }
    };
    progress(&text, wait).await?;
    Ok(Some(branch))
}

/// Sets the expiry, unless the current one is later.
async fn extend(branch: &mut Branch, ttl: Expiry) -> Result<(), lakebase_core::Error> {
    let Some(expires) = branch.expires_at() else {
        return Ok(());
    };
    let is_longer = match ttl {
        Expiry::After(ttl) => SystemTime::now()
            .checked_add(ttl)
            .is_none_or(|at| at > expires),
        _ => true,
    };
    match is_longer {
        true => branch.set_expiry(ttl).await,
        false => Ok(()),
    }
}

/// Deletes the branch that `create --replace` replaces.
async fn purge_existing(
    branches: &Branches,
    id: &BranchId,
    args: &CreateBranch,
) -> Result<(), lakebase_core::Error> {
    let Some(mut branch) = find(branches, id.as_str()).await? else {
        return Ok(());
    };
    check_deletion(&branch, args.yes)?;
    // Nothing is deleted if the new branch cannot be created.
    match &args.from {
        Some(from) if from == id.as_str() => {
            let text = format!("--replace: {id} cannot be replaced by a copy of itself");
            return Err(lakebase_core::Error::config(text));
        }
        Some(from) => drop(branches.get(from).await?),
        None => {}
    }
    let text = format!("deleting {id}");
    progress(&text, delete_protected(&mut branch, true)).await
}

async fn create(branches: &Branches, args: &CreateBranch) -> Result<(), Box<dyn Error>> {
    let id = match (&args.name, &args.git) {
        (Some(name), _) => BranchId::new(name)?,
        (None, Some(git)) => BranchId::from_git(git),
        (None, None) => return Err("no name: give NAME or --git".into()),
    };
    if args.if_not_exists
        && let Some(branch) = existing(branches, &id, args).await?
    {
        return Ok(show(&branch, args.json)?);
    }
    if args.replace {
        purge_existing(branches, &id, args).await?;
    }
    let mut new = NewBranch::new(id, args.ttl).timeout(args.limit);
    if let Some(source) = &args.from {
        new = new.source(source);
    }
    if let Some(time) = args.at {
        new = new.at_time(time.into());
    }
    if args.protected {
        new = new.protected();
    }
    if args.no_login {
        new = new.without_login();
    }
    let text = format!("creating {}", new.id());
    let branch = progress(&text, branches.create(new)).await?;
    Ok(show(&branch, args.json)?)
}

/// Rejects a change of the default branch or a protected one without `--yes`.
pub(crate) fn check_change(branch: &Branch, yes: bool) -> Result<(), lakebase_core::Error> {
    let what = match (branch.is_default(), branch.is_protected()) {
        _ if yes => return Ok(()),
        (true, _) => "the project's default branch",
        (false, true) => "protected",
        (false, false) => return Ok(()),
    };
    let text = format!("{} is {what}: use --yes to confirm", branch.id());
    Err(lakebase_core::Error::config(text))
}

fn check_deletion(branch: &Branch, yes: bool) -> Result<(), lakebase_core::Error> {
    let what = match (branch.is_default(), branch.is_protected()) {
        (true, _) => "the project's default branch, which cannot be deleted",
        (false, true) if !yes => "protected: use --yes to confirm",
        (false, _) => return Ok(()),
    };
    let text = format!("{} is {what}", branch.id());
    Err(lakebase_core::Error::config(text))
}

/// Removes the protection first. If the branch cannot be deleted, protects it again.
async fn delete_protected(branch: &mut Branch, purge: bool) -> Result<(), lakebase_core::Error> {
    if !branch.is_protected() {
        return delete(branch, purge).await;
    }
    let deleted = match branch.set_protected(false).await {
        Ok(()) => delete(branch, purge).await,
        Err(error) => Err(error),
    };
    if deleted.is_err() {
        let id = branch.id().to_owned();
        let text = match branch.set_protected(true).await {
            Ok(()) => format!("{id} is protected again"),
            Err(error) => format!("{id} may be unprotected now: {}", error.chain()),
        };
        print_note(&text);
    }
    deleted
}

async fn delete(branch: &Branch, purge: bool) -> Result<(), lakebase_core::Error> {
    match purge {
        true => branch.purge().await,
        false => branch.delete().await,
    }
}

async fn cleanup(
    branches: &Branches,
    prefix: &str,
    older_than: Duration,
    purge: bool,
    yes: bool,
) -> Result<(), Box<dyn Error>> {
    let now = SystemTime::now();
    let is_old = |branch: &Branch| {
        let age = branch.created_at().map(|at| now.duration_since(at));
        age.is_some_and(|age| age.unwrap_or_default() >= older_than)
    };
    let mut failure = None;
    for branch in branches.list().await? {
        let is_match = branch.id().starts_with(prefix) && is_old(&branch);
        if !is_match || branch.is_default() || branch.is_protected() {
            continue;
        }
        if yes && let Err(error) = delete(&branch, purge).await {
            // A branch with children, for example. Others can still be deleted.
            print_note(&format!("{}: {}", branch.id(), error.chain()));
            failure = Some(error);
            continue;
        }
        let what = if yes { "deleted" } else { "would delete" };
        write_stdout(&format!("{what} {}\n", branch.id()))?;
    }
    match failure {
        Some(_) => Err("not all branches could be deleted".into()),
        None => Ok(()),
    }
}

/// The result of creating a temporary branch.
pub(crate) enum Branching {
    Ready(Branch),
    /// A signal came first. Has the exit status.
    Ended(ExitCode),
}

/// A branch for one command.
pub(crate) struct Temporary {
    branches: Branches,
    id: BranchId,
    /// The creation succeeded, so "not found" means deleted.
    is_created: bool,
    may_exist: bool,
}

impl Temporary {
    pub(crate) fn new(target: &Target) -> Result<Self, Box<dyn Error>> {
        let (now, process) = (jiff::Timestamp::now(), std::process::id());
        let id = format!("exec-{:x}-{process}", now.as_microsecond());
        Ok(Self {
            branches: target.lakebase()?.branches()?,
            id: BranchId::new(id)?,
            is_created: false,
            may_exist: true,
        })
    }

    /// Creates it, unless a signal comes first. Call [`delete`](Self::delete) afterwards in any case.
    pub(crate) async fn create(
        &mut self,
        from: Option<&str>,
        ttl: Expiry,
        signals: &mut Signals,
    ) -> Result<Branching, lakebase_core::Error> {
        let mut new = NewBranch::new(self.id.clone(), ttl);
        if let Some(source) = from {
            new = new.source(source);
        }
        let text = format!("creating branch {}", self.id);
        tokio::select! {
            biased;
            code = signals.end() => Ok(Branching::Ended(code)),
            made = progress(&text, self.branches.try_create(new)) => match made {
                Ok(branch) => {
                    self.is_created = true;
                    Ok(Branching::Ready(branch))
                }
                Err(failed) => {
                    self.may_exist = failed.may_exist;
                    Err(failed.error)
                }
            }
        }
    }

    /// Deletes it. After a signal, the platform deletes it at its expiry.
    pub(crate) async fn delete(self, mut signals: Signals) {
        if !self.may_exist {
            return;
        }
        let deleted = async {
            for attempt in 1.. {
                match self.branches.purge(&self.id).await {
                    Err(error) if error.status() == Some(404) => {
                        if self.is_created {
                            return Ok(());
                        }
                        if attempt == MOST_ATTEMPTS {
                            return Err("the request that creates it may still arrive".to_owned());
                        }
                        sleep(Duration::from_secs(1)).await;
                    }
                    outcome => return outcome.map_err(|error| error.chain()),
                }
            }
            Ok(())
        };
        let text = format!("deleting branch {}", self.id);
        let why = tokio::select! {
            biased;
            _ = signals.end() => "interrupted".to_owned(),
            deleted = progress(&text, deleted) => match deleted {
                Ok(()) => return,
                Err(why) => why,
            }
        };
        let text = format!("branch {} is left to its expiry: {why}", self.id);
        print_note(&text);
    }
}

fn show(branch: &Branch, as_json: bool) -> io::Result<()> {
    match as_json {
        true => write_stdout(&format!("{:#}\n", to_json(branch))),
        false => write_stdout(&table(std::slice::from_ref(branch))),
    }
}

fn to_json(branch: &Branch) -> Value {
    json!({
        "id": branch.id(),
        "name": branch.name(),
        "uid": branch.uid(),
        "state": branch.state().as_str(),
        "is_default": branch.is_default(),
        "is_protected": branch.is_protected(),
        "source": branch.source(),
        "created_at": branch.created_at().and_then(shown),
        "expires_at": branch.expires_at().and_then(shown),
    })
}

fn table(branches: &[Branch]) -> String {
    let mut rows = vec![["BRANCH", "STATE", "SOURCE", "EXPIRES", ""].map(str::to_owned)];
    rows.extend(branches.iter().map(|branch| {
        let mut marks = Vec::new();
        if branch.is_default() {
            marks.push("default");
        }
        if branch.is_protected() {
            marks.push("protected");
        }
        let expires = branch.expires_at().and_then(shown);
        [
            branch.id().to_owned(),
            branch.state().to_string(),
            branch.source().unwrap_or("-").to_owned(),
            expires.unwrap_or_else(|| "never".to_owned()),
            marks.join(", "),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..4)
        .map(|column| width(column).unwrap_or_default())
        .collect();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            line.push_str(&row[4]);
            format!("{}\n", line.trim_end())
        })
        .collect()
}

/// RFC 3339, in seconds.
fn shown(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.round(jiff::Unit::Second).ok()?.to_string())
}
