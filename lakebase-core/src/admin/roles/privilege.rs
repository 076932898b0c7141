//! Privileges, and the objects that they are granted on.

use std::fmt;

use postgres_protocol::escape::{escape_identifier, escape_literal};

/// The kind of a workspace identity: see [`Plan::create_role`](super::Plan::create_role).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityKind {
    /// A user, named by e-mail.
    User,
    /// A service principal, named by client id.
    ServicePrincipal,
    /// A group, named by its name. Its members log in as the group.
    Group,
}

/// A privilege. Postgres' documentation of GRANT lists the privileges of each kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // Postgres' names
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

/// The object of [`Plan::grant`](super::Plan::grant).
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
    /// A function or procedure whose name is unique: schema and name.
    Routine(String, String),
    /// All objects of a kind in a schema.
    All(ObjectKind, String),
}

/// A kind of objects in a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectKind {
    /// Tables and views.
    Tables,
    /// Sequences, which `serial` columns need.
    Sequences,
    /// Functions, aggregates and procedures.
    Routines,
}

/// A kind of access: [`Plan::allow`](super::Plan::allow) grants all of its privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Connects and reads.
    Read,
    /// Connects, reads and writes rows: an application whose tables another role migrates.
    Write,
    /// All privileges that can be granted, `CREATE` in the schema included: a developer. They do not include changing or dropping
    /// objects of other roles.
    All,
}

impl IdentityKind {
    /// The platform's name of the kind.
    pub(in crate::admin) fn keyword(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::ServicePrincipal => "SERVICE_PRINCIPAL",
            Self::Group => "GROUP",
        }
    }
}

/// Postgres' name.
impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&capitals(self))
    }
}

/// The name of a variant in capitals, which is Postgres' keyword.
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

    /// For [`Object::All`], a query that returns whether the schema has an object that belongs neither to this role nor to an extension.
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
            ObjectKind::Routines => ("pg_proc", "pro", ""),
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
