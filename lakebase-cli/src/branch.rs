//! Branches: list, create, delete, and one for a single command.

use std::error::Error;
use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use lakebase_core::Lakebase;
use lakebase_core::admin::schema::Snapshot;
use lakebase_core::admin::{Branch, BranchId, BranchState, Branches, Expiry, NewBranch};
use serde_json::{Value, json};
use tokio::time::{Instant, interval, sleep};

use crate::args::{BranchCommand, CreateBranch, Target};
use crate::command::Signals;
use crate::write_stdout;

/// How often a branch is looked for that a signal may have left half made.
const MOST_LOOKS: u32 = 3;

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
            let mut branch = match branches.get(name).await {
                Err(error) if *if_exists && error.status() == Some(404) => return Ok(()),
                found => found?,
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
                _ => difference.to_string(),
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

/// Of the configured schema, or of all.
async fn snapshot(lakebase: &Lakebase) -> Result<Snapshot, lakebase_core::Error> {
    let snapshot = Snapshot::of(lakebase).await?;
    Ok(match lakebase.schema() {
        Some(schema) => snapshot.only_schema(schema),
        None => snapshot,
    })
}

/// The branch of this name, if it can be used in place of a new one. Purges a deleted one, which keeps its name until then.
async fn existing(
    branches: &Branches,
    id: &BranchId,
    args: &CreateBranch,
) -> Result<Option<Branch>, lakebase_core::Error> {
    let mut branch = match branches.get(id).await {
        Err(error) if error.status() == Some(404) => return Ok(None),
        found => found?,
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
    // One that is being created has a new expiry.
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

/// Lets a branch live at least this long from now on.
async fn extend(branch: &mut Branch, ttl: Expiry) -> Result<(), lakebase_core::Error> {
    let Some(expires) = branch.expires_at() else {
        return Ok(());
    };
    let is_longer = match ttl {
        Expiry::After(ttl) => now().checked_add(ttl).is_none_or(|at| at > expires),
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
    let mut branch = match branches.get(id).await {
        Err(error) if error.status() == Some(404) => return Ok(()),
        found => found?,
    };
    check_deletion(&branch, args.yes)?;
    // A branch is not deleted for one that cannot be created.
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

/// Nothing is changed by mistake on a branch that others rely on.
pub(crate) fn check_change(branch: &Branch, yes: bool) -> Result<(), lakebase_core::Error> {
    let what = match (branch.is_default(), branch.is_protected()) {
        _ if yes => return Ok(()),
        (true, _) => "the project's default branch",
        (false, true) => "protected",
        (false, false) => return Ok(()),
    };
    let text = format!("{} is {what}: give --yes if you mean it", branch.id());
    Err(lakebase_core::Error::config(text))
}

fn check_deletion(branch: &Branch, yes: bool) -> Result<(), lakebase_core::Error> {
    let what = match (branch.is_default(), branch.is_protected()) {
        (true, _) => "the project's default branch, which cannot be deleted",
        (false, true) if !yes => "protected: give --yes if you mean it",
        (false, _) => return Ok(()),
    };
    let text = format!("{} is {what}", branch.id());
    Err(lakebase_core::Error::config(text))
}

/// Takes the protection away first. If the branch cannot be deleted, it is protected again.
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
        let _ = writeln!(io::stderr(), "lakebase: {text}");
    }
    deleted
}

fn now() -> SystemTime {
    SystemTime::from(jiff::Timestamp::now())
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
    let now = now();
    let is_old = |branch: &Branch| {
        let age = branch.created_at().map(|at| now.duration_since(at));
        age.is_some_and(|age| age.unwrap_or_default() >= older_than)
    };
    let mut failure = None;
    for branch in branches.list().await? {
        let is_meant = branch.id().starts_with(prefix) && is_old(&branch);
        if !is_meant || branch.is_default() || branch.is_protected() {
            continue;
        }
        if yes && let Err(error) = delete(&branch, purge).await {
            // One with children, for example: the others can be deleted.
            let _ = writeln!(io::stderr(), "lakebase: {}: {}", branch.id(), error.chain());
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

/// How the creation of a temporary branch ended.
pub(crate) enum Branching {
    Ready(Branch),
    /// A signal came first: the exit status.
    Ended(ExitCode),
}

/// A branch for one command.
pub(crate) struct Temporary {
    branches: Branches,
    id: BranchId,
    /// It was created, so that it is gone once it is not found.
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

    /// Creates it, unless a signal ends that. [`delete`](Self::delete) comes after it in any case.
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

    /// Deletes it. A signal leaves it to its expiry.
    pub(crate) async fn delete(self, mut signals: Signals) {
        if !self.may_exist {
            return;
        }
        let deleted = async {
            for look in 1.. {
                match self.branches.purge(&self.id).await {
                    Err(error) if error.status() == Some(404) => {
                        if self.is_created {
                            return Ok(());
                        }
                        if look == MOST_LOOKS {
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
        let _ = writeln!(io::stderr(), "lakebase: {text}");
    }
}

/// Shows on a terminal how long something takes.
async fn progress<T>(text: &str, work: impl Future<Output = T>) -> T {
    if !io::stderr().is_terminal() {
        return work.await;
    }
    let mut work = std::pin::pin!(work);
    let began = Instant::now();
    let mut seconds = interval(Duration::from_secs(1));
    // Not for what takes no time.
    seconds.tick().await;
    let mut is_shown = false;
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut work => break outcome,
            _ = seconds.tick() => {
                is_shown = true;
                let elapsed = began.elapsed().as_secs();
                let _ = write!(io::stderr(), "\r{text} .. {elapsed} s");
            }
        }
    };
    if is_shown {
        let _ = write!(io::stderr(), "\r{}\r", " ".repeat(text.len() + 16));
    }
    outcome
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

fn shown(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.round(jiff::Unit::Second).ok()?.to_string())
}
