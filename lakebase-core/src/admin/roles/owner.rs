//! A shared owner: a role without login that owns schemas and tables, which its members migrate.

use postgres_protocol::escape::escape_literal;

use super::{Plan, Privilege};

/// Memberships have options since Postgres 16.
const HAS_OPTIONS: &str = "current_setting('server_version_num')::int >= 160000";

/// The statements of a transfer. Objects of an extension keep their owner; sequences of a column follow their table.
const CHANGES: &str = "SELECT 1, format('ALTER SCHEMA %s OWNER TO %s', n::regnamespace, o::regrole) \
    FROM pg_namespace WHERE oid = n AND nspowner <> o \
    UNION ALL SELECT 2, format('ALTER TABLE %s OWNER TO %s', oid::regclass, o::regrole) \
    FROM pg_class WHERE relnamespace = n AND relowner = ANY (makers) AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S') \
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid \
        AND (deptype = 'e' OR relkind = 'S' AND deptype IN ('a', 'i'))) \
    UNION ALL SELECT 3, format('ALTER ROUTINE %s OWNER TO %s', oid::regprocedure, o::regrole) \
    FROM pg_proc WHERE pronamespace = n AND proowner = ANY (makers) \
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid AND deptype IN ('e', 'i')) \
    UNION ALL SELECT 4, format('ALTER TYPE %s OWNER TO %s', oid::regtype, o::regrole) \
    FROM pg_type WHERE typnamespace = n AND typowner = ANY (makers) AND (typtype IN ('e', 'd', 'r') \
        OR typtype = 'c' AND EXISTS (SELECT FROM pg_class WHERE oid = typrelid AND relkind = 'c')) \
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_type'::regclass AND objid = pg_type.oid AND deptype = 'e') \
    UNION ALL SELECT 5, format('ALTER DEFAULT PRIVILEGES FOR ROLE %s IN SCHEMA %s GRANT %s ON %s TO %s%s', \
        o::regrole, n::regnamespace, privilege_type, CASE defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' \
        WHEN 'f' THEN 'ROUTINES' ELSE 'TYPES' END, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, \
        CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END) \
    FROM pg_default_acl, aclexplode(defaclacl) WHERE defaclnamespace = n AND defaclrole = ANY (makers) AND grantee <> o \
    ORDER BY 1";

impl Plan {
    /// Makes `member` a member of a shared owner: a role without login that owns schemas and tables, which each member may
    /// migrate. It creates the owner if it is missing, and grants it CREATE on the database.
    ///
    /// Members inherit the owner's privileges. Migrations `SET ROLE` to the owner (`Migrations::owner`), so that new objects belong to
    /// the owner. Row-level security does not restrict members.
    ///
    /// The role that applies the plan must have CREATEROLE. Since Postgres 16, it must also have created the owner or have ADMIN on it.
    ///
    /// ```
    /// use lakebase_core::admin::Plan;
    ///
    /// // As the project's owner, for each service principal that migrates:
    /// let plan = Plan::new("databricks_postgres")
    ///     .shared_owner("app_owner", "6f2f0a2e-6a53-4c0b-9a1f-5a2b0c9d7e11")
    ///     .shared_owner("app_owner", "0b1c73d9-0c51-4bd5-8a0e-7f3d6c1e9a42");
    /// // As the role that owns the schema now, a member by then:
    /// let transfer = Plan::new("databricks_postgres").transfer_schema("app", "app_owner");
    /// # assert!(plan.check().is_ok() && transfer.check().is_ok());
    /// ```
    pub fn shared_owner(mut self, owner: &str, member: &str) -> Self {
        let (owner_sql, member_sql) = (self.role(owner), self.role(member));
        let (owner_text, member_text) = (escape_literal(owner), escape_literal(member));
        let exists = format!("EXISTS (SELECT FROM pg_roles WHERE rolname = {owner_text})");
        let has = |how| format!("pg_has_role({member_text}, {owner_text}, {how})");
        let set = format!("CASE WHEN {HAS_OPTIONS} THEN 'SET' ELSE 'MEMBER' END");
        let is_member = format!("{} AND {}", has("'USAGE'"), has(&set));
        // Older versions cannot parse the options.
        let grant = format!(
            "EXECUTE {} || CASE WHEN {HAS_OPTIONS} THEN ' WITH INHERIT TRUE, SET TRUE' ELSE '' END",
            escape_literal(&format!("GRANT {owner_sql} TO {member_sql}"))
        );
        self.add_unless(&exists, &format!("CREATE ROLE {owner_sql} NOLOGIN"))
            .grant_on_database(&[Privilege::Create], owner)
            .grant_on_database(&[Privilege::Connect], member)
            .add_unless(&is_member, &grant)
    }

    /// Transfers a schema to `owner`, with its tables, views, sequences, functions and types that belong to the schema's current owner or
    /// to the role that applies the plan. Objects of other roles and of extensions keep their owners. A missing schema is created.
    ///
    /// Other roles keep their privileges; those on future objects then apply to objects that `owner` creates. The role that applies the
    /// plan must own the schema and be a member of `owner`. Each table is locked for a moment.
    pub fn transfer_schema(mut self, schema: &str, owner: &str) -> Self {
        let (schema, owner) = (self.object(schema), self.role(owner));
        self.add_block(&format!(
            "DECLARE n oid := to_regnamespace({}); o oid := {}::regrole; makers oid[]; step int; change text; \
             BEGIN IF n IS NULL THEN CREATE SCHEMA {schema} AUTHORIZATION {owner}; RETURN; END IF; \
             makers := ARRAY(SELECT nspowner FROM pg_namespace WHERE oid = n \
                 UNION SELECT oid FROM pg_roles WHERE rolname = current_user EXCEPT SELECT o); \
             FOR step, change IN {CHANGES} LOOP EXECUTE change; END LOOP; END",
            escape_literal(&schema),
            escape_literal(&owner),
        ))
    }
}
