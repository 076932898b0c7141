//! Authentication strategies, and the variables of each.

use std::fmt;
use std::str::FromStr;

use super::LocalLakebase;
use crate::Error;
use crate::workspace::RESOURCE_ID;

/// A strategy to authenticate to the workspace, as `DATABRICKS_AUTH_TYPE` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignIn {
    /// `pat`, as the person.
    Pat,
    /// `basic`, as the person.
    Basic,
    /// `oauth-m2m`, as the service principal.
    OauthM2m,
    /// `env-oidc`, as the service principal.
    EnvOidc,
    /// `file-oidc`, as the service principal.
    FileOidc,
    /// `github-oidc`, as the service principal.
    GithubOidc,
    /// `azure-client-secret`, as the service principal. Needs the addresses of the stand-ins: see
    /// [`azure_login_url`](LocalLakebase::azure_login_url).
    AzureClientSecret,
    /// `azure-msi`, as the service principal. Needs the addresses of the stand-ins.
    AzureMsi,
    /// `metadata-service`, as the person.
    MetadataService,
    /// `databricks-cli`, as the person. The tool on the `PATH` is a stand-in.
    DatabricksCli,
    /// `azure-cli`, as the person. The tool on the `PATH` is a stand-in.
    AzureCli,
}

impl SignIn {
    /// All strategies.
    pub const ALL: [Self; 11] = [
        Self::Pat,
        Self::Basic,
        Self::OauthM2m,
        Self::EnvOidc,
        Self::FileOidc,
        Self::GithubOidc,
        Self::AzureClientSecret,
        Self::AzureMsi,
        Self::MetadataService,
        Self::DatabricksCli,
        Self::AzureCli,
    ];

    /// The name that Databricks documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pat => "pat",
            Self::Basic => "basic",
            Self::OauthM2m => "oauth-m2m",
            Self::EnvOidc => "env-oidc",
            Self::FileOidc => "file-oidc",
            Self::GithubOidc => "github-oidc",
            Self::AzureClientSecret => "azure-client-secret",
            Self::AzureMsi => "azure-msi",
            Self::MetadataService => "metadata-service",
            Self::DatabricksCli => "databricks-cli",
            Self::AzureCli => "azure-cli",
        }
    }

    /// Returns whether it authenticates as the service principal, not as the person.
    pub fn is_service_principal(self) -> bool {
        matches!(
            self,
            Self::OauthM2m
                | Self::EnvOidc
                | Self::FileOidc
                | Self::GithubOidc
                | Self::AzureClientSecret
                | Self::AzureMsi
        )
    }
}

impl fmt::Display for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SignIn {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|way| way.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                Error::new(format!(
                    "{name:?} is not an authentication strategy; use one of: {names}"
                ))
            })
    }
}

impl LocalLakebase {
    /// The variables of a program that authenticates with this strategy. They contain neither the Postgres role nor
    /// the host, so the program looks both up in the workspace.
    pub fn env_for(&self, sign_in: SignIn) -> Vec<(String, String)> {
        let other = |name: &String| {
            name.starts_with("DATABRICKS_CLIENT") || name == "PGUSER" || name == "PGHOST"
        };
        let mut vars = self.env();
        vars.retain(|(name, _)| !other(name));
        let folder = self.dir();
        let file = |name: &str| folder.join(name).display().to_string();
        let id = || ("DATABRICKS_CLIENT_ID", self.client_id.clone());
        let resource = || ("DATABRICKS_AZURE_RESOURCE_ID", RESOURCE_ID.to_owned());
        let own = match sign_in {
            SignIn::Pat => vec![("DATABRICKS_TOKEN", self.user_token.clone())],
            SignIn::Basic => vec![
                ("DATABRICKS_USERNAME", self.user.clone()),
                ("DATABRICKS_PASSWORD", self.user_password.clone()),
            ],
            SignIn::OauthM2m => vec![
                id(),
                ("DATABRICKS_CLIENT_SECRET", self.client_secret.clone()),
            ],
            SignIn::EnvOidc => vec![
                id(),
                ("DATABRICKS_AUTH_TYPE", "env-oidc".to_owned()),
                ("DATABRICKS_OIDC_TOKEN", self.id_token.clone()),
            ],
            SignIn::FileOidc => vec![
                id(),
                ("DATABRICKS_AUTH_TYPE", "file-oidc".to_owned()),
                ("DATABRICKS_OIDC_TOKEN_FILEPATH", file("id-token")),
            ],
            SignIn::GithubOidc => vec![
                id(),
                (
                    "ACTIONS_ID_TOKEN_REQUEST_URL",
                    format!("{}/github/id-token?api-version=2.0", self.workspace_url()),
                ),
                ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", self.request_token.clone()),
            ],
            SignIn::AzureClientSecret => vec![
                ("ARM_CLIENT_ID", self.client_id.clone()),
                ("ARM_CLIENT_SECRET", self.client_secret.clone()),
                resource(),
            ],
            SignIn::AzureMsi => vec![("ARM_USE_MSI", "true".to_owned()), resource()],
            SignIn::MetadataService => vec![(
                "DATABRICKS_METADATA_SERVICE_URL",
                format!("{}/{}/metadata-service", self.workspace_url(), self.key),
            )],
            SignIn::DatabricksCli => vec![("PATH", folder.display().to_string())],
            SignIn::AzureCli => vec![
                ("DATABRICKS_AUTH_TYPE", "azure-cli".to_owned()),
                ("PATH", folder.display().to_string()),
                resource(),
            ],
        };
        vars.extend(
            own.into_iter()
                .map(|(name, value)| (name.to_owned(), value)),
        );
        vars
    }

    /// URL of the stand-in of Entra ID's login.
    pub fn azure_login_url(&self) -> String {
        format!("{}/entra/", self.workspace_url())
    }

    /// URL of the stand-in of Azure Resource Manager.
    pub fn azure_resource_manager_url(&self) -> String {
        format!("{}/arm/", self.workspace_url())
    }

    /// URL of Azure's service management API. It is an audience only; no program calls it.
    pub fn azure_service_management_url(&self) -> String {
        format!("{}/service-management/", self.workspace_url())
    }

    /// URL of the stand-in of the instance metadata service. The service has no authentication, so the URL contains
    /// a secret as user name, which clients send as basic authentication.
    pub fn azure_instance_metadata_url(&self) -> String {
        format!("http://{}@{}/", self.key, self.api)
    }
}
