//! Runs a plan.

use std::future::ready;

use futures_util::stream::{TryStreamExt as _, poll_fn};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client};

use super::{PREAMBLE, Plan, Statement};
use crate::error::{Error, Kind};
use crate::lakebase::Lakebase;
use crate::postgres::advice::database_error;
use crate::postgres::transient::is_transient;

/// Concurrent grants on one object fail, so plans wait for each other.
const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(x'6c616b65726f6c65'::bigint)";

/// The lock is only for plans of this database, so others can change the same roles concurrently.
const MOST_ATTEMPTS: usize = 3;

/// Most characters of a statement in an error.
const LONGEST_STATEMENT: usize = 400;

fn is_conflict(error: &Error) -> bool {
    let code = error.sqlstate().unwrap_or_default();
    // Objects that exist by now, and XX000 for "tuple concurrently updated".
    matches!(code, "42710" | "42P06" | "23505" | "XX000")
}

impl Plan {
    /// Runs the statements in one transaction on the direct host.
    ///
    /// # Errors
    ///
    /// The rejected statement, with its SQLSTATE and advice. A `GRANT` for which the role lacks the privilege is an error, too, although
    /// Postgres only sends a warning.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future rolls the transaction back, unless the commit has been sent.
    pub async fn apply(&self, lakebase: &Lakebase) -> Result<(), Error> {
        self.check()?;
        let lakebase = lakebase.direct();
        let mut attempt = 1;
        loop {
            match self.attempt(&lakebase).await {
                Err(error) if is_conflict(&error) && attempt < MOST_ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    async fn attempt(&self, lakebase: &Lakebase) -> Result<(), Error> {
        if lakebase.database() != self.database {
            return Err(Error::config(format!(
                "the plan is for the database {:?}, not for {:?}",
                self.database,
                lakebase.database()
            )));
        }
        let (client, mut connection) = lakebase.connect().await?;
        let (sender, mut notices) = tokio::sync::mpsc::unbounded_channel();
        let listen = poll_fn(move |cx| connection.poll_message(cx)).try_for_each(move |message| {
            if let AsyncMessage::Notice(notice) = message {
                let _ = sender.send(notice);
            }
            ready(Ok(()))
        });
        let work = async move {
            for statement in PREAMBLE.into_iter().chain([ONE_AT_A_TIME]) {
                run(&client, statement).await?;
            }
            for Statement { sql, foreign_sql } in &self.statements {
                run(&client, sql).await?;
                while let Ok(notice) = notices.try_recv() {
                    // Postgres has not granted some or all of the privileges.
                    let is_rejected = *notice.code() == SqlState::WARNING_PRIVILEGE_NOT_GRANTED;
                    let is_error = match foreign_sql {
                        Some(query) if is_rejected => query_bool(&client, query).await?,
                        _ => is_rejected,
                    };
                    if is_error {
                        return Err(Error::new(Kind::Database, rejected_text(sql))
                            .with_sqlstate(Some("42501"))
                            .with_hint("Only the owner, or a role that has it WITH GRANT OPTION, may grant a privilege")
                            .caused_by(&notice, &[]));
                    }
                }
            }
            client.batch_execute("COMMIT").await.map_err(|error| {
                let lost = Error::new(
                    Kind::Database,
                    "lost the reply to COMMIT: the plan may be applied or not; apply it again",
                );
                lost.with_sqlstate(error.code().map(SqlState::code))
                    .with_transient(is_transient(&error))
                    .caused_by(&error, &[])
            })
        };
        match tokio::join!(work, listen) {
            (Err(error), Err(lost)) if error.sqlstate().is_none() => {
                let text = format!("lost the connection to {}", lakebase.target().await?);
                Err(Error::new(Kind::Network, text).caused_by(&lost, &[]))
            }
            (outcome, _) => outcome,
        }
    }
}

fn rejected_text(statement: &str) -> String {
    let end = statement.char_indices().nth(LONGEST_STATEMENT);
    let (statement, cut) = match end {
        Some((end, _)) => (&statement[..end], " .."),
        None => (statement, ""),
    };
    format!("rejected, and nothing was changed: {statement}{cut}")
}

async fn query_bool(client: &Client, query: &str) -> Result<bool, Error> {
    let row = client.query_one(query, &[]).await;
    row.map(|row| row.get(0))
        .map_err(|error| database_error(rejected_text(query), error))
}

async fn run(client: &Client, statement: &str) -> Result<(), Error> {
    let outcome = client.batch_execute(statement).await;
    outcome.map_err(|error| database_error(rejected_text(statement), error))
}
