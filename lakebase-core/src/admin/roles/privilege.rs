//! The words of GRANT.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
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

/// A right. Which ones an object takes is Postgres's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // Postgres's own words
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

/// What rights are given on.
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
    /// Every table and view of a schema.
    AllTables(String),
    /// Every sequence of a schema. Columns that count by themselves need them.
    AllSequences(String),
    /// Every function of a schema, aggregates included.
    AllFunctions(String),
    /// Every procedure of a schema.
    AllProcedures(String),
    /// Every function and procedure of a schema.
    AllRoutines(String),
}

/// What will be made in a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FutureObjects {
    /// Tables and views.
    Tables,
    /// Sequences.
    Sequences,
    /// Functions; to Postgres these are all routines.
    Functions,
    /// Functions and procedures.
    Routines,
}

/// A kind of use that [`Plan::allow`](super::Plan::allow) gives all rights for.
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

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "ALL",
            Self::Connect => "CONNECT",
            Self::Create => "CREATE",
            Self::Delete => "DELETE",
            Self::Execute => "EXECUTE",
            Self::Insert => "INSERT",
            Self::Maintain => "MAINTAIN",
            Self::References => "REFERENCES",
            Self::Select => "SELECT",
            Self::Temporary => "TEMPORARY",
            Self::Trigger => "TRIGGER",
            Self::Truncate => "TRUNCATE",
            Self::Update => "UPDATE",
            Self::Usage => "USAGE",
        })
    }
}

pub(super) fn list(privileges: &[Privilege]) -> String {
    let words: Vec<String> = privileges.iter().map(Privilege::to_string).collect();
    words.join(", ")
}

impl Object {
    pub(super) fn names(&self) -> Vec<&str> {
        match self {
            Self::Database(name)
            | Self::Schema(name)
            | Self::AllTables(name)
            | Self::AllSequences(name)
            | Self::AllFunctions(name)
            | Self::AllProcedures(name)
            | Self::AllRoutines(name) => vec![name],
            Self::Table(schema, name)
            | Self::Sequence(schema, name)
            | Self::Routine(schema, name) => vec![schema, name],
        }
    }

    /// Everything of a kind in a schema, if that is what it is.
    pub(super) fn whole(&self) -> Option<(FutureObjects, String)> {
        Some(match self {
            Self::AllTables(schema) => (FutureObjects::Tables, schema.clone()),
            Self::AllSequences(schema) => (FutureObjects::Sequences, schema.clone()),
            Self::AllFunctions(schema)
            | Self::AllProcedures(schema)
            | Self::AllRoutines(schema) => (FutureObjects::Routines, schema.clone()),
            _ => return None,
        })
    }

    pub(super) fn to_sql(&self) -> String {
        let inside = |schema: &str, name: &str| {
            format!("{}.{}", escape_identifier(schema), escape_identifier(name))
        };
        let all = |what: &str, schema: &str| {
            format!("ALL {what} IN SCHEMA {}", escape_identifier(schema))
        };
        match self {
            Self::Database(name) => format!("DATABASE {}", escape_identifier(name)),
            Self::Schema(name) => format!("SCHEMA {}", escape_identifier(name)),
            Self::Table(schema, name) => format!("TABLE {}", inside(schema, name)),
            Self::Sequence(schema, name) => format!("SEQUENCE {}", inside(schema, name)),
            Self::Routine(schema, name) => format!("ROUTINE {}", inside(schema, name)),
            Self::AllTables(schema) => all("TABLES", schema),
            Self::AllSequences(schema) => all("SEQUENCES", schema),
            Self::AllFunctions(schema) => all("FUNCTIONS", schema),
            Self::AllProcedures(schema) => all("PROCEDURES", schema),
            Self::AllRoutines(schema) => all("ROUTINES", schema),
        }
    }
}

impl FutureObjects {
    pub(super) fn keyword(self) -> &'static str {
        match self {
            Self::Tables => "TABLES",
            Self::Sequences => "SEQUENCES",
            Self::Functions => "FUNCTIONS",
            Self::Routines => "ROUTINES",
        }
    }

    /// Asks whether there are any in a schema that belong neither to us nor to an extension.
    pub(super) fn foreign_sql(self, schema: &str) -> String {
        let (catalog, short, kinds) = match self {
            Self::Tables => (
                "pg_class",
                "rel",
                "AND relkind IN ('r', 'p', 'v', 'm', 'f')",
            ),
            Self::Sequences => ("pg_class", "rel", "AND relkind = 'S'"),
            Self::Functions | Self::Routines => ("pg_proc", "pro", ""),
        };
        format!(
            "SELECT EXISTS (SELECT FROM {catalog} AS o \
             JOIN pg_namespace AS n ON n.oid = o.{short}namespace AND nspname = {} \
             WHERE NOT pg_has_role(o.{short}owner, 'USAGE') {kinds} \
             AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = '{catalog}'::regclass \
                 AND objid = o.oid AND deptype = 'e'))",
            escape_literal(schema)
        )
    }

    /// Those that are there.
    pub(super) fn all_in(self, schema: &str) -> Object {
        let schema = schema.to_owned();
        match self {
            Self::Tables => Object::AllTables(schema),
            Self::Sequences => Object::AllSequences(schema),
            Self::Functions => Object::AllFunctions(schema),
            Self::Routines => Object::AllRoutines(schema),
        }
    }
}

impl Access {
    pub(super) fn on_database(self) -> &'static [Privilege] {
        &[Privilege::Connect]
    }

    pub(super) fn on_schema(self) -> &'static [Privilege] {
        match self {
            Self::Read | Self::Write => &[Privilege::Usage],
            Self::All => &[Privilege::All],
        }
    }

    pub(super) fn on_objects(self) -> &'static [(FutureObjects, &'static [Privilege])] {
        use FutureObjects::{Routines, Sequences, Tables};
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

macro_rules! words {
    ($type:ident: $($word:literal => $variant:ident),*) => {
        impl $type {
            /// The words that [`FromStr`] takes.
            pub const WORDS: &[&str] = &[$($word),*];
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(word: &str) -> Result<Self, Error> {
                match word {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(Error::config(format!(
                        "{word:?} is none of {}",
                        Self::WORDS.join(", ")
                    ))),
                }
            }
        }
    };
}

words!(IdentityKind: "user" => User, "service-principal" => ServicePrincipal, "group" => Group);
words!(Access: "read" => Read, "write" => Write, "all" => All);
