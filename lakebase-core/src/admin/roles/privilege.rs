//! Privileges, as GRANT names them.

use std::fmt;

use postgres_protocol::escape::{escape_identifier, escape_literal};

/// What an identity of the workspace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityKind {
    /// A person, by e-mail.
    User,
    /// A service principal, by client id.
    ServicePrincipal,
    /// A group, by name. Its members log in as the group.
    Group,
}

/// A privilege. Which ones an object takes is Postgres's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // Postgres's own names
pub enum Privilege {
    All,
    Connect,
    Create,
    Delete,
    Execute,
    Insert,
    /// Since Postgres 17.
    Maintain,
    References,
    Select,
    Temporary,
    Trigger,
    Truncate,
    Update,
    Usage,
}

/// What privileges are granted on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Object {
    /// A database.
    Database(String),
    /// A schema.
    Schema(String),
    /// A table or view: schema and name.
    Table(String, String),
    /// A sequence: schema and name.
    Sequence(String, String),
    /// A function or procedure, the only one of its name: schema and name.
    Routine(String, String),
    /// Everything of a kind that a schema has.
    All(ObjectKind, String),
}

/// A kind of objects in a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectKind {
    /// Tables and views.
    Tables,
    /// Sequences. Columns that count by themselves need them.
    Sequences,
    /// Functions, aggregates included. As objects of the future, these are all routines to Postgres.
    Functions,
    /// Functions and procedures.
    Routines,
}

/// A kind of use that [`Plan::allow`](super::Plan::allow) grants all privileges for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// To connect and read.
    Read,
    /// To connect, read and write rows: an application whose tables another role migrates.
    Write,
    /// Everything that can be granted, `CREATE` in the schema included: a developer beside the
    /// application. Not to change or drop what others own.
    All,
}

impl IdentityKind {
    /// What `databricks_create_role` calls it.
    pub(super) fn keyword(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::ServicePrincipal => "SERVICE_PRINCIPAL",
            Self::Group => "GROUP",
        }
    }
}

/// As Postgres names it.
impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&capitals(self))
    }
}

/// The name of a variant in capitals, which is Postgres's word for it.
fn capitals(variant: &impl fmt::Debug) -> String {
    format!("{variant:?}").to_uppercase()
}

pub(super) fn list(privileges: &[Privilege]) -> String {
    let words: Vec<String> = privileges.iter().map(Privilege::to_string).collect();
    words.join(", ")
}

impl Object {
    pub(super) fn names(&self) -> Vec<&str> {
        match self {
            Self::Database(name) | Self::Schema(name) | Self::All(_, name) => vec![name],
            Self::Table(schema, name)
            | Self::Sequence(schema, name)
            | Self::Routine(schema, name) => vec![schema, name],
        }
    }

    pub(super) fn to_sql(&self) -> String {
        let what = match self {
            Self::Database(_) => "DATABASE",
            Self::Schema(_) => "SCHEMA",
            Self::Table(..) => "TABLE",
            Self::Sequence(..) => "SEQUENCE",
            Self::Routine(..) => "ROUTINE",
            Self::All(kind, _) => &format!("ALL {} IN SCHEMA", kind.keyword()),
        };
        let names: Vec<String> = self.names().into_iter().map(escape_identifier).collect();
        format!("{what} {}", names.join("."))
    }

    /// Asks whether there are any of a kind in a schema that belong neither to us nor to an extension.
    pub(super) fn foreign_sql(&self) -> Option<String> {
        let Self::All(kind, schema) = self else {
            return None;
        };
        let (catalog, short, kinds) = match kind {
            ObjectKind::Tables => (
                "pg_class",
                "rel",
                "AND relkind IN ('r', 'p', 'v', 'm', 'f')",
            ),
            ObjectKind::Sequences => ("pg_class", "rel", "AND relkind = 'S'"),
            ObjectKind::Functions | ObjectKind::Routines => ("pg_proc", "pro", ""),
        };
        Some(format!(
            "SELECT EXISTS (SELECT FROM {catalog} AS o \
             JOIN pg_namespace AS n ON n.oid = o.{short}namespace AND nspname = {} \
             WHERE NOT pg_has_role(o.{short}owner, 'USAGE') {kinds} \
             AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = '{catalog}'::regclass \
                 AND objid = o.oid AND deptype = 'e'))",
            escape_literal(schema)
        ))
    }
}

impl ObjectKind {
    pub(super) fn keyword(self) -> String {
        capitals(&self)
    }
}

impl Access {
    pub(super) fn on_schema(self) -> &'static [Privilege] {
        match self {
            Self::Read | Self::Write => &[Privilege::Usage],
            Self::All => &[Privilege::All],
        }
    }

    pub(super) fn on_objects(self) -> &'static [(ObjectKind, &'static [Privilege])] {
        use ObjectKind::{Routines, Sequences, Tables};
        use Privilege::{All, Delete, Execute, Insert, Select, Update, Usage};

        match self {
            Self::Read => &[
                (Tables, &[Select]),
                (Sequences, &[Select]),
                (Routines, &[Execute]),
            ],
            Self::Write => &[
                (Tables, &[Select, Insert, Update, Delete]),
                (Sequences, &[Usage, Select]),
                (Routines, &[Execute]),
            ],
            Self::All => &[(Tables, &[All]), (Sequences, &[All]), (Routines, &[All])],
        }
    }
}
