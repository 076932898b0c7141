//! Roles and privileges: the setup of a database for an application.
//!
//! A [`Plan`] collects statements. [`apply`](Plan::apply) runs them in one transaction, and `Display` prints them as a script.
//! Applying a plan again changes nothing.
//!
//! ```no_run
//! use lakebase_core::Lakebase;
//! use lakebase_core::admin::{Access, IdentityKind, Plan};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! // As the owner of the schema `app`, whose migrations create its tables:
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
//! The platform's rules: only an identity that logs in with a token and may create roles can create roles; only the owner of an
//! object can grant privileges on it. The role that created a table owns it, and no other role may change it, so let
//! the application's service principal deploy first, or let several roles share an owner: [`Plan::shared_owner`].

mod apply;
mod owner;
mod privilege;
mod rows;

use std::fmt;

use postgres_protocol::escape::{escape_identifier, escape_literal};

pub use privilege::{Access, IdentityKind, Object, ObjectKind, Privilege};
pub use rows::{BypassReason, RowSecurityBypass, row_security_bypasses};

use crate::error::Error;
use crate::postgres::search_path::set_search_path;
use crate::settings::name::check_name;

/// Statements that create roles and grant privileges in one database.
///
/// ```
/// use lakebase_core::admin::{Access, Plan};
///
/// let plan = Plan::new("databricks_postgres").allow(Access::Write, "app", None, "user@example.com");
/// println!("{plan}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a plan does nothing before it is applied"]
pub struct Plan {
    database: String,
    statements: Vec<Statement>,
    roles: Vec<String>,
    /// Databases, schemas and their objects.
    objects: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    sql: String,
    /// Returns whether Postgres' warning that a privilege was not granted is an error. It is none for the objects of an extension.
    foreign_sql: Option<String>,
}

/// The start of each transaction of a plan. Extensions are created in a schema that every role can use, and no plan waits
/// for a migration without a limit.
const PREAMBLE: [&str; 3] = [
    "BEGIN",
    "SET LOCAL search_path TO public",
    "SET LOCAL lock_timeout TO '30s'",
];

impl Plan {
    /// Returns an empty plan for a database; [`Lakebase::database`](crate::lakebase::Lakebase::database) is the configured one.
    pub fn new(database: impl Into<String>) -> Self {
        let database = database.into();
        Self {
            objects: vec![database.clone()],
            database,
            statements: Vec::new(),
            roles: Vec::new(),
        }
    }

    /// Creates the role of a workspace identity, which logs in with tokens, by `databricks_create_role` and its extension. An existing
    /// role stays unchanged, even one of plain `CREATE ROLE`, which cannot log in with tokens.
    pub fn create_role(mut self, identity: &str, kind: IdentityKind) -> Self {
        self.roles.push(identity.to_owned());
        let (identity, kind) = (escape_literal(identity), kind.keyword());
        self.add("CREATE EXTENSION IF NOT EXISTS databricks_auth")
            .add(format!(
                "SELECT databricks_create_role({identity}, '{kind}') \
                 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {identity})"
            ))
    }

    /// Creates a schema that `owner` owns, or else the role that applies the plan. That role must be a member of `owner`.
    pub fn create_schema(mut self, schema: &str, owner: Option<&str>) -> Self {
        let mut sql = format!("CREATE SCHEMA IF NOT EXISTS {}", self.object(schema));
        if let Some(owner) = owner {
            sql.push_str(&format!(" AUTHORIZATION {}", self.role(owner)));
        }
        self.add(sql)
    }

    /// Grants privileges on existing objects. An empty list has no effect.
    pub fn grant(mut self, privileges: &[Privilege], object: &Object, grantee: &str) -> Self {
        if privileges.is_empty() {
            return self;
        }
        let names = object.names().into_iter().map(str::to_owned);
        self.objects.extend(names);
        let (privileges, object_sql) = (privilege::list(privileges), object.to_sql());
        let grantee = self.role(grantee);
        self.add_statement(Statement {
            sql: format!("GRANT {privileges} ON {object_sql} TO {grantee}"),
            foreign_sql: object.foreign_sql(),
        })
    }

