//! The three most likely mistakes with each strategy: a setting is missing, the server rejects it, or the server is
//! unreachable. Each error names the strategy, the source of its settings and the next step, and contains no secret.

use futures_util::future::join_all;
use lakebase_core::{Config, Error, Lakebase};
use lakebase_local::{Call, Fault, LocalLakebase, SignIn};
use lakebase_tests::{local, soon};

use crate::strategies::azure;

type Vars = Vec<(String, String)>;

async fn failure(local: &LocalLakebase, vars: Vars, changes: &[(&str, &str)]) -> Error {
    let changes = changes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let builder = Config::builder()
        .vars(vars.into_iter().chain(changes))
        .azure_endpoints(azure(local));
    let config = match builder.build() {
        Ok(config) => config,
        Err(error) => return error,
    };
    let lakebase = Lakebase::new(config).expect("a handle");
    soon(lakebase.credential())
        .await
        .map(drop)
        .expect_err("a mistake")
}

type Rows<'a> = &'a [(SignIn, &'a [(&'a str, &'a str)], &'a [&'a str])];

/// Authenticates with each of these changes; an empty value removes the variable. Lists every error that lacks a part of
/// its text, contains a secret, or is of another kind.
async fn assert_each(local: &LocalLakebase, is_right_kind: fn(&Error) -> bool, rows: Rows<'_>) {
    let rows = rows.iter().map(async |(way, changes, parts)| {
        let mut vars = local.env_for(*way);
        vars.retain(|(name, _)| !changes.contains(&(name.as_str(), "")));
        let set: Vec<_> = changes
            .iter()
            .copied()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let error = failure(local, vars, &set).await;
        let is_right = is_right(local, &error, *way, parts) && is_right_kind(&error);
        (!is_right).then(|| format!("{way}: {error:?}"))
    });
    // Together, because each retries for a second.
    let wrong: Vec<_> = join_all(rows).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn is_right(local: &LocalLakebase, error: &Error, way: SignIn, parts: &[&str]) -> bool {
    let text = format!("{error} {error:?} {}", error.chain());
    let secrets = local.secrets();
    parts.iter().all(|part| text.contains(part))
        && text.contains(way.name())
        && !secrets.iter().any(|secret| text.contains(secret))
}

#[tokio::test]
async fn a_missing_setting_is_named() {
    let is_right_kind = |error: &Error| error.is_config() && !error.is_transient();
    let rows: Rows<'_> = &[
        (
            SignIn::Pat,
            &[("DATABRICKS_HOST", "")],
            &["DATABRICKS_HOST is not set", "Env: DATABRICKS_TOKEN"],
        ),
        (
            SignIn::Basic,
            &[("DATABRICKS_PASSWORD", "")],
            &["DATABRICKS_PASSWORD is not set"],
        ),
        (
            SignIn::OauthM2m,
            &[("DATABRICKS_CLIENT_SECRET", "")],
            &["DATABRICKS_CLIENT_SECRET is not set"],
        ),
        (
            SignIn::EnvOidc,
            &[("DATABRICKS_OIDC_TOKEN", "")],
            &[
                "DATABRICKS_OIDC_TOKEN is not set",
                "DATABRICKS_AUTH_TYPE selects",
            ],
        ),
        (
            SignIn::FileOidc,
            &[("DATABRICKS_OIDC_TOKEN_FILEPATH", "")],
            &["DATABRICKS_OIDC_TOKEN_FILEPATH is not set"],
        ),
        (
            SignIn::GithubOidc,
            &[("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")],
            &[
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN is not set",
                "id-token: write",
            ],
        ),
        (
            SignIn::AzureClientSecret,
            &[("ARM_CLIENT_SECRET", "")],
            &["ARM_CLIENT_SECRET is not set"],
        ),
        (
            SignIn::AzureMsi,
            &[("DATABRICKS_AZURE_RESOURCE_ID", "")],
            &["is not known to be a workspace on Azure"],
        ),
        (
            SignIn::MetadataService,
            &[("DATABRICKS_HOST", "")],
            &["DATABRICKS_HOST is not set"],
        ),
    ];
    assert_each(&local().await, is_right_kind, rows).await;
}

#[tokio::test]
async fn a_missing_command_line_tool_is_named() {
    let is_right_kind = |error: &Error| error.is_config() && !error.is_transient();
    let rows: Rows<'_> = &[
        (
            SignIn::DatabricksCli,
            &[("PATH", "")],
            &[
                "the Databricks CLI is not installed",
                "databricks auth login",
            ],
        ),
        (
            SignIn::AzureCli,
            &[("PATH", "")],
            &[
                "the Azure CLI is not installed",
                "DATABRICKS_AUTH_TYPE selects",
            ],
        ),
    ];
    assert_each(&local().await, is_right_kind, rows).await;
}

fn is_rejection(error: &Error) -> bool {
    !error.is_config() && !error.is_transient()
}

#[tokio::test]
async fn a_rejected_secret_is_reported_with_its_source_and_the_next_step() {
    let local = local().await;
    let key = format!("{}/metadata-service/wrong", local.workspace_url());
    let rows: Rows<'_> = &[
        (
            SignIn::Pat,
            &[("DATABRICKS_TOKEN", "dapi-wrong")],
            &[
                "expired, revoked",
                "token from DATABRICKS_TOKEN",
                "HTTP 401",
            ],
        ),
        (
            SignIn::Basic,
            &[("DATABRICKS_PASSWORD", "wrong")],
            &["Check user name", "password from DATABRICKS_PASSWORD"],
        ),
        (
            SignIn::OauthM2m,
            &[("DATABRICKS_CLIENT_SECRET", "wrong")],
            &[
                "invalid_client",
                "client_secret from DATABRICKS_CLIENT_SECRET",
                "Check client id and secret",
            ],
        ),
        (
            SignIn::AzureClientSecret,
            &[("ARM_CLIENT_SECRET", "wrong")],
            &[
                "AADSTS7000215",
                "Check tenant, client id and secret",
                "azure_client_secret from ARM_CLIENT_SECRET",
            ],
        ),
        (
            SignIn::AzureMsi,
            &[("ARM_CLIENT_ID", "another")],
            &["Identity not found", "azure_client_id from ARM_CLIENT_ID"],
        ),
        (
            SignIn::MetadataService,
            &[("DATABRICKS_METADATA_SERVICE_URL", &key)],
            &[
                "the metadata service rejected the request",
                "Authenticate again in the program",
                "from DATABRICKS_METADATA_SERVICE_URL",
            ],
        ),
    ];
    assert_each(&local, is_rejection, rows).await;
}

#[tokio::test]
async fn a_rejected_identity_token_is_reported_with_its_source_and_the_next_step() {
    let local = local().await;
    let folder = local.ca_file().parent().expect("a folder");
    let file = folder.join("other-token");
    std::fs::write(&file, "e30.e30.x").expect("a file");
    let file = file.to_str().expect("UTF-8");
    let rows: Rows<'_> = &[
        (
            SignIn::EnvOidc,
            &[("DATABRICKS_OIDC_TOKEN", "e30.e30.x")],
            &[
                "no federation policy matches",
                "Check the federation policy",
            ],
        ),
        (
            SignIn::FileOidc,
            &[("DATABRICKS_OIDC_TOKEN_FILEPATH", file)],
            &[
                "no federation policy matches",
                "from DATABRICKS_OIDC_TOKEN_FILEPATH",
            ],
        ),
        (
            SignIn::GithubOidc,
            &[("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "wrong")],
            &[
                "GitHub returned no identity token",
                "id-token: write",
                "from ACTIONS_ID_TOKEN_REQUEST_URL",
            ],
        ),
    ];
    assert_each(&local, is_rejection, rows).await;
}

#[tokio::test]
async fn a_command_line_tool_that_is_not_logged_in_is_reported_with_the_command_to_log_in() {
    let local = local().await;
    local.fail(Call::Cli, Fault::status(400, "E", "no such login"));
    let rows: Rows<'_> = &[
        (
            SignIn::DatabricksCli,
            &[],
            &[
                "cannot get access token",
                "no such login",
                "databricks auth login",
            ],
        ),
        (
            SignIn::AzureCli,
            &[],
            &["cannot get access token", "no such login", "az login"],
        ),
    ];
    assert_each(&local, Error::is_sign_in, rows).await;
}

#[tokio::test]
async fn an_unreachable_server_is_named_and_the_error_is_transient() {
    let local = local().await;
    // A reserved port without a listener.
    let reserved = tokio::net::TcpSocket::new_v4().expect("a socket");
    reserved
        .bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("a port");
    let free = reserved.local_addr().expect("an address");
    let gone = format!("http://{free}");
    let (service, tokens) = (format!("{gone}/key-hush"), format!("{gone}/token?x=1"));
    let unreachable = format!("cannot reach {gone}");
    let parts = &[unreachable.as_str(), "host from DATABRICKS_HOST"][..];
    let host = &[("DATABRICKS_HOST", gone.as_str())][..];
    let is_right_kind = |error: &Error| {
        error.is_transient() && !error.is_sign_in() && !error.to_string().contains("hush")
    };
    let rows: Rows<'_> = &[
        (SignIn::Pat, host, parts),
        (SignIn::Basic, host, parts),
        (SignIn::OauthM2m, host, parts),
        (SignIn::EnvOidc, host, parts),
        (SignIn::FileOidc, host, parts),
        (
            SignIn::GithubOidc,
            &[("ACTIONS_ID_TOKEN_REQUEST_URL", &tokens)],
            parts,
        ),
        (
            SignIn::MetadataService,
            &[("DATABRICKS_METADATA_SERVICE_URL", &service)],
            parts,
        ),
    ];
    assert_each(&local, is_right_kind, rows).await;
}

