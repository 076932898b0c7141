//! Snapshots of a database's schema, and their difference.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use tokio_postgres::Client;

use crate::error::Error;
use crate::error::foreign::is_harmful;
use crate::lakebase::Lakebase;
use crate::postgres::advice::database_error;

const OBJECTS: &str = include_str!("schema.sql");
/// One snapshot for all queries. With this search path, Postgres qualifies names in definitions.
const BEGIN: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog";

/// A change that is longer than this is printed on two lines.
const LINE: usize = 100;
/// A difference with more changes than this is collapsed in Markdown.
const OPEN_CHANGES: usize = 15;

/// The schema of a database at one moment: schemas, tables with columns, constraints, indexes, triggers, rules and policies, views,
/// sequences, functions, types, extensions, owners, grants and default grants.
///
/// It omits Postgres' own schemas, temporary objects and objects that belong to an extension. It does not contain comments,
/// statistics objects, casts, operators, publications, event triggers and foreign servers.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use lakebase_core::{Lakebase, admin::schema::Snapshot};
///
/// let lakebase = Lakebase::from_env()?;
/// let before = Snapshot::of(&lakebase.with_database("before")?).await?;
/// let after = Snapshot::of(&lakebase.with_database("after")?).await?;
/// println!("{}", before.diff(&after));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    objects: BTreeMap<Object, String>,
}

/// The name of an object in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct Object {
    /// The schema; empty for extensions and for default grants of the whole database.
    pub schema: String,
    /// The table, view, sequence, function (with its argument types) or type that the object is or belongs to. Empty for
    /// schemas and extensions.
    pub relation: String,
    /// For the order: parts follow the relation that they belong to.
    #[serde(skip)]
    is_part: bool,
    /// The kind, for example `table`, `column`, `index` or `grant`.
    pub kind: String,
    /// The name of a part within `relation`; empty for the relation itself.
    pub name: String,
}

/// The changes from one [`Snapshot`] to another. `Display` groups them by table and marks added objects with `+`, removed ones with
/// `-` and changed ones with `~`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[must_use]
pub struct Difference {
    changes: Vec<Change>,
}

/// An object that differs between two snapshots: see [`Difference::changes`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// The name of the object.
    pub object: Object,
    /// The definition before; `None` if the object was added.
    pub before: Option<String>,
    /// The definition after; `None` if the object was removed.
    pub after: Option<String>,
}

impl Snapshot {
    /// Reads the schema of the database on its direct host, in one read-only transaction. Every role has the privileges for this.
    ///
    /// # Errors
    ///
    /// As [`Lakebase::connect`], and [`Error::is_database`] if the query fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection, which only reads.
    pub async fn of(lakebase: &Lakebase) -> Result<Self, Error> {
        let (client, connection) = lakebase.direct().connect().await?;
        let driver = tokio::spawn(connection);
        let objects = read(&client).await;
        drop(client);
        let _ = driver.await;
        let objects = objects.map_err(|error| database_error("cannot read the schema", error))?;
        Ok(Self { objects })
    }

    /// Keeps only one schema and its objects.
    #[must_use]
    pub fn only_schema(mut self, schema: &str) -> Self {
        self.objects.retain(|object, _| object.schema == schema);
        self
    }

    /// Removes the tables of this name with their parts, for example the history of migrations.
    #[must_use]
    pub fn without_table(mut self, table: &str) -> Self {
        self.objects.retain(|object, _| object.relation != table);
        self
    }

    /// Returns the objects with their definitions, ordered by schema and table.
    pub fn objects(&self) -> impl Iterator<Item = (&Object, &str)> {
        let objects = self.objects.iter();
        objects.map(|(object, definition)| (object, definition.as_str()))
    }

    /// Returns the changes from this snapshot to `after`.
    pub fn diff(&self, after: &Self) -> Difference {
        let mut all: Vec<_> = self.objects.keys().chain(after.objects.keys()).collect();
        all.sort();
        all.dedup();
        let changes = all.into_iter().map(|object| Change {
            object: object.clone(),
            before: self.objects.get(object).cloned(),
            after: after.objects.get(object).cloned(),
        });
        Difference {
            changes: changes.filter(|one| one.before != one.after).collect(),
        }
    }
}

async fn read(client: &Client) -> Result<BTreeMap<Object, String>, tokio_postgres::Error> {
    client.batch_execute(BEGIN).await?;
    let rows = client.query(OBJECTS, &[]).await?.into_iter();
    let objects = rows.map(|row| {
        let name: String = row.get(3);
        let object = Object {
            schema: row.get(0),
            relation: row.get(1),
            is_part: !name.is_empty(),
            kind: row.get(2),
            name,
        };
        // Postgres returns NULL for an object that is dropped at this moment.
        (object, row.get::<_, Option<String>>(4).unwrap_or_default())
    });
    Ok(objects.collect())
}

impl Difference {
    /// Returns whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes, ordered by schema and table.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Returns the changes as Markdown for a comment on a pull request, collapsed if there are more than 15.
    pub fn to_markdown(&self) -> String {
        let text = self.to_string();
        let block = format!("```diff\n{}\n```\n", text.trim_end());
        match self.changes.len() {
            0 => format!("{}\n", text.trim_end()),
            1..=OPEN_CHANGES => block,
            many => format!(
                "<details><summary>{many} changes to the schema</summary>\n\n{block}\n</details>\n"
            ),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        match self.name.is_empty() {
            true => Ok(()),
            false => write!(f, " {}", one_line(&self.name)),
        }
    }
}

impl Object {
    fn group(&self) -> String {
        match (self.schema.as_str(), self.relation.as_str()) {
            ("", _) => "database".to_owned(),
            (schema, "") => one_line(&format!("schema {schema}")),
            (schema, relation) => one_line(&format!("{schema}.{relation}")),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = &self.object;
        let [before, after] = [&self.before, &self.after].map(|one| one.as_deref().map(one_line));
        match (before, after) {
            (Some(before), Some(after)) if before.len() + after.len() > LINE => {
                write!(f, "~ {object}\n-   {before}\n+   {after}")
            }
            (Some(before), Some(after)) => write!(f, "~ {object}: {before} -> {after}"),
            (before, after) => {
                let sign = if after.is_some() { '+' } else { '-' };
                let definition = before.or(after).unwrap_or_default();
                write!(f, "{sign} {object}")?;
                match definition.is_empty() {
                    true => Ok(()),
                    false => write!(f, ": {definition}"),
                }
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no change to the schema\n");
        }
        for changes in self
            .changes
            .chunk_by(|a, b| a.object.group() == b.object.group())
        {
            if let Some(first) = changes.first() {
                writeln!(f, "{}", first.object.group())?;
            }
            for change in changes {
                writeln!(f, "{change}")?;
            }
        }
        Ok(())
    }
}

/// Replaces line breaks and control characters, which could end a Markdown block or control a terminal, by spaces.
pub(super) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || is_harmful(c));
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ")
}
