//! Microsoft's clouds, their addresses, and the cloud of a workspace.

use url::Url;

use super::Settings;
use crate::error::Error;
use crate::http::protects_secrets;
use crate::settings::attributes::Attribute;
use crate::settings::azure_endpoints::AzureEndpoints;

/// The cloud of one workspace.
pub(super) struct Cloud {
    pub(super) endpoints: AzureEndpoints,
    /// The Entra application of Azure Databricks, which is the audience of its tokens.
    pub(super) application: &'static str,
}

struct KnownCloud {
    /// Values of `azure_environment`, in lower case.
    names: [&'static str; 2],
    /// Suffixes of its workspaces' host names, each with the application. The first match counts.
    hosts: &'static [(&'static str, &'static str)],
    login: &'static str,
    resource_manager: &'static str,
    service_management: &'static str,
}

const APPLICATION: &str = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d";

const PUBLIC: KnownCloud = KnownCloud {
    names: ["public", "azurepubliccloud"],
    hosts: &[
        (
            ".dev.azuredatabricks.net",
            "62a912ac-b58e-4c1d-89ea-b2dbfc7358fc",
        ),
        (
            ".staging.azuredatabricks.net",
            "4a67d088-db5c-48f1-9ff2-0aace800ae68",
        ),
        (".azuredatabricks.net", APPLICATION),
    ],
    login: "https://login.microsoftonline.com/",
    resource_manager: "https://management.azure.com/",
    service_management: "https://management.core.windows.net/",
};

const CLOUDS: [KnownCloud; 3] = [
    PUBLIC,
    KnownCloud {
        names: ["usgovernment", "azureusgovernment"],
        hosts: &[(".databricks.azure.us", APPLICATION)],
        login: "https://login.microsoftonline.us/",
        resource_manager: "https://management.usgovcloudapi.net/",
        service_management: "https://management.core.usgovcloudapi.net/",
    },
    KnownCloud {
        names: ["china", "azurechinacloud"],
        hosts: &[(".databricks.azure.cn", APPLICATION)],
        login: "https://login.chinacloudapi.cn/",
        resource_manager: "https://management.chinacloudapi.cn/",
        service_management: "https://management.core.chinacloudapi.cn/",
    },
];

impl Cloud {
    pub(super) fn of(settings: &Settings) -> Result<Self, Error> {
        let (known, application) = match by_host(settings) {
            Some(found) => found,
            None => (by_name(settings)?, APPLICATION),
        };
        let endpoints = match &settings.azure_endpoints {
            Some(other) => checked(other)?,
            None => AzureEndpoints::new(
                known.login,
                known.resource_manager,
                known.service_management,
            ),
        };
        Ok(Self {
            endpoints,
            application,
        })
    }
}

/// Whether the workspace is on Azure: by its resource id, by the setting `cloud`, or by its name.
pub(super) fn is_azure(settings: &Settings) -> bool {
    if settings.is_any_set(&[Attribute::AzureWorkspaceResourceId]) {
        return true;
    }
    let cloud = settings.value(Attribute::Cloud).unwrap_or_default();
    match cloud.to_ascii_uppercase().as_str() {
        "AZURE" => true,
        "AWS" | "GCP" => false,
        _ => by_host(settings).is_some(),
    }
}

fn by_host(settings: &Settings) -> Option<(&'static KnownCloud, &'static str)> {
    let name = settings.host.as_ref()?.host_str()?;
    CLOUDS.iter().find_map(|cloud| {
        let (_, application) = cloud
            .hosts
            .iter()
            .find(|(suffix, _)| name.ends_with(suffix))?;
        Some((cloud, *application))
    })
}

fn by_name(settings: &Settings) -> Result<&'static KnownCloud, Error> {
    let Some(setting) = settings.get(Attribute::AzureEnvironment) else {
        return Ok(&PUBLIC);
    };
    let name = setting.value.to_ascii_lowercase();
    CLOUDS
        .iter()
        .find(|cloud| cloud.names.contains(&name.as_str()))
        .ok_or_else(|| setting.wrong("an Azure cloud: public, usgovernment or china"))
}

/// Rejects plaintext, except for the instance metadata service, whose requests contain no secret.
fn checked(endpoints: &AzureEndpoints) -> Result<AzureEndpoints, Error> {
    for address in [
        &endpoints.login,
        &endpoints.resource_manager,
        &endpoints.service_management,
    ] {
        if !Url::parse(address).is_ok_and(|url| protects_secrets(&url)) {
            return Err(Error::config(format!(
                "azure_endpoints: {address:?} is not an https URL"
            )));
        }
    }
    Ok(endpoints.clone())
}
