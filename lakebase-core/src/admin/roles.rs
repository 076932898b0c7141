//! Roles and rights: what to run once per database, so that an application may use it.
//!
//! A [`Plan`] collects statements; [`apply`](Plan::apply) runs them in one transaction, all or nothing, and
//! its `Display` is the script for those who would rather read it first. Applying it again changes nothing.
//!
//! ```no_run
//! use lakebase_core::Lakebase;
//! use lakebase_core::admin::{Access, IdentityKind, Plan};
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

use crate::error::Error;
use crate::postgres::pooled_schema::set_search_path;
use crate::settings::name::check_name;
use postgres_protocol::escape::{escape_identifier, escape_literal};

/// Statements that make roles and give rights, in one database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a plan does nothing before it is applied"]
pub struct Plan {
    database: String,
    statements: Vec<Statement>,
    /// Every name, and whether it is a role's.
    names: Vec<(String, bool)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    sql: String,
    /// What is in a schema: objects of an extension are among it, which belong to nobody here.
    whole: Option<(FutureObjects, String)>,
}

/// What every transaction of a plan begins with. Extensions go where everybody finds them, and nobody waits
/// for ever behind a migration.
const PREAMBLE: [&str; 3] = [
    "BEGIN",
    "SET LOCAL search_path TO public",
    "SET LOCAL lock_timeout TO '30s'",
];

impl Plan {
    /// For a database; [`Lakebase::database`](crate::lakebase::Lakebase::database) is the configured one. The plan
    /// has to be applied there.
    pub fn new(database: impl Into<String>) -> Self {
        let database = database.into();
        Self {
            names: vec![(database.clone(), false)],
            database,
            statements: Vec::new(),
        }
    }

    /// The role of an identity of the workspace, which logs in with tokens: `databricks_create_role`, and
    /// the extension it comes from. A role of that name that is there already stays as it is, also one
    /// that was made by plain `CREATE ROLE` and takes no tokens.
    pub fn create_role(self, identity: &str, kind: IdentityKind) -> Self {
        let literal = escape_literal(identity);
        self.roles([identity])
            .add("CREATE EXTENSION IF NOT EXISTS databricks_auth")
            .add(format!(
                "SELECT databricks_create_role({literal}, '{}') \
                 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal})",
                kind.keyword()
            ))
    }

