//! `azure-cli`: the login of `az login`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;

use super::azure::{self, Entra, Identity};
use super::azure_cloud::{Cloud, is_azure};
use super::command::{Output, Program, on_path};
use super::token::{AccessToken, CliFormat};
use super::{Configured, Failure, NotConfigured, Settings, Site, Source, Strategy};
use crate::error::Error;
use crate::settings::attributes::Attribute::{AzureTenantId, AzureWorkspaceResourceId, Host};

pub(super) static STRATEGY: Strategy = Strategy {
    name: "azure-cli",
    attributes: &[Host, AzureWorkspaceResourceId, AzureTenantId],
    advice: "Run `az login`, with an account that was added to the workspace",
    configure,
};

const LIMIT: Duration = Duration::from_secs(30);

const FORMAT: CliFormat = CliFormat {
    tool: "Azure CLI",
    login: "`az login`",
    token: "accessToken",
    scheme: "tokenType",
    expiry: "expiresOn",
};

pub(super) struct AzureCli {
    program: Program,
    /// Whether the first call that succeeded had a subscription. Later calls are the same, so that a transient failure
    /// does not change the identity.
    names_subscription: OnceLock<bool>,
    /// Whether the tool is logged in as the machine's managed identity.
    is_machine: OnceLock<bool>,
}

fn configure(settings: &Settings) -> Configured {
    if !is_azure(settings) {
        return Err(match settings.is_forced() {
            true => NotConfigured::Incomplete("the workspace is not on Azure".to_owned()),
            false => NotConfigured::Unused,
        });
    }
    azure::check(settings, STRATEGY.name)?;
    let Some(path) = on_path("az", &settings.vars).into_iter().next() else {
        let missing = "most likely the Azure CLI is not installed";
        return Err(NotConfigured::Incomplete(missing.to_owned()));
    };
    let cli = AzureCli {
        program: Program::new(path, Arc::clone(&settings.vars)),
        names_subscription: OnceLock::new(),
        is_machine: OnceLock::new(),
    };
    Ok(Source::AzureCli(Entra::new(cli, settings)?))
}

impl Identity for AzureCli {
    const IS_CLI: bool = true;

    async fn token(&self, site: &Site, _: &Cloud, resource: &str) -> Result<AccessToken, Failure> {
        let settings = site.settings();
        let tenant = self.tenant(settings).await;
        let id = settings.value(AzureWorkspaceResourceId);
        let known = self.names_subscription.get();
        let subscription = id
            .and_then(|id| id.split('/').nth(2))
            .filter(|subscription| !subscription.is_empty() && known != Some(&false));
        let mut named = subscription.is_some();
        let started = site.http.now();
        let mut output = self
            .get_access_token(resource, tenant, subscription)
            .await?;
        if !output.success && named && known.is_none() {
            // A person may have access to the workspace and not to its subscription.
            named = false;
            output = self.get_access_token(resource, tenant, None).await?;
        }
        if !output.success {
            return Err(Failure::Declined(output.no_token()));
        }
        let _ = self.names_subscription.set(named);
        let token = AccessToken::from_cli(&FORMAT, &output.stdout, started, site.http.now());
        Ok(token?)
    }
}

impl AzureCli {
    /// The configured tenant, except for a managed identity, for which the tool rejects it.
    async fn tenant<'a>(&self, settings: &'a Settings) -> Option<&'a str> {
        let tenant = settings.value(AzureTenantId)?;
        if self.is_machine.get().is_none()
            && let Some(is_machine) = self.is_managed_identity().await
        {
            let _ = self.is_machine.set(is_machine);
        }
        (self.is_machine.get() != Some(&true)).then_some(tenant)
    }

    /// `None` if the tool fails.
    async fn is_managed_identity(&self) -> Option<bool> {
        let show = ["account", "show", "--output", "json"];
        let output = self.program.run(&show, LIMIT).await.ok()?;
        let account: Value = serde_json::from_str(&output.stdout).ok()?;
        let user = &account["user"];
        let name = user["name"].as_str().unwrap_or_default();
        Some(
            user["type"] == "servicePrincipal"
                && ["systemAssignedIdentity", "userAssignedIdentity"].contains(&name),
        )
    }

    async fn get_access_token(
        &self,
        resource: &str,
        tenant: Option<&str>,
        subscription: Option<&str>,
    ) -> Result<Output, Error> {
        let mut args = vec!["account", "get-access-token", "--resource", resource];
        args.extend(["--output", "json"]);
        for (option, value) in [("--subscription", subscription), ("--tenant", tenant)] {
            args.extend(value.map(|value| [option, value]).into_iter().flatten());
        }
        self.program.run(&args, LIMIT).await
    }
}
