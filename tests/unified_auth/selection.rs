//! Which strategy is chosen, and the error if none is: the cases that the Python and Go SDKs share.

use crate::home::{A, AZ, C, E, Home, M};
use crate::{E0, Pairs, X, configured, setting};

const DBC: &str = "https://dbc-XXXXXXXX-YYYY.cloud.databricks.com";
const ADB: &str = "https://adb-123.4.azuredatabricks.net";
const RESOURCE: (&str, &str) = ("azure_workspace_resource_id", "/sub/rg/ws");

enum Expected {
    Chosen(&'static str, &'static str),
    /// The rest of the error that nothing is configured.
    Nothing(&'static str),
    /// The rest of the error that more than one identity is configured.
    Conflict(&'static str),
}

use Expected::{Chosen, Conflict, Nothing};

/// Profiles, explicit attributes, variables, and the strategy or error.
const CASES: &[(&str, Pairs<'_>, Pairs<'_>, Expected)] = &[
    ("", &[], &[], Nothing("")),
    (
        "",
        &[],
        &[("DATABRICKS_HOST", "x")],
        Nothing(". Config: host=https://x. Env: DATABRICKS_HOST"),
    ),
    (
        "",
        &[],
        &[("DATABRICKS_TOKEN", "x")],
        Nothing(". Config: token=***. Env: DATABRICKS_TOKEN"),
    ),
    (
        "",
        &[],
        &[("DATABRICKS_HOST", "x"), ("DATABRICKS_TOKEN", "x")],
        Chosen("pat", "https://x"),
    ),
    (
        "",
        &[("host", "https://x")],
        &[("DATABRICKS_TOKEN", "x")],
        Chosen("pat", "https://x"),
    ),
    (
        "",
        &[],
        &[("DATABRICKS_USERNAME", "x"), ("DATABRICKS_PASSWORD", "x")],
        Nothing(
            ". Config: username=x, password=***. Env: DATABRICKS_USERNAME, DATABRICKS_PASSWORD",
        ),
    ),
    (
        "",
        &[],
        &[
            ("DATABRICKS_HOST", "x"),
            ("DATABRICKS_USERNAME", "x"),
            ("DATABRICKS_PASSWORD", "x"),
        ],
        Chosen("basic", "https://x"),
    ),
    (
        "",
        &[("host", "y")],
        &[
            ("DATABRICKS_HOST", "x"),
            ("DATABRICKS_USERNAME", "x"),
            ("DATABRICKS_PASSWORD", "x"),
        ],
        Chosen("basic", "https://y"),
    ),
    (
        "",
        &[("host", "y"), ("username", "x")],
        &[("DATABRICKS_PASSWORD", "x")],
        Chosen("basic", "https://y"),
    ),
    (
        "",
        &[("host", "y"), ("username", "x"), ("password", "x")],
        &[],
        Chosen("basic", "https://y"),
    ),
    (
        "",
        &[],
        &[
            ("DATABRICKS_HOST", "x"),
            ("DATABRICKS_TOKEN", "x"),
            ("DATABRICKS_USERNAME", "x"),
            ("DATABRICKS_PASSWORD", "x"),
        ],
        Conflict(
            "basic and pat. Config: host=https://x, token=***, username=x, password=***. Env: DATABRICKS_HOST, DATABRICKS_TOKEN, DATABRICKS_USERNAME, DATABRICKS_PASSWORD",
        ),
    ),
    (
        "",
        &[("auth_type", "basic")],
        &[
            ("DATABRICKS_HOST", "x"),
            ("DATABRICKS_TOKEN", "x"),
            ("DATABRICKS_USERNAME", "x"),
            ("DATABRICKS_PASSWORD", "x"),
        ],
        Chosen("basic", "https://x"),
    ),
    (
        "",
        &[],
        &[("DATABRICKS_CONFIG_FILE", "x")],
        Nothing(". Config: config_file=x. Env: DATABRICKS_CONFIG_FILE"),
    ),
    (
        M,
        &[("host", "x")],
        &[],
        Nothing(". Config: host=https://x"),
    ),
    (E, &[], &[], Nothing("")),
    (
        E,
        &[],
        &[("DATABRICKS_CONFIG_PROFILE", "abc")],
        Chosen("pat", "https://foo"),
    ),
    (M, &[], &[], Chosen("pat", DBC)),
    (
        M,
        &[],
        &[("DATABRICKS_CONFIG_PROFILE", "pat.with.dot")],
        Chosen("pat", DBC),
    ),
    (
        M,
        &[],
        &[("DATABRICKS_CONFIG_PROFILE", "nohost")],
        Nothing(". Config: token=***, profile=nohost. Env: DATABRICKS_CONFIG_PROFILE"),
    ),
    (
        M,
        &[],
        &[
            ("DATABRICKS_CONFIG_PROFILE", "nohost"),
            ("DATABRICKS_TOKEN", "x"),
        ],
        Nothing(
            ". Config: token=***, profile=nohost. Env: DATABRICKS_TOKEN, DATABRICKS_CONFIG_PROFILE",
        ),
    ),
    (
        M,
        &[],
        &[
            ("DATABRICKS_CONFIG_PROFILE", "nohost"),
            ("DATABRICKS_USERNAME", "x"),
        ],
        Conflict(
            "basic and pat. Config: token=***, username=x, profile=nohost. Env: DATABRICKS_USERNAME, DATABRICKS_CONFIG_PROFILE",
        ),
    ),
    (
        "",
        &[
            ("host", "https://adb-xxx.y.azuredatabricks.net/"),
            ("token", "y"),
        ],
        &[],
        Chosen("pat", "https://adb-xxx.y.azuredatabricks.net"),
    ),
    (
        A,
        &[("host", ADB), RESOURCE],
        &[("AZ", "yes")],
        Chosen("azure-cli", ADB),
    ),
    (
        A,
        &[RESOURCE],
        &[],
        Nothing(". Config: azure_workspace_resource_id=/sub/rg/ws"),
    ),
    (
        A,
        &[("token", "x"), RESOURCE],
        &[("AZ", "yes")],
        Conflict("azure and pat. Config: token=***, azure_workspace_resource_id=/sub/rg/ws"),
    ),
    (
        M,
        &[("host", ADB), RESOURCE],
        &[("AZ", "yes")],
        Chosen("azure-cli", ADB),
    ),
    (
        A,
        &[("host", ADB), RESOURCE],
        &[("AZ", "yes"), ("DATABRICKS_CONFIG_PROFILE", "justhost")],
        Chosen("azure-cli", ADB),
    ),
    (
        A,
        &[("host", ADB), RESOURCE],
        &[("AZ", "yes"), ("DATABRICKS_USERNAME", "x")],
        Conflict(
            "azure and basic. Config: host=https://adb-123.4.azuredatabricks.net, username=x, azure_workspace_resource_id=/sub/rg/ws. Env: DATABRICKS_USERNAME",
        ),
    ),
    (
        "",
        &[("host", "x")],
        &[
            ("DATABRICKS_TOKEN", "x"),
            ("DATABRICKS_USERNAME", "x"),
            ("DATABRICKS_PASSWORD", "x"),
            ("DATABRICKS_AUTH_TYPE", "basic"),
        ],
        Chosen("basic", "https://x"),
    ),
];

#[test]
fn settings_lead_to_the_same_strategy_or_error_as_in_the_official_clients() {
    for (profiles, explicit, vars, expected) in CASES {
        let home = match *profiles {
            "" => Home::new(),
            text => Home::with_profiles(text),
        };
        let tools = home.program("az", AZ);
        let has_az = vars.contains(&("AZ", "yes"));
        let path = if has_az { tools.as_str() } else { "/nowhere" };
        let mut all = vec![("HOME", home.as_str()), ("PATH", path)];
        all.extend(*vars);
        let outcome = configured(explicit, &all);
        let text = match (expected, &outcome) {
            (Chosen(auth_type, host), Ok(config)) => {
                let found = setting(config, "host");
                assert_eq!(config.auth_type(), Some(*auth_type), "{all:?}");
                // This crate writes host names in lower case.
                assert_eq!(found, Some(host.to_lowercase()), "{all:?}");
                continue;
            }
            (Nothing(rest), Err(_)) => format!("{E0}{rest}"),
            (Conflict(rest), Err(_)) => format!("{X}{rest}"),
            _ => panic!("{all:?}: {outcome:?}"),
        };
        let error = outcome.expect_err("an error");
        assert!(error.is_config(), "{error:?}");
        assert!(
            error.to_string().starts_with(&text),
            "{error}\ndoes not begin with\n{text}"
        );
    }
}

#[tokio::test]
async fn an_azure_cli_without_a_login_is_skipped() {
    let home = Home::with_profiles(A);
    let path = home.program("az", AZ);
    let vars = [("HOME", home.as_str()), ("PATH", &path), ("FAIL", "yes")];
    let lakebase = crate::handle(&[RESOURCE], &vars);
    let error = lakebase.credential().await.expect_err("not logged in");
    let text = error.to_string();
    let expected = format!("{E0}. Config: azure_workspace_resource_id=/sub/rg/ws");
    assert!(text.contains(&expected), "{text}");
    assert!(text.contains("az login"), "{text}");
}

#[test]
fn a_configured_profile_must_exist() {
    let home = Home::with_profiles(C);
    let vars = [
        ("HOME", home.as_str()),
        ("DATABRICKS_CONFIG_PROFILE", "DEFAULT"),
    ];
    let error = configured(&[], &vars).expect_err("no such profile");
    let expected = format!(
        "resolve: {} has no DEFAULT profile configured. Config: profile=DEFAULT. Env: DATABRICKS_CONFIG_PROFILE",
        home.profile_file()
    );
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[test]
fn an_incomplete_configuration_is_an_error_and_no_other_login_is_used() {
    let home = Home::new();
    let path = home.program("databricks", "exit 0");
    for (vars, expected) in [
        (
            &[("DATABRICKS_CLIENT_ID", "id")][..],
            "oauth-m2m is incomplete: DATABRICKS_CLIENT_SECRET is not set",
        ),
        (
            &[
                ("DATABRICKS_CLIENT_SECRET", "s"),
                ("DATABRICKS_CLIENT_ID", ""),
            ],
            "oauth-m2m is incomplete: DATABRICKS_CLIENT_ID is empty",
        ),
        (
            &[("DATABRICKS_USERNAME", "u")],
            "basic is incomplete: DATABRICKS_PASSWORD is not set",
        ),
        (
            &[("DATABRICKS_OIDC_TOKEN_ENV", "MINE")],
            "env-oidc is incomplete: the variable \"MINE\"",
        ),
        (
            &[("ARM_CLIENT_ID", "id")],
            "azure-client-secret is incomplete: ARM_CLIENT_SECRET is not set",
        ),
        (
            &[
                ("DATABRICKS_CLIENT_SECRET", "s"),
                ("DATABRICKS_OIDC_TOKEN", "jwt"),
            ],
            "oauth-m2m is incomplete: DATABRICKS_CLIENT_ID is not set",
        ),
        (
            &[
                ("DATABRICKS_USERNAME", "u"),
                ("DATABRICKS_OIDC_TOKEN", "jwt"),
            ],
            "basic is incomplete: DATABRICKS_PASSWORD is not set",
        ),
        (
            &[("DATABRICKS_CLIENT_ID", "id"), ("GITHUB_ACTIONS", "true")],
            "permissions: id-token: write",
        ),
        (
            &[("GOOGLE_CREDENTIALS", "{}")],
            "google-credentials and google-id are not supported",
        ),
        (
            &[("ARM_USE_MSI", "maybe")],
            "azure-msi: ARM_USE_MSI: \"maybe\" is not true or false",
        ),
        (
            &[(
                "DATABRICKS_METADATA_SERVICE_URL",
                "https://example.com/key-1",
            )],
            "metadata-service: DATABRICKS_METADATA_SERVICE_URL: only localhost URLs are allowed",
        ),
    ] {
        let mut all = vec![("PATH", path.as_str()), ("DATABRICKS_HOST", "https://x")];
        all.extend(vars);
        let error = configured(&[], &all).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}\nlacks {expected}");
        assert!(!error.contains("key-1"), "{error}");
    }
    // With the host alone, the login of this machine's user is used.
    let all = [("PATH", path.as_str()), ("DATABRICKS_HOST", "https://x")];
    let config = configured(&[], &all).expect("a configuration");
    assert_eq!(config.auth_type(), Some("databricks-cli"));
}

#[test]
fn booleans_have_the_spellings_of_the_official_clients() {
    for (value, is_msi) in [
        ("true", true),
        ("1", true),
        ("T", true),
        ("false", false),
        ("0", false),
    ] {
        let vars = [
            ("DATABRICKS_HOST", ADB),
            ("ARM_USE_MSI", value),
            ("DATABRICKS_AUTH_TYPE", "azure-msi"),
        ];
        assert_eq!(configured(&[], &vars).is_ok(), is_msi, "{value}");
    }
}

#[test]
fn a_false_switch_counts_as_unset() {
    let home = Home::with_profiles(M);
    let vars = [("HOME", home.as_str()), ("ARM_USE_MSI", "false")];
    let config = configured(&[], &vars).expect("the default profile is read");
    assert_eq!(config.auth_type(), Some("pat"));
    configured(&[("host", "https://x"), ("token", "t")], &vars).expect("no conflict");
}

#[test]
fn an_unknown_attribute_in_code_is_an_error() {
    let error = configured(&[("clientid", "x")], &[]).expect_err("a typo");
    assert!(error.to_string().contains("clientid"), "{error}");
}

#[test]
fn each_setting_is_reported_with_its_source() {
    let home = Home::with_profiles("[p]\ntoken = dapi-p\naccount_id = acct\n");
    let vars = [
        ("HOME", home.as_str()),
        ("DATABRICKS_HOST", "https://x"),
        ("DATABRICKS_CONFIG_PROFILE", "p"),
    ];
    let config = configured(&[("workspace_id", "7")], &vars).expect("a configuration");
    let found: Vec<String> = config
        .sign_in_settings()
        .iter()
        .map(|setting| format!("{}={} from {}", setting.name, setting.value, setting.source))
        .collect();
    let file = home.profile_file();
    assert_eq!(
        found,
        [
            "host=https://x from DATABRICKS_HOST".to_owned(),
            format!("account_id=acct from profile p in {file} (account_id)"),
            "workspace_id=7 from attribute workspace_id".to_owned(),
            format!("token=*** from profile p in {file} (token)"),
            "profile=p from DATABRICKS_CONFIG_PROFILE".to_owned(),
        ]
    );
}
