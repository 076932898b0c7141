//! Privileges of Unity Catalog in a credential.

use serde_json::{Value, json};

/// A privilege of Unity Catalog for minted credentials, for [`ConfigBuilder::claim`](super::ConfigBuilder::claim).
///
/// The workspace checks it when it mints. Postgres then grants the session the privilege on the object behind it, for
/// example a synced table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    tables: Vec<String>,
}

impl Claim {
    /// The privilege to read these tables, each in the form `catalog.schema.table`.
    pub fn read_only<T: Into<String>>(tables: impl IntoIterator<Item = T>) -> Self {
        Self {
            tables: tables.into_iter().map(Into::into).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|table| table.trim().is_empty())
    }

    pub(crate) fn to_json(&self) -> Value {
        let resources: Vec<Value> = self
            .tables
            .iter()
            .map(|table| json!({ "table_name": table }))
            .collect();
        json!({ "permission_set": "READ_ONLY", "resources": resources })
    }
}
