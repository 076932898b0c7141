//! An invalid configuration is an error that names the variable and valid values.

#![allow(clippy::expect_used)] // a test fails by panicking

use std::path::PathBuf;
use std::time::Duration;

use lakebase_core::{Config, Lakebase};

const ENDPOINT: &str = "projects/shop/branches/production/endpoints/primary";
const HOST: &str = "https://dbc-1.cloud.databricks.com";

/// The variables that Databricks Apps injects, and the endpoint.
const APPS: &[(&str, &str)] = &[
    ("DATABRICKS_HOST", "dbc-1.cloud.databricks.com"),
    (
        "DATABRICKS_CLIENT_ID",
        "6f2f0a2e-6a53-4c0b-9a1f-5a2b0c9d7e11",
    ),
    ("DATABRICKS_CLIENT_SECRET", "dose1234"),
    ("DATABRICKS_WORKSPACE_ID", "1234567890"),
    ("DATABRICKS_APP_NAME", "shop"),
    ("DATABRICKS_APP_PORT", "8000"),
    ("PGHOST", "ep-1.database.us-east-1.cloud.databricks.com"),
    ("PGPORT", "5432"),
    ("PGDATABASE", "databricks_postgres"),
    ("PGUSER", "6f2f0a2e-6a53-4c0b-9a1f-5a2b0c9d7e11"),
    ("PGSSLMODE", "require"),
    ("PGAPPNAME", "shop"),
    ("LAKEBASE_ENDPOINT", ENDPOINT),
];

fn apps_with(changes: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    APPS.iter().chain(changes).copied().collect()
}

fn rejected(vars: Vec<(&'static str, &'static str)>) -> String {
    let error = Config::from_vars(vars.clone()).expect_err(&format!("{vars:?}"));
    assert!(error.is_config() && !error.is_transient(), "{error}");
    error.to_string()
}

type Changes<'a> = &'a [(&'static str, &'static str)];

