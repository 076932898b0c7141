//! Roles and rights: what to run once per database, so that an application may use it.
//!
//! A [`Plan`] collects statements; [`apply`](Plan::apply) runs them in one transaction, all or nothing, and
//! its `Display` is the script for those who would rather read it first. Applying it again changes nothing.
//!
//! ```no_run
//! use lakebase_core::Lakebase;
//! use lakebase_core::roles::{Access, IdentityKind, Plan};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! // As the owner of the schema `app`, whose migrations make its tables:
//! let lakebase = Lakebase::from_env()?;
//! let reporting = "6f2f0a2e-6a53-4c0b-9a1f-5a2b0c9d7e11";
//! let plan = Plan::new(lakebase.database())
//!     .create_role(reporting, IdentityKind::ServicePrincipal)
//!     .allow(Access::Read, "app", None, reporting);
//! println!("{plan}");
//! plan.apply(&lakebase).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Who may do what, by the platform's rules: roles are made by an identity that is logged in with a token
//! and may create roles; rights are given by the owner of the object. Whoever made a table owns it, and
//! nobody else may change it, so let the application's service principal deploy first.

mod apply;
mod privilege;

use std::fmt;

pub use privilege::{Access, FutureObjects, IdentityKind, Object, Privilege};

use crate::Error;
use crate::sql::{quote_ident, quote_literal};

/// Statements that make roles and give rights, in one database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a plan does nothing before it is applied"]
pub struct Plan {
    database: String,
    statements: Vec<Statement>,
    /// A name that Postgres would cut.
    too_long: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    sql: String,
    /// What is in a schema: objects of an extension are among it, which belong to nobody here.
    whole: Option<(FutureObjects, String)>,
}

/// Postgres cuts longer names in silence, and so would mean somebody else.
const LONGEST_NAME: usize = 63;

/// What every transaction of a plan begins with. Extensions go where everybody finds them, and nobody waits
/// for ever behind a migration.
const PREAMBLE: [&str; 3] = [
    "BEGIN",
    "SET LOCAL search_path TO public",
    "SET LOCAL lock_timeout TO '30s'",
];

impl Plan {
    /// For a database; [`Lakebase::database`](crate::Lakebase::database) is the configured one. The plan
    /// has to be applied there.
    pub fn new(database: impl Into<String>) -> Self {
        Self {
            database: database.into(),
            statements: Vec::new(),
            too_long: None,
        }
    }

    /// The role of an identity of the workspace, which logs in with tokens: `databricks_create_role`, and
    /// the extension it comes from. A role of that name that is there already stays as it is, also one
    /// that was made by plain `CREATE ROLE` and takes no tokens.
    pub fn create_role(self, identity: &str, kind: IdentityKind) -> Self {
        let literal = quote_literal(identity);
        self.named([identity])
            .add("CREATE EXTENSION IF NOT EXISTS databricks_auth")
            .add(format!(
                "SELECT databricks_create_role({literal}, '{}') \
                 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal})",
                kind.keyword()
            ))
    }

    /// A schema, of the one who applies the plan or of `owner` (whom one must be a member of).
    pub fn create_schema(self, schema: &str, owner: Option<&str>) -> Self {
        let authorization = owner.map(|owner| format!(" AUTHORIZATION {}", quote_ident(owner)));
        self.named([schema]).named(owner).add(format!(
            "CREATE SCHEMA IF NOT EXISTS {}{}",
            quote_ident(schema),
            authorization.unwrap_or_default()
        ))
    }

    /// Rights on what is there. Nothing is added for an empty list.
    pub fn grant(self, privileges: &[Privilege], object: &Object, grantee: &str) -> Self {
        if privileges.is_empty() {
            return self;
        }
        let sql = format!(
            "GRANT {} ON {} TO {}",
            privilege::list(privileges),
            object.to_sql(),
            quote_ident(grantee)
        );
        let names = object.names();
        self.named(names)
            .named([grantee])
            .add_statement(sql, object.whole())
    }

    /// Rights on what `made_by` will make in a schema (one must be a member of it); without it, on what the one
    /// who applies the plan will make. For objects that somebody else makes they do not count, which is the
    /// usual trap.
    pub fn grant_future(
        self,
        privileges: &[Privilege],
        objects: FutureObjects,
        schema: &str,
        made_by: Option<&str>,
        grantee: &str,
    ) -> Self {
        if privileges.is_empty() {
            return self;
        }
        let named = self.named([schema, grantee]).named(made_by);
        let maker = made_by.map(|maker| format!("FOR ROLE {} ", quote_ident(maker)));
        named.add(format!(
            "ALTER DEFAULT PRIVILEGES {}IN SCHEMA {} GRANT {} ON {} TO {}",
            maker.unwrap_or_default(),
            quote_ident(schema),
            privilege::list(privileges),
            objects.keyword(),
            quote_ident(grantee)
        ))
    }

    /// Makes `member` a member of `role`: a common owner of schemas, for example.
    pub fn grant_role(self, role: &str, member: &str) -> Self {
        self.named([role, member]).add(format!(
            "GRANT {} TO {}",
            quote_ident(role),
            quote_ident(member)
        ))
    }

    /// Everything that a kind of use needs, on what is there in a schema and on what `made_by` will make.
    pub fn allow(self, access: Access, schema: &str, made_by: Option<&str>, grantee: &str) -> Self {
        let schema_object = Object::Schema(schema.to_owned());
        let mut plan = self;
        let database = Object::Database(plan.database.clone());
        plan = plan.grant(access.on_database(), &database, grantee).grant(
            access.on_schema(),
            &schema_object,
            grantee,
        );
        for (objects, privileges) in access.on_objects() {
            plan = plan
                .grant(privileges, &objects.all_in(schema), grantee)
                .grant_future(privileges, *objects, schema, made_by, grantee);
        }
        plan
    }

