//! The attributes of Databricks' unified configuration: names, variables, families, and the rules by
//! which they are found and printed.

use std::collections::{BTreeMap, HashMap};

use super::setting::Setting;
use crate::error::Error;
use crate::error::foreign::is_secret_like;

/// An environment, as it was read once.
pub(crate) type Vars = HashMap<String, String>;

macro_rules! attributes {
    ($($attribute:ident $name:literal $aliases:tt $variables:tt $family:expr, $shown:ident;)*) => {
        /// One attribute. The order is the one in which official clients print them.
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

struct Definition {
    attribute: Attribute,
    /// Name in a profile and in errors.
    name: &'static str,
    /// What a profile may call it as well.
    aliases: &'static [&'static str],
    /// The first one that is not empty counts.
    variables: &'static [&'static str],
    /// Attributes of different families are different identities.
    family: Option<&'static str>,
    shown: Shown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Plain,
    Secret,
    /// Not part of the summary in errors.
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
    fn definition(self) -> &'static Definition {
        // The table is generated in the order of the variants.
        &TABLE[self as usize]
    }

    pub(crate) fn name(self) -> &'static str {
        self.definition().name
    }

    pub(crate) fn is_secret(self) -> bool {
        self.definition().shown == Shown::Secret || self == Self::IdTokenRequestToken
    }

    /// All of them with their names, the official one first.
    pub(crate) fn all() -> impl Iterator<Item = (Self, impl Iterator<Item = &'static str>)> {
        TABLE.iter().map(|definition| {
            let names = std::iter::once(definition.name);
            (
                definition.attribute,
                names.chain(definition.aliases.iter().copied()),
            )
        })
    }

    /// The attribute of an official name, or of one that a profile may use.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let is = |d: &&Definition| d.name == name || d.aliases.contains(&name);
        Some(TABLE.iter().find(is)?.attribute)
    }

    /// A value as people may see it. Some are put where they do not belong, with a secret inside.
    pub(crate) fn show(self, value: &str) -> String {
        let is_pair = matches!(self, Self::ClientId | Self::Username) && value.contains(':');
        let has_user = self == Self::Host && value.contains('@');
        let is_secret = self.is_secret() || is_secret_like(value) || is_pair || has_user;
        match is_secret {
            true => "***".to_owned(),
            false => value.to_owned(),
        }
    }

    /// How to say that it is missing: by its variable, which may be there but empty.
    pub(crate) fn missing(self, vars: &Vars) -> String {
        let Some(&variable) = self.definition().variables.first() else {
            return format!("{} is not set", self.name());
        };
        let state = match vars.get(variable) {
            Some(_) => "empty",
            None => "not set",
        };
        format!("{variable} is {state}")
    }
}

/// The attributes that are set, each with its source.
#[derive(Clone, Default)]
pub(crate) struct Attributes(BTreeMap<Attribute, Setting>);

impl Attributes {
    pub(crate) fn get(&self, attribute: Attribute) -> Option<&Setting> {
        self.0.get(&attribute)
    }

    pub(crate) fn value(&self, attribute: Attribute) -> Option<&str> {
        Some(self.get(attribute)?.value.as_str())
    }

    pub(crate) fn is_set(&self, attribute: Attribute) -> bool {
        self.0.contains_key(&attribute)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Attribute, &Setting)> {
        self.0
            .iter()
            .map(|(&attribute, setting)| (attribute, setting))
    }

    pub(crate) fn remove(&mut self, attribute: Attribute) {
        self.0.remove(&attribute);
    }

    pub(crate) fn replace(&mut self, attribute: Attribute, setting: Setting) {
        self.0.insert(attribute, setting);
    }

    /// Sets what is unset yet. An empty value counts as none.
    pub(crate) fn fill(&mut self, attribute: Attribute, setting: Setting) {
        if setting.value.trim().is_empty() {
            return;
        }
        // The Databricks CLI writes `none` for "no workspace".
        if attribute == Attribute::WorkspaceId && setting.value == "none" {
            return;
        }
        // No is as good as nothing: it chooses no identity.
        if attribute == Attribute::AzureUseMsi && boolean(&setting).is_ok_and(|yes| !yes) {
            return;
        }
        self.0.entry(attribute).or_insert(setting);
    }

    pub(crate) fn fill_from(&mut self, vars: &Vars) {
        for definition in TABLE {
            if let Some((name, value)) = definition.variable_in(vars) {
                self.fill(definition.attribute, Setting::new(value, name));
            }
        }
    }

    /// Something is known already that a profile which nobody asked for could contradict.
    pub(crate) fn settle_where_or_who(&self) -> bool {
        let settles = |attribute: Attribute| {
            attribute == Attribute::Host || attribute.definition().family.is_some()
        };
        self.0.keys().any(|&attribute| settles(attribute))
    }

    /// The families of all that is set, sorted.
    pub(crate) fn families(&self) -> Vec<&'static str> {
        let mut families: Vec<_> = self
            .0
            .keys()
            .filter_map(|attribute| attribute.definition().family)
            .collect();
        families.sort_unstable();
        families.dedup();
        families
    }

    /// Adds to an error what official clients add: what is set (secrets masked) and which variables
    /// were seen; and besides, where each setting came from.
    pub(crate) fn explain(&self, message: String, vars: &Vars) -> Error {
        let mut text = message;
        let shown: Vec<String> = self
            .iter()
            .filter_map(|(attribute, setting)| match attribute.definition().shown {
                Shown::Plain | Shown::Secret => Some(format!(
                    "{}={}",
                    attribute.name(),
                    attribute.show(&setting.value)
                )),
                Shown::Silent => None,
            })
            .collect();
        if !shown.is_empty() {
            text.push_str(&format!(". Config: {}", shown.join(", ")));
        }
        let seen: Vec<&str> = TABLE
            .iter()
            .filter(|definition| definition.shown != Shown::Silent)
            .filter_map(|definition| Some(definition.variable_in(vars)?.0))
            .collect();
        if !seen.is_empty() {
            text.push_str(&format!(". Env: {}", seen.join(", ")));
        }
        let elsewhere: Vec<String> = self
            .iter()
            .filter(|(attribute, setting)| {
                !attribute
                    .definition()
                    .variables
                    .contains(&setting.from.as_str())
            })
            .map(|(attribute, setting)| format!("{} from {}", attribute.name(), setting.from))
            .collect();
        if !elsewhere.is_empty() {
            text.push_str(&format!(". Set elsewhere: {}", elsewhere.join(", ")));
        }
        Error::config(text)
    }

    /// Where the given attributes came from, for errors at run time.
    pub(crate) fn sources(&self, attributes: &[Attribute]) -> String {
        let sources: Vec<String> = attributes
            .iter()
            .filter_map(|&attribute| {
                let from = &self.get(attribute)?.from;
                Some(format!("{} from {from}", attribute.name()))
            })
            .collect();
        sources.join(", ")
    }
}

impl Definition {
    fn variable_in<'a>(&self, vars: &'a Vars) -> Option<(&'static str, &'a str)> {
        self.variables.iter().find_map(|&name| {
            let value = vars.get(name).filter(|value| !value.trim().is_empty())?;
            Some((name, value.as_str()))
        })
    }
}

/// The words that official clients take for yes and no.
pub(crate) fn boolean(setting: &Setting) -> Result<bool, Error> {
    match setting.value.trim() {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(setting.wrong("true or false")),
    }
}
