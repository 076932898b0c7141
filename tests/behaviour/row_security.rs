//! Row-level security in plans, and roles that bypass it.

use lakebase_core::admin::{
    Access, BypassReason, IdentityKind, Plan, RowSecurityBypass, row_security_bypasses,
};
use lakebase_core::{Error, Lakebase};
use lakebase_local::LocalLakebase;
use lakebase_tests::{local, service_principal, session, soon};
use tokio_postgres::Client;

use crate::roles::{owner, plan};

/// A table of the project's owner, in which each of two service principals has a row.
async fn notes(local: &LocalLakebase) -> (Client, [(String, Lakebase); 2]) {
    let owner = owner(local);
    let boss = session(&owner).await;
    let principals = [service_principal(local, &[]), service_principal(local, &[])];
    boss.batch_execute(
        "CREATE ROLE admins; CREATE SCHEMA app; \
         CREATE TABLE app.notes (owner text NOT NULL DEFAULT current_user, note text)",
    )
    .await
    .expect("a table");
    let mut grants = plan(&owner);
    for (id, _) in &principals {
        grants = grants
            .create_role(id, IdentityKind::ServicePrincipal)
            .allow(Access::Write, "app", None, id);
    }
    grants.apply(&owner).await.expect("applied");
    for (_, principal) in &principals {
        let insert = "INSERT INTO app.notes (note) VALUES ('mine')";
        let client = session(principal).await;
        client.batch_execute(insert).await.expect("a row");
    }
    (boss, principals)
}

async fn count(client: &Client) -> i64 {
    let row = client
        .query_one("SELECT count(*) FROM app.notes", &[])
        .await;
    row.expect("a count").get(0)
}

async fn bypasses(client: &Client, role: &str) -> Vec<RowSecurityBypass> {
    let found = row_security_bypasses(client, role, "app").await;
    found.expect("a list")
}

#[tokio::test]
async fn a_role_reads_and_writes_its_own_rows_and_a_group_reads_all() {
    let local = local().await;
    let (boss, [(id, principal), (other, _)]) = notes(&local).await;
    plan(&owner(&local))
        .own_rows("app", "notes", "owner")
        .all_rows_for("app", "notes", "admins")
        .apply(&owner(&local))
        .await
        .expect("applied");
    let app = session(&principal).await;
    assert_eq!(count(&app).await, 1);
    app.batch_execute("UPDATE app.notes SET note = 'changed'")
        .await
        .expect("its own row");
    let forged = format!("INSERT INTO app.notes VALUES ('{other}', 'forged')");
    let error = app.batch_execute(&forged).await.expect_err("not its row");
    assert_eq!(error.code().map(|code| code.code()), Some("42501"));

    let join = format!("GRANT admins TO \"{id}\"");
    boss.batch_execute(&join).await.expect("a member");
    assert_eq!(count(&app).await, 2);
}

#[tokio::test]
async fn applying_a_plan_with_policies_again_changes_nothing_and_waits_for_no_query() {
    let local = local().await;
    let (boss, [(_, principal), _]) = notes(&local).await;
    let owner = owner(&local);
    let plan = plan(&owner)
        .own_rows("app", "notes", "owner")
        .all_rows_for("app", "notes", "admins")
        .force_row_security("app", "notes");
    plan.apply(&owner).await.expect("applied");
    let state = "SELECT array_agg(p.xmin::text || c.xmin ORDER BY p.oid) \
                 FROM pg_policy p JOIN pg_class c ON c.oid = polrelid";
    let before: Vec<String> = boss.query_one(state, &[]).await.expect("policies").get(0);
    assert_eq!(before.len(), 2);
    let reader = session(&principal).await;
    let query = "BEGIN; SELECT * FROM app.notes";
    reader.batch_execute(query).await.expect("a query");
    soon(plan.apply(&owner)).await.expect("applied again");
    let script = plan.to_string();
    soon(boss.batch_execute(&script)).await.expect("the script");
    let after: Vec<String> = boss.query_one(state, &[]).await.expect("policies").get(0);
    assert_eq!(after, before);
}

