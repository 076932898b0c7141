//! A simulated fleet of processes or users on virtual time: real handles with a workspace in memory. Checks the goals for the
//! rate of mints and for logins that wait or fail.
//!
//! `fleet [--processes N] [--hours N] [--users N] [--seed N] [--json FILE] [--svg FILE]`: 10,000 processes for 24 hours, and
//! 1,000 processes (a tenth) of 200 users each for a day of work, by default. The exit status is 1 if a goal is missed.
//!
//! A user is a handle with [`Refresh::OnDemand`], as from [`Lakebase::on_behalf_of`](lakebase_core::Lakebase::on_behalf_of).
//! `UserPools` needs a workspace with HTTP, which does not work on virtual time. Its checks of tokens are mints of the same
//! handle; unit tests of `users/entry.rs` count them.

mod picture;
mod report;
mod simulation;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use lakebase_core::Refresh;
use report::Report;
use simulation::{LIFETIME, MINUTE, Outcome, Plan, simulate};

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Settings {
    processes: usize,
    hours: u32,
    users: usize,
    seed: u64,
    json: Option<String>,
    svg: Option<String>,
}

impl Settings {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut settings = Self {
            processes: 10_000,
            hours: 24,
            users: 200,
            seed: 1,
            json: None,
            svg: None,
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or("each option has a value")?;
            match name.as_str() {
                "--processes" => settings.processes = value.parse()?,
                "--hours" => settings.hours = value.parse()?,
                "--users" => settings.users = value.parse()?,
                "--seed" => settings.seed = value.parse()?,
                "--json" => settings.json = Some(value),
                "--svg" => settings.svg = Some(value),
                _ => return Err(format!("{name} is no option").into()),
            }
        }
        if settings.processes < 10 || settings.hours < 8 || settings.users == 0 {
            return Err("at least 10 processes, 8 hours and a user".into());
        }
        Ok(settings)
    }

    fn plans(&self) -> [Plan; 3] {
        let length = self.hours * LIFETIME;
        let processes = Plan {
            name: "1, 2: processes that start in the same second; in the end an outage of 10 minutes",
            handles: self.processes,
            refresh: Refresh::Ahead,
            start: Duration::from_secs(1),
            logins: 5 * MINUTE,
            length: length + 3 * LIFETIME,
            outage: Some([length, length + 10 * MINUTE]),
            limit: None,
        };
        let length = (self.hours / 2).max(8) * LIFETIME;
        let limited = Plan {
            name: "3: the same with at most 100 mints a second",
            length: length + 3 * LIFETIME,
            outage: Some([length, length + 10 * MINUTE]),
            limit: Some(100),
            ..processes
        };
        let users = Plan {
            name: "4: users at work",
            handles: self.processes / 10 * self.users,
            refresh: Refresh::OnDemand,
            start: 30 * MINUTE,
            // More often than in the last 12 minutes of a credential, in which it is due.
            logins: 6 * MINUTE,
            length: 8 * LIFETIME,
            outage: None,
            ..processes
        };
        [processes, limited, users]
    }
}

fn fleet() -> Result<bool, Failure> {
    let settings = Settings::read(std::env::args().skip(1))?;
    let seed = settings.seed;
    let runs = settings
        .plans()
        .map(|plan| thread::spawn(move || simulate(plan, seed)));
    let mut reports = Vec::new();
    for (run, plan) in runs.into_iter().zip(settings.plans()) {
        let outcome: Result<Outcome, Failure> = run.join().map_err(|_| "a simulation panicked")?;
        let report = Report::new(plan, outcome?);
        print!("{report}");
        reports.push(report);
    }
    if let Some(path) = settings.json {
        let all: Vec<_> = reports.iter().map(Report::json).collect();
        std::fs::write(path, serde_json::to_string_pretty(&all)?)?;
    }
    if let Some(path) = settings.svg {
        std::fs::write(path, picture::draw(&reports))?;
    }
    Ok(reports.iter().all(|report| report.misses.is_empty()))
}

fn main() -> ExitCode {
    match fleet() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::FAILURE
        }
    }
}
