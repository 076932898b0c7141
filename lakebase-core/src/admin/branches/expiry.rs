//! When the platform deletes a branch.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::error::Error;

/// When the platform deletes a branch. Every new branch needs one: see [`NewBranch::new`](super::NewBranch::new).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// After this time from now, rounded up to whole seconds. The workspace has a limit, which is 30 days or less.
    After(Duration),
    /// At this time, by the platform's clock. The same limit applies.
    At(SystemTime),
    /// Never.
    Never,
}

impl Expiry {
    /// The field of `spec` for this value.
    pub(super) fn field(self) -> Result<(&'static str, Value), Error> {
        match self {
            Self::After(ttl) if ttl.is_zero() => Err(Error::config(
                "expiry: the duration is 0 s; a branch lives for at least one second",
            )),
            Self::After(ttl) => {
                let seconds = ttl.as_secs().checked_add(u64::from(ttl.subsec_nanos() > 0));
                let seconds = seconds.ok_or_else(|| {
                    Error::config("expiry: the duration is too long; Expiry::Never has no limit")
                })?;
                Ok(("ttl", json!(format!("{seconds}s"))))
            }
            Self::At(time) => Ok(("expire_time", json!(rfc3339("expiry", time)?))),
            Self::Never => Ok(("no_expiry", json!(true))),
        }
    }
}

/// Formats a time for the API.
pub(super) fn rfc3339(what: &str, time: SystemTime) -> Result<String, Error> {
    let time = jiff::Timestamp::try_from(time);
    let time = time.map_err(|_| Error::config(format!("{what}: the time is out of range")))?;
    Ok(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_expiry_is_one_field_of_the_request() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_789_381_800);
        for (expiry, name, value) in [
            (
                Expiry::After(Duration::from_secs(14_400)),
                "ttl",
                json!("14400s"),
            ),
            (
                Expiry::After(Duration::from_millis(1500)),
                "ttl",
                json!("2s"),
            ),
            (Expiry::At(at), "expire_time", json!("2026-09-14T10:30:00Z")),
            (Expiry::Never, "no_expiry", json!(true)),
        ] {
            assert_eq!(expiry.field().expect("valid"), (name, value));
        }
        for wrong in [Duration::ZERO, Duration::MAX] {
            let error = Expiry::After(wrong).field().expect_err("no expiry");
            assert!(error.is_config(), "{error}");
        }
    }
}