/// Asserts that each of these changes is rejected with all parts of its text. Lists all wrong rows.
fn assert_rejected(rows: &[(Changes<'_>, &[&str])]) {
    let wrong = rows.iter().filter_map(|(changes, expected)| {
        let text = match Config::from_vars(apps_with(changes)) {
            Ok(_) => return Some(format!("{changes:?} is not rejected")),
            Err(error) if error.is_config() && !error.is_transient() => error.to_string(),
            Err(error) => return Some(format!("{changes:?}: {error:?}")),
        };
        let missing = expected.iter().filter(|part| !text.contains(**part));
        let missing: Vec<_> = missing.collect();
        (!missing.is_empty()).then(|| format!("{changes:?}: {missing:?} is not in {text:?}"))
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_variables_of_databricks_apps_are_a_complete_configuration() {
    let config = Config::from_vars(APPS.iter().copied()).expect("a configuration");
    Lakebase::new(config).expect("a handle");
}

#[test]
fn an_invalid_target_names_its_variable_and_a_valid_value() {
    assert_rejected(&[
        (
            &[("LAKEBASE_ENDPOINT", "projects/shop")],
            &[
                "LAKEBASE_ENDPOINT",
                "projects/{project}/branches/{branch}/endpoints/{endpoint}",
            ],
        ),
        (
            &[(
                "LAKEBASE_ENDPOINT",
                "instance-0f3e.database.cloud.databricks.com",
            )],
            &["LAKEBASE_ENDPOINT", "host name", "LAKEBASE_INSTANCE_NAME"],
        ),
        (
            &[("PGPASSWORD", "secret")],
            &["LAKEBASE_ENDPOINT", "PGPASSWORD", "unset one"],
        ),
        (
            &[(
                "PGHOST",
                "ep-1-pooler.database.us-east-1.cloud.databricks.com",
            )],
            &[
                "PGHOST",
                "pooled",
                "\"ep-1.database.us-east-1.cloud.databricks.com\"",
            ],
        ),
        (
            &[("PGHOST", "https://ep-1.example.com")],
            &["PGHOST", "host name"],
        ),
        (
            &[("PGHOST", "ep-1.example.com:5432")],
            &["PGHOST", "PGPORT"],
        ),
        (
            &[("LAKEBASE_ENDPOINT", ""), ("PGHOST", "")],
            &["no target", "LAKEBASE_ENDPOINT", "PGHOST"],
        ),
        (
            &[("LAKEBASE_ENDPOINT", "")],
            &["PGHOST", "LAKEBASE_ENDPOINT", "PGPASSWORD"],
        ),
        (
            &[("LAKEBASE_INSTANCE_NAME", "orders")],
            &["LAKEBASE_ENDPOINT", "LAKEBASE_INSTANCE_NAME", "Provisioned"],
        ),
        (
            &[("LAKEBASE_PG_URL", "mysql://x")],
            &["LAKEBASE_PG_URL", "mysql", "postgresql"],
        ),
    ]);
}

#[test]
fn an_invalid_postgres_setting_names_its_variable_and_valid_values() {
    assert_rejected(&[
        (
            &[("PGSSLMODE", "on")],
            &["PGSSLMODE", "\"on\"", "require", "verify-full"],
        ),
        (
            &[("PGSSLMODE", "disable")],
            &["PGSSLMODE", "disable", "loopback"],
        ),
        (&[("PGPORT", "five")], &["PGPORT", "\"five\"", "1 to 65535"]),
        (
            &[("PGPORT", "70000")],
            &["PGPORT", "\"70000\"", "1 to 65535"],
        ),
        (&[("PGPORT", "0")], &["PGPORT", "\"0\"", "1 to 65535"]),
        (&[("PGHOSTADDR", "ep-1")], &["PGHOSTADDR", "IP address"]),
        (
            &[("PGSSLROOTCERT", "/nowhere/ca.pem")],
            &["PGSSLROOTCERT", "cannot read /nowhere/ca.pem", "system"],
        ),
        (
            &[("PGCONNECT_TIMEOUT", "-1")],
            &["PGCONNECT_TIMEOUT", "positive number of seconds"],
        ),
    ]);
}

#[test]
fn an_invalid_workspace_host_names_its_variable() {
    assert_rejected(&[
        (&[("DATABRICKS_HOST", "")], &["DATABRICKS_HOST", "empty"]),
        (
            &[("DATABRICKS_HOST", "http://dbc-1.cloud.databricks.com")],
            &["DATABRICKS_HOST", "https"],
        ),
        (
            &[("DATABRICKS_HOST", "https://")],
            &["DATABRICKS_HOST", "workspace URL"],
        ),
        (
            &[("DATABRICKS_HOST", "ftp://x")],
            &["DATABRICKS_HOST", "workspace URL"],
        ),
    ]);
}

#[test]
fn an_invalid_client_id_or_secret_names_its_variable() {
    assert_rejected(&[
        (
            &[("DATABRICKS_CLIENT_SECRET", "")],
            &["DATABRICKS_CLIENT_SECRET", "empty"],
        ),
        (
            &[("DATABRICKS_CLIENT_ID", " ")],
            &["DATABRICKS_CLIENT_ID", "empty"],
        ),
        (
            &[("DATABRICKS_CLIENT_SECRET", "dose1234\n")],
            &["DATABRICKS_CLIENT_SECRET", "line break"],
        ),
    ]);
}

#[test]
fn an_impossible_authentication_names_its_settings_and_the_alternatives() {
    assert_rejected(&[
        (
            &[("DATABRICKS_TOKEN", "dapi1")],
            &["oauth and pat", "DATABRICKS_AUTH_TYPE"],
        ),
        (
            &[("DATABRICKS_AUTH_TYPE", "azure-cli")],
            &[
                "azure-cli auth: not configured",
                "DATABRICKS_AUTH_TYPE",
                "not on Azure",
            ],
        ),
        (
            &[("DATABRICKS_AUTH_TYPE", "external-browser")],
            &["DATABRICKS_AUTH_TYPE", "not supported", "oauth-m2m"],
        ),
        (
            &[("DATABRICKS_AUTH_TYPE", "x")],
            &[
                "auth type \"x\" not found, please check https://",
                "oauth-m2m",
            ],
        ),
        (
            &[("DATABRICKS_AUTH_TYPE", "pat")],
            &["DATABRICKS_TOKEN", "not set"],
        ),
    ]);
}

#[test]
fn no_error_repeats_a_secret() {
    for vars in [
        apps_with(&[("PGPASSWORD", "hush-hush")]),
        apps_with(&[("DATABRICKS_CLIENT_SECRET", "hush-hush ")]),
        apps_with(&[("DATABRICKS_TOKEN", "hush-hush")]),
        vec![(
            "LAKEBASE_PG_URL",
            "postgresql://u:hush-hush@host:notaport/d",
        )],
        vec![(
            "LAKEBASE_PG_URL",
            "postgresql://u:hush-hush@host/d?sslmode=on",
        )],
        vec![("LAKEBASE_PG_URL", "postgresql://u:hush-hush%FF@host/d")],
        vec![("LAKEBASE_PG_URL", "hush-hush")],
        vec![("LAKEBASE_PG_URL", "postgresql://u:p@hush-hush/word@host/d")],
        vec![("LAKEBASE_PG_URL", "postgresql://u:1?hush-hush@host/d")],
        vec![("LAKEBASE_PG_URL", "postgresql://u:1#hush-hush@host/d")],
        apps_with(&[("PGHOST", "postgresql://u:hush-hush@host/d")]),
        apps_with(&[("LAKEBASE_ENDPOINT", "postgresql://u:hush-hush@host/d")]),
        apps_with(&[("DATABRICKS_HOST", "https://u:hush-hush@x:44x")]),
        vec![
            ("DATABRICKS_HOST", "https://u:hush-hush@x"),
            ("LAKEBASE_ENDPOINT", ENDPOINT),
        ],
    ] {
        let error = Config::from_vars(vars.clone()).expect_err("rejected");
        assert!(
            !format!("{error:?} {error}").contains("hush-hush"),
            "{vars:?}: {error}"
        );
    }
}

#[test]
fn an_empty_secret_in_code_counts_as_unset() {
    let error = Config::builder()
        .endpoint(ENDPOINT)
        .workspace_host(HOST)
        .service_principal("id", "")
        .build()
        .expect_err("an empty secret");
    assert!(
        error
            .to_string()
            .contains("oauth-m2m is incomplete: DATABRICKS_CLIENT_SECRET is not set"),
        "{error}"
    );
}

/// A temporary file that is removed at the end, also of a test that fails.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("lakebase-core-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_root_certificate_file_must_contain_certificates() {
    let scratch = Scratch::new("roots.pem");
    let path = &scratch.0;
    let shown = path.display().to_string();
    for (content, expected) in [
        ("", "no certificate"),
        ("no PEM at all", "no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "is not a root certificate",
        ),
        (
            "-----BEGIN CERTIFICATE-----c2VjcmV0LWtleQ==-----END CERTIFICATE-----",
            "",
        ),
        ("-----BEGIN CERTIFICATE-----\nc2VjcmV0LWtleQ", ""),
    ] {
        std::fs::write(path, content).expect("a scratch file");
        let built = Config::builder()
            .url("postgresql://u:p@h/d")
            .root_certificates(path)
            .build();
        let error = built.expect_err(content);
        let text = format!("{error} {error:?}");
        for part in ["root_certificates", &shown, expected] {
            assert!(text.contains(part), "{content}: {text}");
        }
        for part in ["c2VjcmV0", "45, 45, 45"] {
            assert!(!text.contains(part), "{text}");
        }
    }
}

#[test]
fn code_overrides_the_url_and_the_url_overrides_the_environment() {
    let config = Config::builder()
        .host("code")
        .url("postgresql://url-user:p@url-host/url-db")
        .vars([
            ("PGHOST", "env-host"),
            ("PGUSER", "env-user"),
            ("PGPORT", "6000"),
            ("PGAPPNAME", "env-app"),
        ])
        .build()
        .expect("a configuration");
    let shown = format!("{config:?}");
    for part in ["\"code\"", "url-user", "url-db", "6000", "env-app"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}

#[test]
fn the_variables_of_the_endpoint_have_a_fixed_precedence() {
    for (name, alias) in [
        ("LAKEBASE_ENDPOINT", "DATABRICKS_LAKEBASE_ENDPOINT"),
        ("DATABRICKS_LAKEBASE_ENDPOINT", "ENDPOINT_NAME"),
    ] {
        let mut vars = apps_with(&[("LAKEBASE_ENDPOINT", "")]);
        vars.extend([(name, ENDPOINT), (alias, "nonsense")]);
        Config::from_vars(vars).expect(name);
        rejected(apps_with(&[("LAKEBASE_ENDPOINT", ""), (alias, "nonsense")]));
    }
}

#[test]
fn every_part_of_a_url_is_read() {
    let url =
        "postgres://ana%40example.com:p%25w@[::1]:6543/my%20db?application_name=a+b&sslmode=prefer";
    let shown = format!("{:?}", Config::from_url(url).expect("a URL"));
    for part in ["ana@example.com", "\"::1\"", "6543", "my db", "a+b"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    for (url, expected) in [
        ("postgresql://u:p@h/d?sslcert=x", "sslcert"),
        ("postgresql://u:p@/d", "empty host"),
        ("postgresql://:p@h/d", "no user"),
        ("postgresql://u@h/d", "PGPASSWORD"),
        ("not a url", "postgresql://user@host"),
    ] {
        let error = Config::from_url(url).expect_err(url).to_string();
        assert!(error.contains(expected), "{url}: {error}");
    }
}

#[test]
fn settings_that_the_platform_would_reject_are_rejected_when_configured() {
    let base = || {
        Config::builder()
            .endpoint(ENDPOINT)
            .workspace_host(HOST)
            .service_principal("id", "secret")
    };
    for (builder, expected) in [
        (base().token_ttl(Duration::from_secs(60)), "token_ttl"),
        (base().connect_timeout(Duration::ZERO), "connect_timeout"),
        (base().schema(""), "schema is empty"),
        (base().host("ep-1-pooler.example.com"), "pooled"),
    ] {
        let error = builder.build().expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_login_configured_in_code_overrides_that_of_the_environment() {
    Config::builder()
        .host("localhost")
        .user("app")
        .password("p")
        .vars(APPS.iter().copied())
        .build()
        .expect("a native password");
    Config::builder()
        .endpoint(ENDPOINT)
        .vars(APPS.iter().copied().chain([("PGPASSWORD", "p")]))
        .build()
        .expect("tokens");
}

#[test]
fn control_characters_are_rejected_by_name() {
    assert_rejected(&[
        (&[("PGUSER", "a\0b")], &["PGUSER"]),
        (&[("PGDATABASE", "a\nb")], &["PGDATABASE"]),
        (&[("PGAPPNAME", "a\rb")], &["PGAPPNAME"]),
        (
            &[("DATABRICKS_CLIENT_ID", "id\n")],
            &["DATABRICKS_CLIENT_ID"],
        ),
        (
            &[("DATABRICKS_WORKSPACE_ID", "1\n2")],
            &["DATABRICKS_WORKSPACE_ID"],
        ),
        (
            &[("DATABRICKS_CLIENT_ID", "a:b")],
            &["DATABRICKS_CLIENT_ID"],
        ),
        (&[("PGCONNECT_TIMEOUT", "1e19")], &["PGCONNECT_TIMEOUT"]),
    ]);
}

/// Variables with values that are valid in most combinations.
const ALL: &[(&str, &str)] = &[
    ("LAKEBASE_ENDPOINT", ENDPOINT),
    ("LAKEBASE_INSTANCE_NAME", "orders"),
    ("LAKEBASE_PG_URL", "postgresql://u:p@h/d"),
    ("PGHOST", "h"),
    ("PGHOSTADDR", "127.0.0.1"),
    ("PGPORT", "5432"),
    ("PGDATABASE", "d"),
    ("PGUSER", "u"),
    ("PGPASSWORD", "p"),
    ("PGSSLMODE", "require"),
    ("PGAPPNAME", "a"),
    ("PGCONNECT_TIMEOUT", "30"),
    ("DATABRICKS_HOST", HOST),
    ("DATABRICKS_TOKEN", "t"),
    ("DATABRICKS_CLIENT_ID", "c"),
    ("DATABRICKS_CLIENT_SECRET", "s"),
    ("DATABRICKS_OIDC_TOKEN_ENV", "X"),
    ("DATABRICKS_METADATA_SERVICE_URL", "http://localhost/x"),
    ("DATABRICKS_AUTH_TYPE", "pat"),
    ("DATABRICKS_CONFIG_PROFILE", "p"),
    ("DATABRICKS_AZURE_RESOURCE_ID", "/a/b/c"),
    ("ARM_USE_MSI", "true"),
    ("ARM_TENANT_ID", "t"),
    ("HTTPS_PROXY", "http://p"),
];

proptest::proptest! {
    #[test]
    fn any_environment_is_accepted_or_rejected_without_a_panic(
        used in proptest::collection::vec(0..ALL.len(), 0..8),
        odd in 0..ALL.len(),
        value in "\\PC{0,30}",
    ) {
        let usual = used.into_iter().map(|at| (ALL[at].0, ALL[at].1.to_owned()));
        let vars = usual.chain([(ALL[odd].0, value)]);
        if let Ok(config) = Config::from_vars(vars) {
            let _ = Lakebase::new(config);
        }
    }

    #[test]
    fn any_url_is_accepted_or_rejected_without_a_panic(text in "\\PC{0,60}") {
        let _ = Config::from_url(&text);
        let _ = Config::from_url(&format!("postgresql://{text}"));
        let _ = Config::from_url(&format!("postgresql://u:p@h/d?{text}"));
    }

    #[test]
    fn no_password_in_a_url_is_repeated_by_its_error(
        before in "[ -~]{0,6}",
        after in "[ -~]{0,6}",
        rest in "[ -~]{0,20}",
    ) {
        let url = format!("postgresql://u:{before}hush-hush{after}@host/d?{rest}");
        if let Err(error) = Config::from_url(&url) {
            let shown = format!("{error} {error:?}");
            proptest::prop_assert!(!shown.contains("hush-hush"), "{}", shown);
        }
    }
}

/// The value of a resolved setting.
fn setting(config: &Config, name: &str) -> Option<String> {
    let found = config.settings().iter().find(|known| known.name == name)?;
    Some(found.value.clone())
}

#[test]
fn a_host_in_the_environment_is_not_used_for_another_endpoint_in_code() {
    let other = "projects/shop/branches/dev/endpoints/primary";
    for (endpoint, keeps_host) in [(ENDPOINT, true), (other, false)] {
        let config = Config::builder()
            .endpoint(endpoint)
            .vars(APPS.iter().copied())
            .build()
            .expect("a configuration");
        assert_eq!(setting(&config, "host").is_some(), keeps_host, "{endpoint}");
        assert_eq!(setting(&config, "endpoint").as_deref(), Some(endpoint));
    }
    // Without an endpoint in the environment, its host may be this endpoint's.
    let host_only = [("PGHOST", "ep-2.example.com"), ("LAKEBASE_ENDPOINT", "")];
    let config = Config::builder()
        .endpoint(other)
        .vars(apps_with(&host_only))
        .build()
        .expect("a configuration");
    assert_eq!(
        setting(&config, "host").as_deref(),
        Some("ep-2.example.com")
    );
    let config = Config::builder()
        .endpoint(other)
        .host("ep-2.example.com")
        .vars(APPS.iter().copied())
        .build()
        .expect("a configuration");
    assert_eq!(
        setting(&config, "host").as_deref(),
        Some("ep-2.example.com")
    );
}

#[test]
fn a_url_in_place_of_a_name_is_rejected_and_not_repeated() {
    for name in ["PGDATABASE", "PGUSER", "PGAPPNAME", "LAKEBASE_SCHEMA"] {
        let error = rejected(apps_with(&[(name, "postgresql://me:sekrit@h/db")]));
        assert!(error.contains(name) && !error.contains("sekrit"), "{error}");
    }
}

#[test]
fn each_setting_is_reported_with_its_source() {
    let url = "postgresql://app:secret@localhost/shop?schema=app";
    let config = Config::from_url(url).expect("a configuration");
    let reported: Vec<_> = config
        .settings()
        .iter()
        .map(|known| (known.name, known.value.as_str(), known.source.as_str()))
        .collect();
    assert_eq!(
        reported,
        [
            ("host", "localhost", "url (host)"),
            ("port", "5432", "default"),
            ("database", "shop", "url (database)"),
            ("user", "app", "url (user)"),
            ("password", "***", "url (password)"),
            ("schema", "app", "url (schema)"),
        ]
    );
}

#[test]
fn a_secret_in_the_wrong_variable_is_never_shown() {
    let pat = "dapi0123456789abcdef0123456789abcdef";
    let secret = "dose0123456789abcdef0123456789abcdef";
    let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";
    for value in [pat, secret, jwt] {
        for name in [
            "PGUSER",
            "PGHOST",
            "PGPORT",
            "PGDATABASE",
            "PGAPPNAME",
            "PGSSLMODE",
            "LAKEBASE_ENDPOINT",
            "LAKEBASE_SCHEMA",
            "DATABRICKS_HOST",
            "DATABRICKS_CLIENT_ID",
            "DATABRICKS_WORKSPACE_ID",
            "DATABRICKS_AUTH_TYPE",
        ] {
            let text = match Config::from_vars(APPS.iter().copied().chain([(name, value)])) {
                Ok(config) => format!(
                    "{config:?} {:?} {:?}",
                    config.settings(),
                    config.sign_in_settings()
                ),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!text.contains(value), "{name}: {text}");
        }
    }
}

#[test]
fn the_error_of_an_unencoded_password_explains_the_encoding() {
    for url in [
        "postgresql://app:p?w@h/db",
        "postgresql://app:p/w@h/db",
        "postgresql://app:p#w@h/db",
        "postgresql://app:p@w@h/a/b",
    ] {
        let error = Config::from_url(url).expect_err(url).to_string();
        assert!(
            error.contains("%40") && !error.contains("p?w"),
            "{url}: {error}"
        );
    }
}

#[test]
fn a_name_that_postgres_would_truncate_is_rejected() {
    const LONG: &str = "a_name_that_is_so_long_that_postgres_would_cut_off_its_end_and_x";
    assert_eq!(LONG.len(), 64);
    for variable in ["LAKEBASE_SCHEMA", "PGDATABASE", "PGUSER"] {
        assert_rejected(&[(&[(variable, LONG)], &[variable, "64 bytes"])]);
        let fits = Config::from_vars(apps_with(&[(variable, &LONG[1..])]));
        fits.unwrap_or_else(|error| panic!("{variable}: {error}"));
    }
}

#[test]
fn a_schema_must_be_one_name_without_quotes() {
    let rows = [
        ("app,public", "list"),
        ("\"app\", public", "list"),
        ("\"app\"", "without quotes"),
        ("'app'", "without quotes"),
        ("\"$user\"", "without quotes"),
        (" app", "without quotes"),
        ("$user", "each role"),
        ("pg_catalog", "own schemas"),
    ];
    for (schema, word) in rows {
        assert_rejected(&[(&[("LAKEBASE_SCHEMA", schema)], &["LAKEBASE_SCHEMA", word])]);
    }
    for schema in ["app", "My \"App\"", "Läden", "$users", "a.b"] {
        let valid = Config::from_vars(apps_with(&[("LAKEBASE_SCHEMA", schema)]));
        valid.unwrap_or_else(|error| panic!("{schema}: {error}"));
    }
    let blank = Config::builder().vars(APPS.iter().copied()).schema(" ");
    let error = blank.build().expect_err("no name").to_string();
    assert!(error.contains("schema"), "{error}");
}

#[test]
fn the_names_in_a_url_are_checked_and_its_password_is_not_repeated() {
    let long = "x".repeat(64);
    for part in ["schema=app%2Cpublic", &format!("dbname={long}")] {
        let url = format!("postgresql://me:secret@db.example.com/?{part}");
        let error = Config::from_url(&url).expect_err("not a name");
        assert!(
            error.is_config() && !error.to_string().contains("secret"),
            "{error}"
        );
    }
}
