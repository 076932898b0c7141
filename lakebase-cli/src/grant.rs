//! `lakebase grant`: roles and privileges.

use std::error::Error;

use lakebase_core::Lakebase;
use lakebase_core::admin::Plan;

use crate::args::{Grant, Target};
use crate::write_stdout;

pub(crate) async fn run(target: &Target, grant: &Grant) -> Result<(), Box<dyn Error>> {
    let lakebase = target.lakebase()?;
    let plan = plan(&lakebase, grant)?;
    plan.check()?;
    if grant.dry_run {
        return Ok(write_stdout(&plan.to_string())?);
    }
    plan.apply(&lakebase).await?;
    for statement in plan.statements() {
        write_stdout(&format!("{statement};\n"))?;
    }
    Ok(())
}

fn plan(lakebase: &Lakebase, grant: &Grant) -> Result<Plan, Box<dyn Error>> {
    let grantee = &grant.grantee;
    let mut plan = Plan::new(lakebase.database());
    if let Some(kind) = grant.create {
        plan = plan.create_role(grantee, kind);
    }
    if grant.deploy {
        plan = plan.allow_to_deploy(grantee);
    }
    let schema = |option| {
        lakebase.schema().ok_or_else(|| {
            let text = format!("{option} needs a schema: set --schema or LAKEBASE_SCHEMA");
            lakebase_core::Error::config(text)
        })
    };
    if let Some(access) = grant.access {
        let schema = schema("--access")?;
        plan = plan.allow(access, schema, grant.made_by.as_deref(), grantee);
    }
    if let Some(role) = &grant.member_of {
        plan = plan.grant_role(role, grantee);
    }
    if let Some(owner) = &grant.shared_owner {
        plan = plan.shared_owner(owner, grantee);
        if let Some(schema) = lakebase.schema() {
            plan = plan.transfer_schema(schema, owner);
        }
    }
    if grant.search_path {
        plan = plan.set_search_path(schema("--search-path")?, grantee);
    }
    if plan.statements().next().is_none() {
        return Err(lakebase_core::Error::config(
            "nothing to do: give at least one of --create, --access, --deploy, --member-of, --shared-owner and --search-path",
        )
        .into());
    }
    Ok(plan)
}
