//! `spec` of a branch, as clients send it.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::reply::Failure;

/// The longest lifetime of a branch.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// An older point in time is an error, as no history is kept.
const NOW: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Spec {
    /// The expiry, if the request contains one; `Some(None)` means no expiry.
    pub(super) expires: Option<Option<SystemTime>>,
    pub(super) is_protected: Option<bool>,
    pub(super) source: Option<String>,
    pub(super) lsn: Option<String>,
}

impl Spec {
    pub(super) fn parse(body: &Value, now: SystemTime) -> Result<Self, Failure> {
        let spec = body.get("spec").unwrap_or(&Value::Null);
        let field = |name: &str| spec.get(name).filter(|value| !value.is_null());
        let text = |name: &str| match field(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Failure::invalid(format!(
                "Field 'branch.spec.{name}' is not a string"
            ))),
        };
        let flag = |name: &str| match field(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(Failure::invalid(format!(
                "Field 'branch.spec.{name}' is not a boolean"
            ))),
        };
        if let Some(time) = text("source_branch_time")? {
            check_now("source_branch_time", &time, now)?;
        }
        if text("source_snapshot")?.is_some() {
            return Err(Failure::invalid(
                "source_snapshot: lakebase-local keeps no snapshots",
            ));
        }
        let expiry = match (text("expire_time")?, text("ttl"), flag("no_expiry")?) {
            (None, Ok(None), None) => None,
            (Some(time), Ok(None), None) => Some(Some(timestamp("expire_time", &time)?)),
            (None, Ok(Some(ttl)), None) => Some(Some(now + duration(&ttl)?)),
            (None, Ok(None), Some(true)) => Some(None),
            (None, Ok(None), Some(false)) => {
                return Err(Failure::invalid(
                    "Field 'branch.spec.no_expiry' must be true if it is given",
                ));
            }
            // A number, for example.
            (None, Err(_), None) => return Err(wrong_ttl()),
            _ => {
                let text = "Only one of expire_time, ttl, or no_expiry may be provided";
                return Err(Failure::invalid(text));
            }
        };
        if let Some(Some(expires)) = expiry {
            if expires <= now {
                return Err(Failure::invalid("expiration time must be in the future"));
            }
            if expires > now + LONGEST {
                let text = "expiration time exceeds the maximum expiration time";
                return Err(Failure::invalid(text));
            }
        }
        Ok(Self {
            expires: expiry,
            is_protected: flag("is_protected")?,
            source: text("source_branch")?,
            lsn: text("source_branch_lsn")?,
        })
    }

    /// Keeps the fields that `update_mask` names.
    pub(super) fn masked(mut self, mask: &str) -> Result<Self, Failure> {
        let (mut expiration, mut protection) = (false, false);
        for path in mask.split(',') {
            match path.trim() {
                "spec.is_protected" => protection = true,
                "spec.expiration" => expiration = true,
                "spec" | "*" => {
                    (expiration, protection) =
                        (self.expires.is_some(), self.is_protected.is_some());
                }
                other => {
                    let text = format!(
                        "update_mask: \"{other}\" is not a field that can be updated; these are \
                         spec.expiration and spec.is_protected"
                    );
                    return Err(Failure::invalid(text));
                }
            }
        }
        if expiration && self.expires.is_none() {
            return Err(Self::no_expiry());
        }
        self.expires = self.expires.filter(|_| expiration);
        // A missing flag is false.
        self.is_protected = protection.then_some(self.is_protected.unwrap_or_default());
        Ok(self)
    }

    pub(super) fn no_expiry() -> Failure {
        Failure::invalid("One of expire_time, ttl, or no_expiry must be provided")
    }
}

fn timestamp(field: &str, text: &str) -> Result<SystemTime, Failure> {
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(SystemTime::from)
        .map_err(|_| Failure::invalid(format!("Field 'branch.spec.{field}' is not a timestamp")))
}

/// `"14400s"`
fn duration(text: &str) -> Result<Duration, Failure> {
    let number = text.strip_suffix('s').unwrap_or_default();
    let is_number = number
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = number.parse().ok().filter(|_| is_number);
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    // A longer duration would overflow the clock.
    let duration = duration.map(|duration| duration.min(LONGEST * 1000));
    duration.ok_or_else(wrong_ttl)
}

fn wrong_ttl() -> Failure {
    Failure::invalid("Field 'branch.spec.ttl' is not a duration in seconds, such as \"14400s\"")
}

fn check_now(field: &str, text: &str, now: SystemTime) -> Result<(), Failure> {
    let time = timestamp(field, text)?;
    if time > now + NOW {
        return Err(Failure::invalid(format!(
            "Field 'branch.spec.{field}' is in the future"
        )));
    }
    if time + NOW < now {
        let text =
            format!("Field 'branch.spec.{field}' is too old: lakebase-local keeps no history");
        return Err(Failure::invalid(text));
    }
    Ok(())
}
