//! The counters of a proxy as Prometheus text.
//!
//! Names and labels are those that OpenTelemetry's Prometheus exporters derive from the instruments of core's feature
//! `opentelemetry`, so that one dashboard serves both.

use lakebase_core::telemetry::{DurationStats, Stats};

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The pool's name in OpenTelemetry; here the database.
const POOL: &str = "db_client_connection_pool_name";

/// The end of the name, a label, and the value.
type Sample = (&'static str, Option<(&'static str, String)>, f64);

/// Renders databases that share one token. Its series have the name of the first, so that a sum counts them once.
pub(crate) fn render(databases: &[(&str, Stats)]) -> String {
    let first = &databases[..databases.len().min(1)];
    [
        family(
            "lakebase_login_attempts_total",
            "counter",
            "Attempts to log in to Postgres, several for a login that was retried.",
            databases,
            |stats| [count(stats.logins.attempts)],
        ),
        family(
            "lakebase_login_failures_total",
            "counter",
            "Failed logins, by the kind of error.",
            databases,
            |stats| {
                let failures = stats.logins.failures.clone().into_iter();
                failures.map(|(kind, failed)| {
                    let label = ("error_type", kind.to_owned());
                    ("", Some(label), failed as f64)
                })
            },
        ),
        family(
            "lakebase_login_pending",
            "gauge",
            "Logins in progress.",
            databases,
            |stats| [count(stats.logins.under_way)],
        ),
        family(
            "db_client_connection_create_time_seconds",
            "histogram",
            "Time of successful logins, including the wait for a token and retries.",
            databases,
            |stats| histogram(&stats.logins.succeeded, 1.0),
        ),
        family(
            "lakebase_proxy_sessions",
            "gauge",
            "Open sessions of the auth proxy.",
            databases,
            |stats| [count(stats.proxy.sessions)],
        ),
        family(
            "lakebase_token_age_seconds",
            "gauge",
            "Age of the current token.",
            first,
            |stats| Some(("", None, stats.token.as_ref()?.age?.as_secs_f64())),
        ),
        family(
            "lakebase_token_usable_for_seconds",
            "gauge",
            "How long logins can use the current token: 0 if it has expired or Postgres has rejected it.",
            first,
            |stats| Some(("", None, stats.token.as_ref()?.usable_for?.as_secs_f64())),
        ),
        family(
            "lakebase_token_mints_total",
            "counter",
            "Requests for a token, including failed ones.",
            first,
            |stats| Some(count(stats.token.as_ref()?.mints.count)),
        ),
        family(
            "lakebase_token_failures_total",
            "counter",
            "Failed requests for a token.",
            first,
            |stats| Some(count(stats.token.as_ref()?.failures)),
        ),
        family(
            "lakebase_token_refresh_duration_milliseconds",
            "histogram",
            "Time of requests for a token, including failed ones.",
            first,
            |stats| {
                let mints = stats.token.as_ref().map(|token| &token.mints);
                mints.map(|mints| histogram(mints, 1000.0)).into_iter().flatten()
            },
        ),
    ]
    .concat()
}

/// A family without samples is left out.
fn family<S: IntoIterator<Item = Sample>>(
    name: &str,
    kind: &str,
    help: &str,
    databases: &[(&str, Stats)],
    samples: impl Fn(&Stats) -> S,
) -> String {
    let mut lines = String::new();
    for (database, stats) in databases {
        let database = escaped(database);
        for (end, label, value) in samples(stats) {
            let label = label.map(|(name, value)| format!(",{name}=\"{}\"", escaped(&value)));
            let label = label.unwrap_or_default();
            lines += &format!("{name}{end}{{{POOL}=\"{database}\"{label}}} {value}\n");
        }
    }
    match lines.is_empty() {
        true => lines,
        false => format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}"),
    }
}

fn count(value: u64) -> Sample {
    ("", None, value as f64)
}

/// Prometheus' buckets are cumulative. `per_second` converts to the histogram's unit.
fn histogram(stats: &DurationStats, per_second: f64) -> Vec<Sample> {
    let bounds = DurationStats::BOUNDS.map(|bound| (bound * per_second).to_string());
    let bounds = bounds.into_iter().chain(["+Inf".to_owned()]);
    let mut total = 0;
    let buckets = bounds.zip(stats.buckets).map(|(bound, within)| {
        total += within;
        ("_bucket", Some(("le", bound)), total as f64)
    });
    let mut samples: Vec<Sample> = buckets.collect();
    samples.push(("_sum", None, stats.sum.as_secs_f64() * per_second));
    samples.push(("_count", None, stats.count as f64));
    samples
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}
