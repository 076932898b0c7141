//! A library whose tests run on a branch: see `tests/branch.rs`.

use diesel::prelude::*;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};

diesel::table! {
    ledger.accounts (owner) {
        owner -> Text,
        cents -> BigInt,
    }
}

/// Moves money from one account to another one.
///
/// # Errors
///
/// `CheckViolation` if the first account would be overdrawn, `NotFound` if there is no such account. Nothing is moved then.
pub async fn transfer(
    connection: &mut AsyncPgConnection,
    from: &str,
    to: &str,
    cents: u32,
) -> QueryResult<()> {
    let cents = i64::from(cents);
    let mut changes = [(from, -cents), (to, cents)];
    // Two transfers lock the same rows in the same order, so that neither waits for the other one forever.
    changes.sort_unstable();
    connection
        .transaction(async |connection| {
            for (owner, change) in changes {
                let changed = diesel::update(accounts::table.find(owner))
                    .set(accounts::cents.eq(accounts::cents + change))
                    .execute(connection)
                    .await?;
                if changed == 0 {
                    return Err(diesel::result::Error::NotFound);
                }
            }
            Ok(())
        })
        .await
}
