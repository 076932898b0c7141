//! The attributes of the Databricks clients: their names, variables and families.

use std::collections::HashMap;

use crate::error::foreign::is_secret_like;

/// The variables of an environment.
pub(crate) type Vars = HashMap<String, String>;

macro_rules! attributes {
    ($($attribute:ident $name:literal $aliases:tt $variables:tt $family:expr, $shown:ident;)*) => {
        /// An attribute, in the order in which the official clients print them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Attribute { $($attribute),* }

        const TABLE: &[Definition] = &[$(Definition {
            attribute: Attribute::$attribute,
            name: $name,
            aliases: &$aliases,
            variables: &$variables,
            family: $family,
            shown: Shown::$shown,
        }),*];
    };
}

pub(super) struct Definition {
    attribute: Attribute,
    /// Name in profiles and errors.
    name: &'static str,
    /// Other names in profiles.
    aliases: &'static [&'static str],
    /// The first variable that is not empty counts.
    pub(super) variables: &'static [&'static str],
    /// Attributes of two families are two identities.
    pub(super) family: Option<&'static str>,
    shown: Shown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Plain,
    Secret,
    /// Not listed in errors.
    Silent,
}

attributes! {
    Host "host" [] ["DATABRICKS_HOST"] None, Plain;
    AccountId "account_id" [] ["DATABRICKS_ACCOUNT_ID"] None, Plain;
    WorkspaceId "workspace_id" [] ["DATABRICKS_WORKSPACE_ID"] None, Plain;
    GroupId "group_id" [] ["DATABRICKS_GROUP_ID"] None, Plain;
    Cloud "cloud" [] ["DATABRICKS_CLOUD"] None, Silent;
    DiscoveryUrl "discovery_url" [] ["DATABRICKS_DISCOVERY_URL"] None, Silent;
    Token "token" [] ["DATABRICKS_TOKEN"] Some("pat"), Secret;
    TokenAudience "token_audience" ["audience"] ["DATABRICKS_TOKEN_AUDIENCE"] None, Silent;
    OidcTokenEnv "oidc_token_env" [] ["DATABRICKS_OIDC_TOKEN_ENV"] Some("env-oidc"), Plain;
    OidcTokenFilepath "oidc_token_filepath" ["databricks_id_token_filepath"]
        ["DATABRICKS_OIDC_TOKEN_FILEPATH", "DATABRICKS_OIDC_TOKEN_FILE"] Some("file-oidc"), Plain;
    Username "username" [] ["DATABRICKS_USERNAME"] Some("basic"), Plain;
    Password "password" [] ["DATABRICKS_PASSWORD"] Some("basic"), Secret;
    ClientId "client_id" [] ["DATABRICKS_CLIENT_ID"] Some("oauth"), Plain;
    ClientSecret "client_secret" [] ["DATABRICKS_CLIENT_SECRET"] Some("oauth"), Secret;
    Profile "profile" [] ["DATABRICKS_CONFIG_PROFILE"] None, Plain;
    ConfigFile "config_file" [] ["DATABRICKS_CONFIG_FILE"] None, Plain;
    GoogleServiceAccount "google_service_account" [] ["DATABRICKS_GOOGLE_SERVICE_ACCOUNT"]
        Some("google"), Plain;
    GoogleCredentials "google_credentials" [] ["GOOGLE_CREDENTIALS"] Some("google"), Secret;
    AzureWorkspaceResourceId "azure_workspace_resource_id" [] ["DATABRICKS_AZURE_RESOURCE_ID"]
        Some("azure"), Plain;
    AzureUseMsi "azure_use_msi" [] ["ARM_USE_MSI"] Some("azure"), Plain;
    AzureClientSecret "azure_client_secret" [] ["ARM_CLIENT_SECRET"] Some("azure"), Secret;
    AzureClientId "azure_client_id" [] ["ARM_CLIENT_ID"] Some("azure"), Plain;
    AzureTenantId "azure_tenant_id" [] ["ARM_TENANT_ID"] Some("azure"), Plain;
    AzureEnvironment "azure_environment" [] ["ARM_ENVIRONMENT"] None, Plain;
    AzureLoginAppId "azure_login_app_id" [] ["DATABRICKS_AZURE_LOGIN_APP_ID"] Some("azure"), Plain;
    MetadataServiceUrl "metadata_service_url" [] ["DATABRICKS_METADATA_SERVICE_URL"]
        Some("metadata-service"), Secret;
    IdTokenRequestUrl "actions_id_token_request_url" [] ["ACTIONS_ID_TOKEN_REQUEST_URL"] None, Silent;
    IdTokenRequestToken "actions_id_token_request_token" [] ["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]
        None, Silent;
    DatabricksCliPath "databricks_cli_path" [] ["DATABRICKS_CLI_PATH"] None, Plain;
    AuthType "auth_type" [] ["DATABRICKS_AUTH_TYPE"] None, Silent;
    Scopes "scopes" [] [] None, Silent;
    AuthorizationDetails "authorization_details" [] [] None, Silent;
    DisableAsyncTokenRefresh "disable_async_token_refresh" []
        ["DATABRICKS_DISABLE_ASYNC_TOKEN_REFRESH"] None, Silent;
}

impl Attribute {
    pub(super) fn definition(self) -> &'static Definition {
        // The table is generated in the order of the variants.
        &TABLE[self as usize]
    }

    pub(crate) fn name(self) -> &'static str {
        self.definition().name
    }

    /// All names in profiles.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let aliases = self.definition().aliases.iter().copied();
        std::iter::once(self.name()).chain(aliases)
    }

    /// Whether errors list it.
    pub(super) fn is_listed(self) -> bool {
        self.definition().shown != Shown::Silent
    }

    fn is_secret(self) -> bool {
        self.definition().shown == Shown::Secret || self == Self::IdTokenRequestToken
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|definition| definition.attribute)
    }

    /// The attribute with this name in profiles.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::all().find(|attribute| attribute.names().any(|known| known == name))
    }

    /// The value, or `***` if it is or may contain a secret.
    pub(crate) fn show(self, value: &str) -> String {
        let is_pair = matches!(self, Self::ClientId | Self::Username) && value.contains(':');
        let has_user = self == Self::Host && value.contains('@');
        let is_secret = self.is_secret() || is_secret_like(value) || is_pair || has_user;
        match is_secret {
            true => "***".to_owned(),
            false => value.to_owned(),
        }
    }

    /// Its first variable that is not empty, with the value.
    pub(super) fn find_in(self, vars: &Vars) -> Option<(&'static str, &str)> {
        self.definition().variables.iter().find_map(|&name| {
            let value = vars.get(name).filter(|value| !value.trim().is_empty())?;
            Some((name, value.as_str()))
        })
    }

    /// Error text for a missing attribute, which names its variable.
    pub(crate) fn missing(self, vars: &Vars) -> String {
        match self.definition().variables.first() {
            None => format!("{} is not set", self.name()),
            Some(&variable) if vars.contains_key(variable) => format!("{variable} is empty"),
            Some(variable) => format!("{variable} is not set"),
        }
    }
}
