//! `azure-cli`: the login of `az login`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::azure::{self, Entra, Identity};
use super::azure_cloud::{Cloud, is_azure};
use super::command::{Output, Program, on_path};
use super::token::{AccessToken, CliFormat};
use super::{Configured, NotConfigured, Refusal, Settings, Site, Strategy, jwt};
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
    /// Whether the subscription was named when the tool first succeeded. It never changes afterwards:
    /// a passing failure must not change the identity.
    names_subscription: OnceLock<bool>,
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
    Entra::source(cli, settings)
}

impl Identity for AzureCli {
    fn token<'a>(
        &'a self,
        site: &'a Site,
        _cloud: &'a Cloud,
        resource: &'a str,
    ) -> BoxFuture<'a, Result<AccessToken, Refusal>> {
        Box::pin(self.fetch(site, resource))
    }

    /// A person has none, and a service principal can do without.
    fn management_token<'a>(
        &'a self,
        site: &'a Site,
        cloud: &'a Cloud,
        first: &'a AccessToken,
    ) -> BoxFuture<'a, Result<Option<AccessToken>, Refusal>> {
        Box::pin(async move {
            if is_person(first) {
                return Ok(None);
            }
            let token = self.fetch(site, &cloud.endpoints.service_management).await;
            if let Err(refusal) = &token {
                tracing::debug!(name: "lakebase.sign_in.no_management_token", target: "lakebase::sign_in", ?refusal, "no service-management token");
            }
            Ok(token.ok())
        })
    }
}

impl AzureCli {
    async fn fetch(&self, site: &Site, resource: &str) -> Result<AccessToken, Refusal> {
        let settings = site.settings();
        let tenant = self.tenant(settings).await;
        let id = settings.value(AzureWorkspaceResourceId);
        let known = self.names_subscription.get();
        let subscription = id
            .and_then(|id| id.split('/').nth(2))
            .filter(|subscription| !subscription.is_empty() && known != Some(&false));
        let mut named = subscription.is_some();
        let started = site.http.now();
        let mut output = self.ask(resource, tenant, subscription).await?;
        if !output.success && named && known.is_none() {
            // The person may not see the subscription and have the workspace all the same.
            named = false;
            output = self.ask(resource, tenant, None).await?;
        }
        if !output.success {
            return Err(Refusal::Declined(output.no_token()));
        }
        let _ = self.names_subscription.set(named);
        let token = AccessToken::from_cli(&FORMAT, &output.stdout, started, site.http.now());
        Ok(token?)
    }

    /// The tool rejects a tenant for the machine's own identity.
    async fn tenant<'a>(&self, settings: &'a Settings) -> Option<&'a str> {
        let tenant = settings.value(AzureTenantId)?;
        if self.is_machine.get().is_none()
            && let Some(is_machine) = self.ask_whether_machine().await
        {
            let _ = self.is_machine.set(is_machine);
        }
        (self.is_machine.get() != Some(&true)).then_some(tenant)
    }

    /// `None` if the tool does not answer.
    async fn ask_whether_machine(&self) -> Option<bool> {
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

    async fn ask(
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

/// Whether a token is a person's.
fn is_person(token: &AccessToken) -> bool {
    jwt::claims(token.secret.expose_secret()).is_some_and(|claims| claims.get("upn").is_some())
}
