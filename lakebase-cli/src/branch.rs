//! Branches: list, create, delete, and one for a single command.

use std::error::Error;
use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use lakebase_core::Lakebase;
use lakebase_core::admin::schema::Snapshot;
use lakebase_core::admin::{Branch, BranchId, Branches, Expiry, NewBranch};
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
            if branch.is_protected() {
                branch.set_protected(false).await?;
            }
            let text = format!("deleting {name}");
            progress(&text, delete(&branch, *purge)).await?;
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
        BranchCommand::Extend { name, ttl, json } => {
            let mut branch = branches.get(name).await?;
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

/// The branch of this name, if it can be used in place of a new one.
async fn existing(
    branches: &Branches,
    id: &BranchId,
    args: &CreateBranch,
) -> Result<Option<Branch>, lakebase_core::Error> {
    let mut branch = match branches.get(id).await {
        Err(error) if error.status() == Some(404) => return Ok(None),
        found => found?,
    };
    if branch.deleted_at().is_some() {
        return Ok(None);
    }
    if let (Some(wanted), source) = (&args.from, branch.source())
        && source != Some(wanted)
    {
        let source = source.unwrap_or("no other branch");
        let text = format!("branch {id} exists and was made from {source}, not from {wanted}");
        return Err(lakebase_core::Error::config(text));
    }
    let text = format!("waiting for {id}");
    progress(&text, branch.wait_ready(args.limit)).await?;
    Ok(Some(branch))
}

async fn create(branches: &Branches, args: &CreateBranch) -> Result<(), Box<dyn Error>> {
    let id = match (&args.name, &args.git) {
        (Some(name), _) => BranchId::new(name)?,
        (None, Some(git)) => BranchId::from_git(git),
        (None, None) => return Err("no name".into()),
    };
    if args.if_not_exists
        && let Some(branch) = existing(branches, &id, args).await?
    {
        return Ok(show(&branch, args.json)?);
    }
    let mut new = NewBranch::new(id, args.ttl)
        .replace_existing(args.replace)
        .timeout(args.limit);
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

fn check_deletion(branch: &Branch, yes: bool) -> Result<(), lakebase_core::Error> {
    let what = match (branch.is_default(), branch.is_protected()) {
        _ if yes => return Ok(()),
        (true, _) => "the project's default branch",
        (false, true) => "protected",
        (false, false) => return Ok(()),
    };
    let text = format!("{} is {what}: give --yes if you mean it", branch.id());
    Err(lakebase_core::Error::config(text))
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
    let now = SystemTime::from(jiff::Timestamp::now());
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
    /// No request to create it is under way.
    is_sure: bool,
    is_there: bool,
}

impl Temporary {
    pub(crate) fn new(target: &Target) -> Result<Self, Box<dyn Error>> {
        let (now, process) = (jiff::Timestamp::now(), std::process::id());
        let id = format!("exec-{:x}-{process}", now.as_microsecond());
        Ok(Self {
            branches: target.lakebase()?.branches()?,
            id: BranchId::new(id)?,
            is_sure: true,
            is_there: true,
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
        self.is_sure = false;
        tokio::select! {
            biased;
            code = signals.end() => Ok(Branching::Ended(code)),
            made = progress(&text, self.branches.create(new)) => {
                self.is_sure = true;
                self.is_there = !made.as_ref().is_err_and(is_rejection);
                made.map(Branching::Ready)
            }
        }
    }

    /// Deletes it. A signal leaves it to its expiry.
    pub(crate) async fn delete(self, mut signals: Signals) {
        if !self.is_there {
            return;
        }
        let deleted = async {
            for look in 1.. {
                match self.branches.purge(&self.id).await {
                    // The request that a signal has ended may still arrive.
                    Err(error) if error.status() == Some(404) => {
                        if self.is_sure || look == MOST_LOOKS {
                            return Ok(());
                        }
                        sleep(Duration::from_secs(1)).await;
                    }
                    outcome => return outcome,
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
                Err(error) => error.chain(),
            }
        };
        let text = format!("branch {} is left to its expiry: {why}", self.id);
        let _ = writeln!(io::stderr(), "lakebase: {text}");
    }
}

/// Nothing was created.
fn is_rejection(error: &lakebase_core::Error) -> bool {
    let is_of_client = error
        .status()
        .is_some_and(|status| (400..500).contains(&status));
    is_of_client && !error.is_timeout()
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
