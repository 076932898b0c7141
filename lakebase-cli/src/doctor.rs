//! Looks at everything that a login needs, in the order in which it is needed.

mod checks;
mod report;
mod tls;

use std::time::Duration;

use lakebase_core::Lakebase;

use crate::args::Target;
use checks::Patient;
pub(crate) use report::Report;
use report::{Check, Finding};

/// For each step but the login, which has its own.
const STEP_LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn examine(target: &Target) -> Report {
    let mut report = Report::default();
    let config = match target.config() {
        Ok(config) => config,
        Err(error) => {
            report.add(Check::Configuration, Finding::failed(&error));
            report.skip_the_rest("there is no configuration");
            return report;
        }
    };
    report.add(Check::Configuration, checks::configuration(&config));
    let auth_type = config.auth_type();
    let lakebase = match Lakebase::new(config) {
        Ok(lakebase) => lakebase,
        Err(error) => {
            report.add(Check::SignIn, Finding::failed(&error));
            report.skip_the_rest("there is no configuration");
            return report;
        }
    };
    let mut patient = Patient::new(lakebase, auth_type);
    for check in Check::AFTER_CONFIGURATION {
        // A login may take as long as its budget says.
        let limit = match check {
            Check::Login => patient.login_limit() + STEP_LIMIT,
            _ => STEP_LIMIT,
        };
        let finding = match tokio::time::timeout(limit, patient.examine(check)).await {
            Ok(finding) => finding,
            Err(_) => Finding::problem(
                format!("no answer within {} s", limit.as_secs()),
                "Check the network: something swallows packets",
            ),
        };
        report.add(check, finding);
    }
    report
}
