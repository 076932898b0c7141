//! An error as text that leads back to it, for the way through a driver.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Error, Inner, Kind, StdError};
use crate::error::foreign::Cause;

const KINDS: [(Kind, &str); 8] = [
    (Kind::Config, "config"),
    (Kind::SignIn, "sign_in"),
    (Kind::Platform, "platform"),
    (Kind::Network, "network"),
    (Kind::Timeout, "timeout"),
    (Kind::Login, "login"),
    (Kind::Database, "database"),
    (Kind::Provider, "provider"),
];

impl Error {
    /// Everything but the types of the causes.
    pub(crate) fn to_record(&self) -> String {
        let inner = &*self.0;
        let kind = KINDS.iter().find(|(kind, _)| *kind == inner.kind);
        let mut causes = Vec::new();
        let mut source = self.source();
        while let Some(cause) = source {
            // Whether trying again can help is said once, at the end.
            causes.push(match cause.downcast_ref::<Self>() {
                Some(error) => error.text(),
                None => cause.to_string(),
            });
            source = cause.source();
        }
        json!({
            "kind": kind.map(|(_, name)| name),
            "message": inner.message,
            "hint": inner.hint,
            "compute": inner.compute,
            "identity": inner.identity,
            "sign_in": inner.sign_in,
            "status": inner.status,
            "error_code": inner.error_code,
            "request_id": inner.request_id,
            "sqlstate": inner.sqlstate,
            "retry_after": inner.retry_after.map(|wait| wait.as_secs()),
            "transient": inner.transient,
            "causes": causes,
        })
        .to_string()
    }

    pub(crate) fn from_record(record: &str) -> Option<Self> {
        let record: Value = serde_json::from_str(record).ok()?;
        let text = |name: &str| record[name].as_str().map(str::to_owned);
        let kind = KINDS.iter().find(|(_, name)| record["kind"] == **name)?;
        let causes = record["causes"].as_array()?.iter();
        let causes = causes.filter_map(Value::as_str).rev();
        let cause = causes.fold(None, |cause, text| Some(Cause::new(text, cause)));
        let mut error = Self::new(kind.0, text("message")?);
        error = error.edit(|inner| {
            *inner = Inner {
                hint: text("hint"),
                compute: text("compute"),
                identity: text("identity"),
                sign_in: text("sign_in"),
                status: record["status"]
                    .as_u64()
                    .and_then(|status| u16::try_from(status).ok()),
                error_code: text("error_code"),
                request_id: text("request_id"),
                sqlstate: text("sqlstate"),
                retry_after: record["retry_after"].as_u64().map(Duration::from_secs),
                transient: record["transient"] == true,
                ..inner.clone()
            };
        });
        Some(match cause {
            Some(cause) => error.with_source(cause),
            None => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_back_with_all_of_its_facts_and_causes() {
        for (kind, _) in KINDS {
            for transient in [true, false] {
                let cause = std::io::Error::other("the cause");
                let error = Error::new(kind, "no \"login\"\nwithin 3 s")
                    .with_hint("Check PGHOST")
                    .with_compute(Some("projects/p".to_owned()))
                    .with_identity("app", "oauth-m2m".to_owned())
                    .with_response(429, Some("CODE".to_owned()), Some("id".to_owned()))
                    .with_sqlstate(Some("53300"))
                    .with_retry_after(Some(Duration::from_secs(7)))
                    .with_source(Error::provider("between", false).with_source(cause))
                    .with_transient(transient);
                let back = Error::from_record(&error.to_record()).unwrap();
                assert_eq!(back.chain(), error.chain());
                assert_eq!(format!("{back:?}"), format!("{error:?}"));
                assert_eq!(back.to_record(), error.to_record());
                assert_eq!(back.status(), Some(429));
                assert_eq!(back.hint(), Some("Check PGHOST"));
            }
        }
    }

    #[test]
    fn what_is_no_record_is_no_error() {
        for text in ["", "auth.c", "{}", r#"{"kind":"x"}"#, r#"{"kind":"login"}"#] {
            assert!(Error::from_record(text).is_none(), "{text}");
        }
    }
}
