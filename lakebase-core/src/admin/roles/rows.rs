//! Row-level security: policies, and the roles that they do not restrict.

use std::fmt;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::Client;

use super::Plan;
use crate::error::Error;
use crate::error::foreign::clean_text;
use crate::postgres::advice::database_error;

impl Plan {
    /// Enables row-level security on a table, and lets each role read and write only the rows that have its name in
    /// `column`. The role also needs privileges on the table: see [`allow`](Self::allow).
    ///
    /// The policy is named `own_rows_{column}` and compares the column with `current_user`. An existing policy of that name stays
    /// unchanged. A row is visible if one policy of the table permits it. Policies do not restrict the table's owner and its members,
    /// unless the plan contains [`force_row_security`](Self::force_row_security); [`row_security_bypasses`] returns all roles that
    /// policies do not restrict.
    ///
    /// ```
    /// use lakebase_core::admin::{Access, Plan};
    ///
    /// let plan = Plan::new("databricks_postgres")
    ///     .allow(Access::Write, "app", None, "user@example.com")
    ///     .own_rows("app", "notes", "owner")
    ///     .all_rows_for("app", "notes", "admins");
    /// assert!(plan.to_string().contains("ENABLE ROW LEVEL SECURITY"));
    /// ```
    pub fn own_rows(mut self, schema: &str, table: &str, column: &str) -> Self {
        self.objects.push(column.to_owned());
        let rule = format!("USING ({} = current_user)", escape_identifier(column));
        self.add_policy(schema, table, &format!("own_rows_{column}"), &rule)
    }

    /// Enables row-level security on a table, and lets a role, and roles that inherit its privileges (members of a group), read and write
    /// all rows. The policy is named `all_rows_{role}`; see [`own_rows`](Self::own_rows) for the rest.
    pub fn all_rows_for(mut self, schema: &str, table: &str, role: &str) -> Self {
        let rule = format!("TO {} USING (true)", self.role(role));
        self.add_policy(schema, table, &format!("all_rows_{role}"), &rule)
    }

    /// Makes the policies of a table also restrict its owner, for an application that owns its tables. The owner can undo this.
    /// Policies never restrict superusers and roles with BYPASSRLS.
    pub fn force_row_security(self, schema: &str, table: &str) -> Self {
        self.enable(schema, table, "relforcerowsecurity", "FORCE")
    }

    fn add_policy(mut self, schema: &str, table: &str, policy: &str, rule: &str) -> Self {
        self.objects.push(policy.to_owned());
        let mut plan = self.enable(schema, table, "relrowsecurity", "ENABLE");
        let table = plan.table(schema, table);
        let exists = format!(
            "EXISTS (SELECT FROM pg_policy WHERE polrelid = {}::regclass AND polname = {})",
            escape_literal(&table),
            escape_literal(policy)
        );
        let policy = escape_identifier(policy);
        plan.add_unless(
            &exists,
            &format!("CREATE POLICY {policy} ON {table} {rule}"),
        )
    }

    /// Runs the statement only if it is needed, because it waits for all transactions that use the table.
    fn enable(mut self, schema: &str, table: &str, column: &str, verb: &str) -> Self {
        let table = self.table(schema, table);
        let is_on = format!(
            "(SELECT {column} FROM pg_class WHERE oid = {}::regclass)",
            escape_literal(&table)
        );
        self.add_unless(
            &is_on,
            &format!("ALTER TABLE {table} {verb} ROW LEVEL SECURITY"),
        )
    }

    fn table(&mut self, schema: &str, table: &str) -> String {
        format!("{}.{}", self.object(schema), self.object(table))
    }
}

/// A table whose policies do not restrict a role, and the reason: see [`row_security_bypasses`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowSecurityBypass {
    /// The name of the table, without its schema.
    pub table: String,
    /// The role that policies do not restrict, if it is another one, whose privileges the checked role inherits or to which it can
    /// `SET ROLE`.
    pub through: Option<String>,
    /// Why policies do not restrict the role.
    pub reason: BypassReason,
}

/// Why policies do not restrict a role: see [`RowSecurityBypass`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BypassReason {
    /// It is a superuser.
    Superuser,
    /// It has the attribute BYPASSRLS.
    BypassRls,
    /// It owns the table, which does not `FORCE ROW LEVEL SECURITY`.
    Owner,
}

/// For example `member of "app_owner", which owns the table`.
impl fmt::Display for RowSecurityBypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(role) = &self.through {
            write!(f, "member of \"{}\", which ", clean_text(role))?;
        }
        f.write_str(match self.reason {
            BypassReason::Superuser => "is a superuser",
            BypassReason::BypassRls => "has BYPASSRLS",
            BypassReason::Owner => "owns the table",
        })
    }
}

/// A role can act as another one by inheritance or by SET ROLE. Before Postgres 16, each member can SET ROLE.
const BYPASSES: &str = "SELECT c.relname::text, why.through, why.reason FROM pg_class AS c \
    JOIN pg_roles AS r ON r.oid = quote_ident($1::text)::regrole \
    CROSS JOIN LATERAL ( \
        SELECT CASE WHEN g.oid <> r.oid THEN g.rolname::text END AS through, \
            CASE WHEN g.rolsuper THEN 0 WHEN g.rolbypassrls THEN 1 ELSE 2 END AS reason \
        FROM pg_roles AS g \
        WHERE (g.rolsuper OR g.rolbypassrls OR g.oid = c.relowner AND NOT c.relforcerowsecurity) \
        AND (g.oid = r.oid \
            OR pg_has_role(r.oid, g.oid, CASE WHEN current_setting('server_version_num')::int < 160000 \
                THEN 'MEMBER' ELSE 'SET' END) \
            OR g.oid = c.relowner AND pg_has_role(r.oid, g.oid, 'USAGE')) \
        ORDER BY g.oid <> r.oid, reason, through LIMIT 1) AS why \
    WHERE c.relrowsecurity AND c.relnamespace = quote_ident($2::text)::regnamespace ORDER BY 1";

/// Returns the tables of a schema whose row-level security does not restrict `role`, with the reason: the role owns the table
/// (without FORCE), is a superuser, has BYPASSRLS, or can act as such a role. If the list is empty, policies restrict the role on all
/// tables of the schema with row-level security. `client` may be logged in as any role.
///
/// # Errors
///
/// The role or the schema does not exist, or the query fails.
///
/// # Cancel safety
///
/// Dropping the future has no effect: it only reads.
pub async fn row_security_bypasses(
    client: &Client,
    role: &str,
    schema: &str,
) -> Result<Vec<RowSecurityBypass>, Error> {
    let found = client.query(BYPASSES, &[&role, &schema]).await;
    let found = found.map_err(|error| {
        let what = format!("cannot check row-level security in {schema:?} for {role:?}");
        database_error(what, error)
    })?;
    let bypasses = found.iter().map(|row| RowSecurityBypass {
        table: row.get(0),
        through: row.get(1),
        reason: match row.get(2) {
            0 => BypassReason::Superuser,
            1 => BypassReason::BypassRls,
            _ => BypassReason::Owner,
        },
    });
    Ok(bypasses.collect())
}