    /// Grants privileges on objects that `creator` will create in a schema, or else the role that applies the plan. That role must be a
    /// member of `creator`. The privileges do not apply to objects that other roles create, a common mistake.
    pub fn grant_future(
        mut self,
        privileges: &[Privilege],
        objects: ObjectKind,
        schema: &str,
        creator: Option<&str>,
        grantee: &str,
    ) -> Self {
        if privileges.is_empty() {
            return self;
        }
        let creator = creator.map(|creator| format!("FOR ROLE {} ", self.role(creator)));
        let creator = creator.unwrap_or_default();
        let (schema, grantee) = (self.object(schema), self.role(grantee));
        let (privileges, objects) = (privilege::list(privileges), objects.keyword());
        self.add(format!(
            "ALTER DEFAULT PRIVILEGES {creator}IN SCHEMA {schema} \
             GRANT {privileges} ON {objects} TO {grantee}"
        ))
    }

    /// Makes `member` a member of `role`, for example of a group. For an owner of schemas, see
    /// [`shared_owner`](Self::shared_owner).
    pub fn grant_role(mut self, role: &str, member: &str) -> Self {
        let (role, member) = (self.role(role), self.role(member));
        self.add(format!("GRANT {role} TO {member}"))
    }

    /// Grants all privileges that a kind of access needs, on existing objects of a schema and on objects that `creator` will create:
    /// see [`grant_future`](Self::grant_future).
    pub fn allow(self, access: Access, schema: &str, creator: Option<&str>, grantee: &str) -> Self {
        let whole = Object::Schema(schema.to_owned());
        let mut plan = self
            .grant_on_database(&[Privilege::Connect], grantee)
            .grant(access.on_schema(), &whole, grantee);
        for &(kind, privileges) in access.on_objects() {
            let existing = Object::All(kind, schema.to_owned());
            plan = plan
                .grant(privileges, &existing, grantee)
                .grant_future(privileges, kind, schema, creator, grantee);
        }
        plan
    }

    /// Grants the privileges of a role that runs migrations: CONNECT and CREATE on the database.
    pub fn allow_to_deploy(self, grantee: &str) -> Self {
        self.grant_on_database(&[Privilege::Connect, Privilege::Create], grantee)
    }

    /// Sets a schema as the first one on the search path of a role in this database. Pooled hosts use only the role's search path. Open
    /// sessions of the pooler keep the old search path until it replaces them.
    pub fn set_search_path(mut self, schema: &str, role: &str) -> Self {
        self.objects.push(schema.to_owned());
        self.roles.push(role.to_owned());
        let sql = set_search_path(role, &self.database, schema);
        self.add(sql)
    }

    /// Grants privileges unless the role has all of them, also through PUBLIC: only the owner of the database may grant them, and
    /// PUBLIC has CONNECT by default.
    fn grant_on_database(mut self, privileges: &[Privilege], grantee: &str) -> Self {
        let (database, role) = (escape_literal(&self.database), escape_literal(grantee));
        let has = |privilege| format!("has_database_privilege({role}, {database}, '{privilege}')");
        let has: Vec<String> = privileges.iter().map(has).collect();
        let (has, privileges) = (has.join(" AND "), privilege::list(privileges));
        let database = escape_identifier(&self.database);
        let grantee = self.role(grantee);
        self.add_unless(
            &has,
            &format!("GRANT {privileges} ON DATABASE {database} TO {grantee}"),
        )
    }

    fn add_unless(self, condition: &str, statement: &str) -> Self {
        self.add_block(&format!(
            "BEGIN IF NOT ({condition}) THEN {statement}; END IF; END"
        ))
    }

    fn add_block(self, body: &str) -> Self {
        self.add(match body.contains("$$") {
            true => format!("DO {}", escape_literal(body)),
            false => format!("DO $$ {body} $$"),
        })
    }

    /// Returns the statements in their order, without semicolons.
    pub fn statements(&self) -> impl Iterator<Item = &str> {
        self.statements
            .iter()
            .map(|statement| statement.sql.as_str())
    }

    /// Checks the names: none is longer than Postgres' limit of 63 bytes, and no role is `public`, which means every role.
    /// [`apply`](Self::apply) also does this.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`], with the invalid name.
    pub fn check(&self) -> Result<(), Error> {
        for role in &self.roles {
            if role == "public" {
                return Err(Error::config("role: \"public\" means every role of the database").with_hint(
                    "Grant to a role or a group; to grant to every role, run GRANT .. TO PUBLIC in SQL",
                ));
            }
            check_name("role", role)?;
        }
        let mut objects = self.objects.iter();
        objects.try_for_each(|name| check_name("object", name))
    }

