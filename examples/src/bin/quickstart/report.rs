//! The printed report.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::Duration;

#[derive(Clone, Copy)]
pub(crate) enum Orm {
    Diesel,
    SeaOrm,
}

#[derive(Default)]
pub(crate) struct Report {
    place: String,
    server: String,
    migrations: Vec<String>,
    findings: Vec<String>,
    /// Logins of diesel and SeaORM by token generation.
    logins: BTreeMap<u64, [u64; 2]>,
    failures: Vec<String>,
    first_wait: Option<Duration>,
    longest_later_wait: Duration,
    line_open: bool,
}

impl Report {
    pub(crate) fn step(&mut self, text: &str) {
        self.close_line();
        println!("* {text}");
    }

    pub(crate) fn place(&mut self, place: String) {
        self.place = place;
    }

    pub(crate) fn server(&mut self, version: String) {
        self.server = format!("PostgreSQL {version}");
    }

    pub(crate) fn migrations(&mut self, orm: &str, count: usize) {
        self.migrations.push(format!("{count} with {orm}"));
    }

    pub(crate) fn found(&mut self, finding: String) {
        println!("  {finding}");
        self.findings.push(finding);
    }

    pub(crate) fn waited(&mut self, wait: Duration) {
        match self.first_wait {
            None => self.first_wait = Some(wait),
            Some(_) => self.longest_later_wait = self.longest_later_wait.max(wait),
        }
    }

    pub(crate) fn login(&mut self, orm: Orm, generation: u64, outcome: super::Result<()>) {
        match outcome {
            Ok(()) => self.logins.entry(generation).or_default()[orm as usize] += 1,
            Err(error) => self.failures.push(chain(&*error)),
        }
    }

    pub(crate) fn rotations(&self) -> u64 {
        (self.logins.len() as u64).saturating_sub(1)
    }

    pub(crate) fn failures(&self) -> usize {
        self.failures.len()
    }

    /// Prints one line that is updated on a terminal, or a line for each token elsewhere.
    pub(crate) fn progress(&mut self, goal: u64) {
        let Some((generation, [diesel, seaorm])) = self.logins.last_key_value() else {
            return;
        };
        let line = match goal {
            0 => format!("native password: {diesel} diesel and {seaorm} SeaORM logins"),
            _ => format!(
                "token {generation}: {diesel} diesel and {seaorm} SeaORM logins, {} of {goal} rotations",
                self.rotations()
            ),
        };
        if stdout().is_terminal() {
            print!("\r\x1b[2K  {line}");
            let _ = stdout().flush();
            self.line_open = true;
        } else if *diesel == 1 {
            println!("  {line}");
        }
    }

    fn close_line(&mut self) {
        if std::mem::take(&mut self.line_open) {
            println!();
        }
    }

    pub(crate) fn print(&mut self) {
        self.close_line();
        let total = |orm: Orm| {
            self.logins
                .values()
                .map(|counts| counts[orm as usize])
                .sum::<u64>()
        };
        println!("\nReport");
        println!("  where        {}, {}", self.place, self.server);
        println!("  migrations   {}", self.migrations.join(", "));
        for finding in &self.findings {
            println!("  query        {finding}");
        }
        println!("  token        {:>8} {:>8}   logins", "diesel", "SeaORM");
        for (generation, [diesel, seaorm]) in &self.logins {
            println!("    {generation:<10} {diesel:>8} {seaorm:>8}");
        }
        println!(
            "    {:<10} {:>8} {:>8}",
            "all",
            total(Orm::Diesel),
            total(Orm::SeaOrm)
        );
        let mints = self
            .logins
            .last_key_value()
            .map_or(0, |(generation, _)| *generation);
        println!("  mints        {mints}, rotations {}", self.rotations());
        println!(
            "  waiting      {:.1} ms for the first credential, at most {:.3} ms for any later one",
            self.first_wait.unwrap_or_default().as_secs_f64() * 1e3,
            self.longest_later_wait.as_secs_f64() * 1e3,
        );
        println!("  failed       {} logins", self.failures.len());
        for failure in &self.failures {
            println!("    {failure}");
        }
    }
}

pub(crate) fn print_error(error: &(dyn Error + 'static)) {
    eprintln!("\nquickstart: {}", chain(error));
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}\n  because {part}");
        }
        cause = error.source();
    }
    text
}