#[tokio::test]
async fn an_unreachable_entra_id_is_a_transient_error() {
    let local = local().await;
    local.fail(Call::Entra, Fault::Reset);
    let tenant = &[("ARM_TENANT_ID", "local-tenant")][..];
    let parts = &["cannot reach", "host from DATABRICKS_HOST"][..];
    let rows: Rows<'_> = &[
        (SignIn::AzureClientSecret, tenant, parts),
        (SignIn::AzureMsi, tenant, parts),
    ];
    assert_each(&local, Error::is_transient, rows).await;
}

/// The tools are installed, but their servers are unreachable.
#[tokio::test]
async fn a_command_line_tool_without_a_network_is_named() {
    let local = local().await;
    local.fail(Call::Cli, Fault::Reset);
    let parts = &["cannot get access token"][..];
    let rows: Rows<'_> = &[
        (SignIn::DatabricksCli, &[], parts),
        (SignIn::AzureCli, &[], parts),
    ];
    assert_each(&local, |_| true, rows).await;
}

#[tokio::test]
async fn a_profile_is_named_with_its_file() {
    let local = local().await;
    let home = crate::home::Home::with_profiles(&format!(
        "[dev]\nhost = {}\ntoken = dapi-wrong\n",
        local.workspace_url()
    ));
    let vars = vec![
        ("HOME".to_owned(), home.as_str().to_owned()),
        ("LAKEBASE_ENDPOINT".to_owned(), local.endpoint()),
    ];
    let error = failure(&local, vars, &[("DATABRICKS_CONFIG_PROFILE", "dev")]).await;
    let source = format!("token from profile dev in {} (token)", home.profile_file());
    let parts = [source.as_str(), "HTTP 401"];
    assert!(is_right(&local, &error, SignIn::Pat, &parts), "{error:?}");
    let text = error.to_string();
    assert!(
        !text.contains("dapi-wrong") && !text.contains("DATABRICKS_TOKEN"),
        "{text}"
    );
}

