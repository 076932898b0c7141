//! Serializes an error, so that it can pass through a driver.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Error, Inner};
use crate::error::foreign::Cause;

/// The error with the texts of its causes.
#[derive(Deserialize, Serialize)]
struct Record<'a> {
    #[serde(flatten)]
    error: Cow<'a, Inner>,
    causes: Vec<String>,
}

impl Error {
    pub(crate) fn to_record(&self) -> String {
        let record = Record {
            error: Cow::Borrowed(&*self.0),
            causes: self.causes().collect(),
        };
        // It cannot fail: all keys are strings.
        serde_json::to_string(&record).unwrap_or_default()
    }

    pub(crate) fn from_record(record: &str) -> Option<Self> {
        let record: Record<'_> = serde_json::from_str(record).ok()?;
        let error = Self(record.error.into_owned().into());
        let causes = record.causes.iter().rev();
        let cause = causes.fold(None, |cause, text| Some(Cause::new(text, cause)));
        Some(match cause {
            Some(cause) => error.with_source(cause),
            None => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_record_contains_all_details_and_causes_of_an_error() {
        for kind in Kind::ALL {
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
    fn other_texts_are_no_records() {
        for text in ["", "auth.c", "{}", r#"{"kind":"x"}"#, r#"{"kind":"login"}"#] {
            assert!(Error::from_record(text).is_none(), "{text}");
        }
    }
}