#[tokio::test]
async fn names_of_tables_columns_and_groups_are_quoted_in_plans() {
    let local = local().await;
    let owner = owner(&local);
    let boss = session(&owner).await;
    let odd = r#"$$ "x"; '%s\"#;
    let quoted = odd.replace('"', "\"\"");
    let sql = format!(
        "CREATE ROLE \"{quoted}\"; CREATE SCHEMA \"{quoted}\"; CREATE TABLE \"{quoted}\".\"{quoted}\" (\"{quoted}\" text)"
    );
    boss.batch_execute(&sql).await.expect("a table");
    let plan = plan(&owner)
        .own_rows(odd, odd, odd)
        .all_rows_for(odd, odd, odd)
        .shared_owner(odd, local.client_id())
        .shared_owner(odd, local.user())
        .transfer_schema(odd, odd);
    for _ in 0..2 {
        plan.apply(&owner).await.expect("applied");
    }
    let policies = "SELECT count(*) FROM pg_policy JOIN pg_class c ON c.oid = polrelid WHERE relrowsecurity \
                    AND relowner::regrole::text = quote_ident($1)";
    let row = boss.query_one(policies, &[&odd]).await.expect("a count");
    assert_eq!(row.get::<_, i64>(0), 2);
}

#[tokio::test]
async fn roles_that_bypass_row_security_are_found_with_the_reason() {
    let local = local().await;
    let (boss, [(id, _), (other, _)]) = notes(&local).await;
    plan(&owner(&local))
        .own_rows("app", "notes", "owner")
        .apply(&owner(&local))
        .await
        .expect("applied");
    for role in [&id, &other] {
        assert_eq!(bypasses(&boss, role).await, []);
    }
    let found = async |role: &str| -> Vec<(Option<String>, BypassReason, String)> {
        let found = bypasses(&boss, role).await.into_iter();
        let found = found.inspect(|one| assert_eq!(one.table, "notes"));
        found
            .map(|one| (one.through.clone(), one.reason, one.to_string()))
            .collect()
    };
    let text = "owns the table".to_owned();
    let owner_role = local.user();
    assert_eq!(found(owner_role).await, [(None, BypassReason::Owner, text)]);

    // Through roles that it can set. The strongest reason comes first.
    let sql = format!(
        "CREATE ROLE app_owner; GRANT app_owner TO \"{id}\"; CREATE ROLE between NOINHERIT; \
         GRANT databricks_superuser TO between; GRANT between TO \"{other}\"; \
         ALTER TABLE app.notes OWNER TO app_owner"
    );
    local.sql(&sql).await.expect("members");
    let through = |role: &str| Some(role.to_owned());
    let text = "member of \"app_owner\", which owns the table".to_owned();
    assert_eq!(
        found(&id).await,
        [(through("app_owner"), BypassReason::Owner, text)]
    );
    let text = "member of \"databricks_superuser\", which has BYPASSRLS".to_owned();
    assert_eq!(
        found(&other).await,
        [(
            through("databricks_superuser"),
            BypassReason::BypassRls,
            text
        )]
    );
    local
        .sql("ALTER TABLE app.notes FORCE ROW LEVEL SECURITY")
        .await
        .expect("forced");
    assert_eq!(found(&id).await, []);
    let sql = format!("ALTER ROLE \"{id}\" SUPERUSER");
    local.sql(&sql).await.expect("a superuser");
    let text = "is a superuser".to_owned();
    assert_eq!(found(&id).await, [(None, BypassReason::Superuser, text)]);

    for (role, schema, code) in [("nobody", "app", "42704"), (id.as_str(), "none", "3F000")] {
        let error = row_security_bypasses(&boss, role, schema).await;
        assert_eq!(error.expect_err("missing").sqlstate(), Some(code));
    }
}

#[tokio::test]
async fn forced_row_security_restricts_the_owner_of_the_table() {
    let local = local().await;
    let (boss, _) = notes(&local).await;
    let owner = owner(&local);
    let own_rows = plan(&owner).own_rows("app", "notes", "owner");
    own_rows.apply(&owner).await.expect("applied");
    assert_eq!(count(&boss).await, 2);
    let forced = own_rows.force_row_security("app", "notes");
    forced.apply(&owner).await.expect("applied");
    assert_eq!(count(&boss).await, 0);
}

#[tokio::test]
async fn a_policy_that_cannot_be_created_is_an_error_with_the_next_step() {
    let local = local().await;
    let (_, [(_, principal), _]) = notes(&local).await;
    let rejection = async |plan: Plan, lakebase: &Lakebase| -> Error {
        soon(plan.apply(lakebase)).await.expect_err("rejected")
    };
    let owner = owner(&local);
    let missing = plan(&owner).own_rows("app", "nots", "owner");
    let error = rejection(missing, &owner).await;
    assert_eq!(error.sqlstate(), Some("42P01"), "{error}");
    let missing = plan(&owner).own_rows("app", "notes", "ownr");
    let error = rejection(missing, &owner).await;
    assert_eq!(error.sqlstate(), Some("42703"), "{error}");
    let foreign = plan(&owner).own_rows("app", "notes", "owner");
    let error = rejection(foreign, &principal).await;
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    assert!(error.to_string().contains("--shared-owner"), "{error}");
}