    /// A schema, of the one who applies the plan or of `owner` (whom one must be a member of).
    pub fn create_schema(self, schema: &str, owner: Option<&str>) -> Self {
        let authorization =
            owner.map(|owner| format!(" AUTHORIZATION {}", escape_identifier(owner)));
        self.named([schema]).roles(owner).add(format!(
            "CREATE SCHEMA IF NOT EXISTS {}{}",
            escape_identifier(schema),
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
            escape_identifier(grantee)
        );
        let names = object.names();
        self.named(names)
            .roles([grantee])
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
        let named = self.named([schema]).roles([grantee]).roles(made_by);
        let maker = made_by.map(|maker| format!("FOR ROLE {} ", escape_identifier(maker)));
        named.add(format!(
            "ALTER DEFAULT PRIVILEGES {}IN SCHEMA {} GRANT {} ON {} TO {}",
            maker.unwrap_or_default(),
            escape_identifier(schema),
            privilege::list(privileges),
            objects.keyword(),
            escape_identifier(grantee)
        ))
    }

    /// Makes `member` a member of `role`: a common owner of schemas, for example.
    pub fn grant_role(self, role: &str, member: &str) -> Self {
        self.roles([role, member]).add(format!(
            "GRANT {} TO {}",
            escape_identifier(role),
            escape_identifier(member)
        ))
    }

    /// Everything that a kind of use needs, on what is there in a schema and on what `made_by` will make.
    pub fn allow(self, access: Access, schema: &str, made_by: Option<&str>, grantee: &str) -> Self {
        let schema_object = Object::Schema(schema.to_owned());
        let mut plan = self
            .ensure_on_database(access.on_database(), grantee)
            .grant(access.on_schema(), &schema_object, grantee);
        for (objects, privileges) in access.on_objects() {
            plan = plan
                .grant(privileges, &objects.all_in(schema), grantee)
                .grant_future(privileges, *objects, schema, made_by, grantee);
        }
        plan
    }

    /// What a role needs that runs migrations: to connect, and to create schemas of its own.
    pub fn allow_to_deploy(self, grantee: &str) -> Self {
        self.ensure_on_database(&[Privilege::Connect, Privilege::Create], grantee)
    }

    /// Puts a schema first on the search path of a role in this database, for pooled hosts, which take no other.
    /// Sessions that the pooler has open keep their path until it replaces them.
    pub fn set_search_path(self, schema: &str, role: &str) -> Self {
        let sql = set_search_path(role, &self.database, schema);
        self.named([schema]).roles([role]).add(sql)
    }

    /// Grants what the role does not have already, by itself or as everybody: only the owner of the database may grant
    /// that, and CONNECT is there by default.
    fn ensure_on_database(self, privileges: &[Privilege], grantee: &str) -> Self {
        let (database, role) = (escape_literal(&self.database), escape_literal(grantee));
        let has = privileges
            .iter()
            .map(|privilege| format!("has_database_privilege({role}, {database}, '{privilege}')"));
        let has: Vec<String> = has.collect();
        let object = Object::Database(self.database.clone());
        let body = format!(
            "BEGIN IF NOT ({}) THEN GRANT {} ON {} TO {}; END IF; END",
            has.join(" AND "),
            privilege::list(privileges),
            object.to_sql(),
            escape_identifier(grantee)
        );
        let body = match body.contains("$$") {
            true => escape_literal(&body),
            false => format!("$$ {body} $$"),
        };
        self.roles([grantee]).add(format!("DO {body}"))
    }

    /// The statements, in order, without semicolons.
    pub fn statements(&self) -> impl Iterator<Item = &str> {
        self.statements
            .iter()
            .map(|statement| statement.sql.as_str())
    }

    /// Checks the names: none is longer than the 63 bytes that Postgres keeps, and no role is `public`, which means
    /// everybody. [`apply`](Self::apply) does so, too.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`], with the name.
    pub fn check(&self) -> Result<(), Error> {
        for (name, is_role) in &self.names {
            if *is_role && name == "public" {
                return Err(Error::config("role: \"public\" means every role of the database").with_hint(
                    "Grant to a role or a group; if everybody is meant, run GRANT .. TO PUBLIC in SQL",
                ));
            }
            check_name(if *is_role { "role" } else { "object" }, name)?;
        }
        Ok(())
    }

    fn named<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let names = names.into_iter().map(|name| (name.to_owned(), false));
        self.names.extend(names);
        self
    }

    fn roles<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let names = names.into_iter().map(|name| (name.to_owned(), true));
        self.names.extend(names);
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
DO $$ BEGIN IF NOT (has_database_privilege('m', 'my db', 'CONNECT') AND has_database_privilege('m', 'my db', 'CREATE')) THEN GRANT CONNECT, CREATE ON DATABASE "my db" TO "m"; END IF; END $$;
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
                r#"DO $$ BEGIN IF NOT (has_database_privilege('app-role', 'd', 'CONNECT')) THEN GRANT CONNECT ON DATABASE "d" TO "app-role"; END IF; END $$"#,
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
    fn a_role_that_means_everybody_is_refused() {
        for plan in [
            Plan::new("d").allow(Access::Read, "s", None, "public"),
            Plan::new("d").allow(Access::Read, "s", Some("public"), "g"),
            Plan::new("d").allow_to_deploy("public"),
            Plan::new("d").grant_role("r", "public"),
            Plan::new("d").set_search_path("s", "public"),
        ] {
            let error = plan.check().expect_err("everybody");
            assert!(
                error.is_config() && error.to_string().contains("every role"),
                "{error}"
            );
        }
        // A schema may have that name.
        let plan = Plan::new("d").allow(Access::Read, "public", None, "g");
        plan.check().expect("one role");
    }

    #[test]
    fn a_statement_inside_a_statement_cannot_be_left() {
        let plan = Plan::new("d").allow_to_deploy("x$$; DROP ROLE y; DO $$");
        let sql = plan.statements().next().expect("one");
        assert!(
            sql.starts_with("DO 'BEGIN") && sql.ends_with("END'"),
            "{sql}"
        );
    }

    #[test]
    fn no_rights_are_no_statement() {
        let plan = Plan::new("d").grant(&[], &Object::Schema("s".into()), "g");
        assert_eq!(plan.statements().count(), 0);
    }
}
