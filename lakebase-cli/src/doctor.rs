//! `lakebase doctor`: checks what a login needs, in order of use.

mod checks;
mod report;
mod tls;

use lakebase_core::Lakebase;

use crate::args::{self, Target};
use checks::Subject;
pub(crate) use report::Report;
use report::{Check, Finding};

pub(crate) async fn examine(target: &Target) -> Report {
    let mut report = Report::default();
    let config = match target.config() {
        Ok(config) => config,
        Err(error) => {
            report.add(Check::Configuration, Finding::failed(&error));
            report.skip_the_rest("no valid configuration");
            return report;
        }
    };
    report.add(Check::Configuration, checks::configuration(&config));
    let knows = |name| args::setting(&config, name).is_some();
    let (knows_host, knows_user) = (knows("host"), knows("user"));
    let auth_type = config.auth_type();
    let lakebase = match Lakebase::new(config.clone()) {
        Ok(lakebase) => lakebase,
        Err(error) => {
            report.add(Check::SignIn, Finding::failed(&error));
            report.skip_the_rest("no valid configuration");
            return report;
        }
    };
    let mut subject = Subject::new(config, lakebase, auth_type, knows_host, knows_user);
    for check in Check::AFTER_CONFIGURATION {
        let finding = subject.examine(check).await;
        report.add(check, finding);
    }
    report
}
