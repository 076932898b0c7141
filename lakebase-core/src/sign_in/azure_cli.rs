//! `azure-cli`: whoever has logged in with `az login`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::azure::{self, Azure, EntraToken, EntraTokens};
use super::command::{Output, Program, on_path};
use super::databricks_cli::parse_expiry;
use super::token::is_header_safe;
use super::{Configured, Not, Refusal, Settings, Site, jwt, oauth};
use crate::credential::refresh::Validity;
use crate::credential::remembered::Remembered;
use crate::error::Error;
use crate::error::Kind;
use crate::settings::attributes::Attribute;

const LIMIT: Duration = Duration::from_secs(30);

struct AzureCli {
    program: Program,
    tenant: Option<String>,
    subscription: Option<String>,
    /// Whether the subscription was named when it first worked: never changed afterwards, or a passing
    /// failure would make us somebody else.
    names_subscription: Remembered<bool>,
    is_machine: Remembered<bool>,
}

pub(super) fn configure(settings: &Settings) -> Configured {
    if !settings.is_azure() {
        return Err(match settings.is_forced() {
            true => Not::Complete("the workspace is not on Azure".to_owned()),
            false => Not::Meant,
        });
    }
    azure::require_workspace(settings)?;
    settings.refuse_group("azure-cli")?;
    let program = on_path("az", &settings.vars)
        .into_iter()
        .next()
        .ok_or_else(|| Not::Complete("most likely the Azure CLI is not installed".to_owned()))?;
    let resource_id = azure::resource_id(settings)?;
    let subscription = resource_id
        .as_deref()
        .and_then(|id| id.split('/').nth(2))
        .filter(|subscription| !subscription.is_empty());
    Ok(Box::new(Azure {
        tokens: AzureCli {
            program: Program::new(program, Arc::clone(&settings.vars)),
            tenant: settings.owned(Attribute::AzureTenantId),
            subscription: subscription.map(str::to_owned),
            names_subscription: Remembered::default(),
            is_machine: Remembered::default(),
        },
        resource_id,
        cloud: settings.azure_cloud()?,
    }))
}

impl AzureCli {
    /// The tool refuses a tenant for the machine's own identity.
    async fn tenant(&self) -> Option<&str> {
        let tenant = self.tenant.as_deref()?;
        let is_machine = match self.is_machine.get() {
            Some(known) => known,
            None => match self.asks_machine().await {
                Some(told) => self.is_machine.keep(told),
                None => false,
            },
        };
        (!is_machine).then_some(tenant)
    }

    /// `None` if the tool does not tell.
    async fn asks_machine(&self) -> Option<bool> {
        let show = ["account", "show", "--output", "json"];
        let output = self.program.run(&show, LIMIT).await.ok()?;
        let account: Value = serde_json::from_str(&output.stdout).ok()?;
        let is = |field: &str, words: &[&str]| {
            let value = account.pointer(field).and_then(Value::as_str);
            value.is_some_and(|value| words.contains(&value))
        };
        Some(
            is("/user/type", &["servicePrincipal"])
                && is(
                    "/user/name",
                    &["systemAssignedIdentity", "userAssignedIdentity"],
                ),
        )
    }

    async fn ask(
        &self,
        resource: &str,
        tenant: Option<&str>,
        subscription: Option<&str>,
    ) -> Result<Output, Error> {
        let mut args = vec![
            "account",
            "get-access-token",
            "--resource",
            resource,
            "--output",
            "json",
        ];
        for (option, value) in [("--subscription", subscription), ("--tenant", tenant)] {
            if let Some(value) = value {
                args.extend([option, value]);
            }
        }
        self.program.run(&args, LIMIT).await
    }
}

impl EntraTokens for AzureCli {
    fn name(&self) -> &'static str {
        "azure-cli"
    }

    fn token<'a>(
        &'a self,
        site: &'a Site,
        resource: &'a str,
    ) -> BoxFuture<'a, Result<EntraToken, Refusal>> {
        async move {
            let tenant = self.tenant().await;
            let asked = site.http.now();
            let known = self.names_subscription.get();
            let subscription = self
                .subscription
                .as_deref()
                .filter(|_| known != Some(false));
            let mut named = subscription.is_some();
            let mut output = self.ask(resource, tenant, subscription).await?;
            if !output.success && named && known.is_none() {
                // The person may not see the subscription and have the workspace all the same.
                named = false;
                output = self.ask(resource, tenant, None).await?;
            }
            if output.success {
                self.names_subscription.keep(named);
            }
            if !output.success {
                return Err(Refusal::Declined(format!(
                    "cannot get access token: {}",
                    output.complaint
                )));
            }
            let unusable = |what: &str| {
                Error::new(Kind::Platform, what.to_owned()).with_hint("Update the Azure CLI")
            };
            let answer: Value = serde_json::from_str(&output.stdout)
                .map_err(|_| unusable("cannot unmarshal CLI result: it is not JSON"))?;
            let text = |name: &str| answer.get(name).and_then(Value::as_str);
            let secret = text("accessToken")
                .filter(|token| is_header_safe(token))
                .ok_or_else(|| {
                    unusable("cannot unmarshal CLI result: `accessToken` is missing or not a token")
                })?;
            // The newer field is exact; the older one is local time.
            let expiry = oauth::number(answer.get("expires_on"))
                .and_then(azure::epoch)
                .or_else(|| parse_expiry(text("expiresOn")?))
                .ok_or_else(|| {
                    unusable("cannot parse expiry: neither `expires_on` nor `expiresOn` is a time")
                })?;
            let validity =
                Validity::measure(expiry, None, asked, site.http.now()).ok_or_else(|| {
                    Error::new(Kind::SignIn, "the CLI handed out a token that has expired")
                        .with_hint("Check this machine's clock, or log in again")
                })?;
            Ok(EntraToken {
                kind: text("tokenType").unwrap_or_default().to_owned(),
                secret: SecretString::from(secret),
                validity,
            })
        }
        .boxed()
    }

    /// For service principals only, and without it the workspace's own rights still count.
    fn management_token<'a>(
        &'a self,
        site: &'a Site,
        resource: &'a str,
        first: &'a EntraToken,
    ) -> BoxFuture<'a, Result<Option<EntraToken>, Refusal>> {
        async move {
            let claims = jwt::claims(first.secret.expose_secret());
            if claims.is_some_and(|claims| claims.get("upn").is_some()) {
                return Ok(None);
            }
            match self.token(site, resource).await {
                Ok(token) => Ok(Some(token)),
                Err(refusal) => {
                    let error = refusal.into_error();
                    tracing::debug!(%error, "no service-management token");
                    Ok(None)
                }
            }
        }
        .boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        &[
            Attribute::Host,
            Attribute::AzureWorkspaceResourceId,
            Attribute::AzureTenantId,
        ]
    }

    fn advice(&self) -> &'static str {
        "Run `az login`, with an account that was added to the workspace"
    }
}

impl fmt::Debug for AzureCli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
