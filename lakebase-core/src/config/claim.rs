//! Rights of Unity Catalog that a credential carries.

use serde_json::{Value, json};

/// A right in Unity Catalog to put into minted credentials: the workspace checks it when minting, and
/// Postgres adds what belongs to it on the object behind (a synced table, say).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    tables: Vec<String>,
}

impl Claim {
    /// Reading these tables, each `catalog.schema.table`.
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