    /// What a role needs that runs migrations: to connect, and to create schemas of its own.
    pub fn allow_to_deploy(self, grantee: &str) -> Self {
        let database = Object::Database(self.database.clone());
        self.grant(&[Privilege::Connect, Privilege::Create], &database, grantee)
    }

    /// The statements, in order, without semicolons.
    pub fn statements(&self) -> impl Iterator<Item = &str> {
        self.statements
            .iter()
            .map(|statement| statement.sql.as_str())
    }

    /// That no name is longer than Postgres takes them; [`apply`](Self::apply) checks it, too.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`], with the name.
    pub fn check(&self) -> Result<(), Error> {
        match &self.too_long {
            Some(name) => Err(Error::config(format!(
                "the name {name:?} is longer than the {LONGEST_NAME} bytes that Postgres takes"
            ))),
            None => Ok(()),
        }
    }

    fn named<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names = names.into_iter();
        if let Some(name) = names.find(|name| name.len() > LONGEST_NAME) {
            self.too_long.get_or_insert_with(|| name.to_owned());
        }
        self
    }

    fn add(self, sql: impl Into<String>) -> Self {
        self.add_statement(sql.into(), None)
    }

    fn add_statement(mut self, sql: String, whole: Option<(FutureObjects, String)>) -> Self {
        let statement = Statement { sql, whole };
        if !self.statements.contains(&statement) {
            self.statements.push(statement);
        }
        self
    }
}

/// The script, for psql.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for statement in PREAMBLE.into_iter().chain(self.statements()) {
            writeln!(f, "{statement};")?;
        }
        writeln!(f, "COMMIT;")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_wherever_they_stand() {
        let plan = Plan::new("my db")
            .create_role("o'neill@example.com", IdentityKind::User)
            .create_schema("a\"b", Some("c d"))
            .grant(
                &[Privilege::Select, Privilege::Update],
                &Object::Table("a\"b".into(), "t;--".into()),
                "x\"; DROP ROLE y",
            )
            .grant_future(
                &[Privilege::Execute],
                FutureObjects::Functions,
                "a",
                Some("m\""),
                "g",
            )
            .allow_to_deploy("m");
        let expected = r#"BEGIN;
SET LOCAL search_path TO public;
SET LOCAL lock_timeout TO '30s';
CREATE EXTENSION IF NOT EXISTS databricks_auth;
SELECT databricks_create_role('o''neill@example.com', 'USER') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'o''neill@example.com');
CREATE SCHEMA IF NOT EXISTS "a""b" AUTHORIZATION "c d";
GRANT SELECT, UPDATE ON TABLE "a""b"."t;--" TO "x""; DROP ROLE y";
ALTER DEFAULT PRIVILEGES FOR ROLE "m""" IN SCHEMA "a" GRANT EXECUTE ON FUNCTIONS TO "g";
GRANT CONNECT, CREATE ON DATABASE "my db" TO "m";
COMMIT;
"#;
        assert_eq!(plan.to_string(), expected);
    }

    #[test]
    fn an_application_may_write_what_the_migrator_makes_but_change_no_table() {
        let plan = Plan::new("d").allow(Access::Write, "app", Some("migrator"), "app-role");
        let statements: Vec<&str> = plan.statements().collect();
        assert_eq!(
            statements,
            [
                r#"GRANT CONNECT ON DATABASE "d" TO "app-role""#,
                r#"GRANT USAGE ON SCHEMA "app" TO "app-role""#,
                r#"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "app" TO "app-role""#,
                r#"ALTER DEFAULT PRIVILEGES FOR ROLE "migrator" IN SCHEMA "app" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO "app-role""#,
                r#"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA "app" TO "app-role""#,
                r#"ALTER DEFAULT PRIVILEGES FOR ROLE "migrator" IN SCHEMA "app" GRANT USAGE, SELECT ON SEQUENCES TO "app-role""#,
                r#"GRANT EXECUTE ON ALL ROUTINES IN SCHEMA "app" TO "app-role""#,
                r#"ALTER DEFAULT PRIVILEGES FOR ROLE "migrator" IN SCHEMA "app" GRANT EXECUTE ON ROUTINES TO "app-role""#,
            ]
        );
    }

    #[test]
    fn a_name_that_postgres_would_cut_is_refused() {
        let long = "x".repeat(64);
        for plan in [
            Plan::new("d").create_role(&long, IdentityKind::Group),
            Plan::new("d").create_schema("s", Some(&long)),
            Plan::new("d").grant(&[Privilege::Usage], &Object::Schema(long.clone()), "g"),
            Plan::new("d").allow(Access::Read, "s", Some(&long), "g"),
            Plan::new("d").grant_role("r", &long),
        ] {
            let error = plan.check().expect_err("too long");
            assert!(
                error.is_config() && error.to_string().contains(&long),
                "{error}"
            );
        }
        let fits = Plan::new("d").allow_to_deploy(&long[1..]);
        fits.check().expect("fits");
    }

    #[test]
    fn no_rights_are_no_statement() {
        let plan = Plan::new("d").grant(&[], &Object::Schema("s".into()), "g");
        assert_eq!(plan.statements().count(), 0);
    }
}
