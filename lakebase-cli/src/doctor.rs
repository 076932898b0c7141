//! `lakebase doctor`: checks what a login needs, in order of use.

mod checks;
mod report;
mod tls;

use std::io;

use lakebase_core::Lakebase;

use crate::args::Target;
use crate::terminal::progress;
use checks::Subject;
use report::{Check, Finding, Report};

/// Runs the checks, and prints each finding when it is there, or all as JSON. Returns whether a program can log in.
pub(crate) async fn run(target: &Target, as_json: bool) -> io::Result<bool> {
    let mut report = Report::new(as_json);
    let config = match target.config() {
        Ok(config) => config,
        Err(error) => {
            report.add(Check::Configuration, Finding::failed(&error))?;
            return report.finish();
        }
    };
    report.add(Check::Configuration, checks::configuration(&config))?;
    let lakebase = match Lakebase::new(config.clone()) {
        Ok(lakebase) => lakebase,
        Err(error) => {
            report.add(Check::SignIn, Finding::failed(&error))?;
            return report.finish();
        }
    };
    let mut subject = Subject::new(config, lakebase);
    for check in Check::AFTER_CONFIGURATION {
        let text = format!("checking {}", check.name());
        let finding = progress(&text, subject.examine(check)).await;
        report.add(check, finding)?;
    }
    report.finish()
}