    /// Quotes the name of a role for SQL, and records it for [`check`](Self::check).
    fn role(&mut self, name: &str) -> String {
        self.roles.push(name.to_owned());
        escape_identifier(name)
    }

    /// Quotes the name of a schema or of an object, and records it.
    fn object(&mut self, name: &str) -> String {
        self.objects.push(name.to_owned());
        escape_identifier(name)
    }

    fn add(self, sql: impl Into<String>) -> Self {
        self.add_statement(Statement {
            sql: sql.into(),
            foreign_sql: None,
        })
    }

    fn add_statement(mut self, statement: Statement) -> Self {
        if !self.statements.contains(&statement) {
            self.statements.push(statement);
        }
        self
    }
}

/// The plan as a script for psql.
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
    fn all_names_in_a_plan_are_quoted() {
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
                ObjectKind::Routines,
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
ALTER DEFAULT PRIVILEGES FOR ROLE "m""" IN SCHEMA "a" GRANT EXECUTE ON ROUTINES TO "g";
DO $$ BEGIN IF NOT (has_database_privilege('m', 'my db', 'CONNECT') AND has_database_privilege('m', 'my db', 'CREATE')) THEN GRANT CONNECT, CREATE ON DATABASE "my db" TO "m"; END IF; END $$;
COMMIT;
"#;
        assert_eq!(plan.to_string(), expected);
    }

    #[test]
    fn write_access_covers_rows_of_the_migrators_tables_and_no_change_of_tables() {
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
    fn names_that_postgres_would_cut_are_rejected() {
        let long = "x".repeat(64);
        for plan in [
            Plan::new("d").create_role(&long, IdentityKind::Group),
            Plan::new("d").create_schema("s", Some(&long)),
            Plan::new("d").grant(&[Privilege::Usage], &Object::Schema(long.clone()), "g"),
            Plan::new("d").allow(Access::Read, "s", Some(&long), "g"),
            Plan::new("d").grant_role("r", &long),
            Plan::new("d").own_rows("s", "t", &long),
            // The name of the policy.
            Plan::new("d").all_rows_for("s", "t", &long[3..]),
            Plan::new("d").shared_owner(&long, "m"),
            Plan::new("d").transfer_schema(&long, "o"),
        ] {
            let error = plan.check().expect_err("too long");
            assert!(
                error.is_config() && error.to_string().contains(&long[3..]),
                "{error}"
            );
        }
        let fits = Plan::new("d").allow_to_deploy(&long[1..]);
        fits.check().expect("fits");
    }

    #[test]
    fn public_is_rejected_as_a_role() {
        for plan in [
            Plan::new("d").allow(Access::Read, "s", None, "public"),
            Plan::new("d").allow(Access::Read, "s", Some("public"), "g"),
            Plan::new("d").allow_to_deploy("public"),
            Plan::new("d").grant_role("r", "public"),
            Plan::new("d").all_rows_for("s", "t", "public"),
            Plan::new("d").shared_owner("o", "public"),
            Plan::new("d").transfer_schema("s", "public"),
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
    fn names_with_dollar_quotes_cannot_end_a_do_block() {
        let plan = Plan::new("d").allow_to_deploy("x$$; DROP ROLE y; DO $$");
        let sql = plan.statements().next().expect("one");
        assert!(
            sql.starts_with("DO 'BEGIN") && sql.ends_with("END'"),
            "{sql}"
        );
    }

    #[test]
    fn a_policy_is_part_of_the_script() {
        let plan = Plan::new("d").own_rows("a", "t x", "o'");
        let statements: Vec<&str> = plan.statements().collect();
        assert_eq!(
            statements,
            [
                r#"DO $$ BEGIN IF NOT ((SELECT relrowsecurity FROM pg_class WHERE oid = '"a"."t x"'::regclass)) THEN ALTER TABLE "a"."t x" ENABLE ROW LEVEL SECURITY; END IF; END $$"#,
                r#"DO $$ BEGIN IF NOT (EXISTS (SELECT FROM pg_policy WHERE polrelid = '"a"."t x"'::regclass AND polname = 'own_rows_o''')) THEN CREATE POLICY "own_rows_o'" ON "a"."t x" USING ("o'" = current_user); END IF; END $$"#,
            ]
        );
    }

    #[test]
    fn an_empty_list_of_privileges_adds_no_statement() {
        let plan = Plan::new("d").grant(&[], &Object::Schema("s".into()), "g");
        assert_eq!(plan.statements().count(), 0);
    }
}