#[tokio::test]
async fn a_secret_in_the_wrong_place_is_not_repeated() {
    let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJodXNoIn0.c2lnbmF0dXJl";
    let host = ("DATABRICKS_HOST", "https://x");
    for vars in [
        &[host, ("DATABRICKS_OIDC_TOKEN_ENV", jwt)][..],
        &[
            host,
            ("DATABRICKS_OIDC_TOKEN_FILEPATH", jwt),
            ("DATABRICKS_TOKEN", "t"),
        ],
        &[
            host,
            ("DATABRICKS_CLIENT_ID", "id:hush-hush"),
            ("DATABRICKS_CLIENT_SECRET", "s"),
        ],
        &[
            host,
            ("DATABRICKS_CLIENT_ID", "id:hush-hush"),
            ("DATABRICKS_TOKEN", "t"),
        ],
        &[
            ("DATABRICKS_HOST", "https://u:hush-hush@x"),
            ("HOME", "/nowhere"),
            ("DATABRICKS_CONFIG_FILE", "/dev/null"),
            ("DATABRICKS_CONFIG_PROFILE", "p"),
        ],
    ] {
        let error = crate::configured(&[], vars).expect_err("a mistake");
        let text = format!("{error} {error:?}");
        assert!(
            !text.contains("eyJ") && !text.contains("hush-hush"),
            "{text}"
        );
    }
    // Pages and redirects may repeat the key of a metadata service.
    for answer in [
        crate::stub::Answer::new(404, "<html><pre>Cannot GET /key-hush-hush/t</pre></html>"),
        crate::stub::Answer::new(301, "").with("location", "/key-hush-hush/t/"),
    ] {
        let stub = crate::stub::Stub::start(move |_| Some(answer.clone())).await;
        let url = format!("{}/key-hush-hush/t", stub.url);
        let explicit = [("host", stub.url.as_str()), ("metadata_service_url", &url)];
        let error = crate::handle(&explicit, &[])
            .credential()
            .await
            .expect_err("rejected");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    }
}
