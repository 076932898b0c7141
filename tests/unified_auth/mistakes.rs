//! The three likeliest mistakes with each sign-in: something is missing, it is refused, nobody answers.
//! Each error names the strategy, where its settings came from, and the next step; never a secret.

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

fn check(local: &LocalLakebase, error: &Error, way: SignIn, parts: &[&str]) {
    let text = format!("{error} {error:?} {}", error.chain());
    for part in parts.iter().chain(&[way.name()]) {
        assert!(text.contains(part), "{way}: {part:?} is not in {error}");
    }
    for secret in local.secrets() {
        assert!(!text.contains(&secret), "{way}: a secret is in {error}");
    }
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let local = local().await;
    for (way, without, parts) in [
        (
            SignIn::Pat,
            "DATABRICKS_HOST",
            &["DATABRICKS_HOST is not set", "Env: DATABRICKS_TOKEN"][..],
        ),
        (
            SignIn::Basic,
            "DATABRICKS_PASSWORD",
            &["DATABRICKS_PASSWORD is not set"],
        ),
        (
            SignIn::OauthM2m,
            "DATABRICKS_CLIENT_SECRET",
            &["DATABRICKS_CLIENT_SECRET is not set"],
        ),
        (
            SignIn::EnvOidc,
            "DATABRICKS_OIDC_TOKEN",
            &[
                "DATABRICKS_OIDC_TOKEN is not set",
                "DATABRICKS_AUTH_TYPE asks",
            ],
        ),
        (
            SignIn::FileOidc,
            "DATABRICKS_OIDC_TOKEN_FILEPATH",
            &["DATABRICKS_OIDC_TOKEN_FILEPATH is not set"],
        ),
        (
            SignIn::GithubOidc,
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
            &[
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN is not set",
                "id-token: write",
            ],
        ),
        (
            SignIn::AzureClientSecret,
            "ARM_CLIENT_SECRET",
            &["ARM_CLIENT_SECRET is not set"],
        ),
        (
            SignIn::AzureMsi,
            "DATABRICKS_AZURE_RESOURCE_ID",
            &["is not known to be a workspace on Azure"],
        ),
        (
            SignIn::MetadataService,
            "DATABRICKS_HOST",
            &["DATABRICKS_HOST is not set"],
        ),
        (
            SignIn::DatabricksCli,
            "PATH",
            &[
                "the Databricks CLI is not installed",
                "databricks auth login",
            ],
        ),
        (
            SignIn::AzureCli,
            "PATH",
            &[
                "the Azure CLI is not installed",
                "DATABRICKS_AUTH_TYPE asks",
            ],
        ),
    ] {
        let mut vars = local.env_for(way);
        vars.retain(|(name, _)| name != without);
        let error = failure(&local, vars, &[]).await;
        check(&local, &error, way, parts);
        assert!(error.is_config() && !error.is_transient(), "{way}: {error}");
    }
}

#[tokio::test]
async fn what_is_refused_says_by_whom_and_what_to_do() {
    let local = local().await;
    let key = format!("{}/metadata-service/wrong", local.workspace_url());
    let folder = local
        .ca_file()
        .parent()
        .expect("a folder")
        .join("other-token");
    std::fs::write(&folder, "e30.e30.x").expect("a file");
    let file = folder.to_str().expect("UTF-8");
    for (way, changes, parts) in [
        (
            SignIn::Pat,
            &[("DATABRICKS_TOKEN", "dapi-wrong")][..],
            &[
                "expired, revoked",
                "token from DATABRICKS_TOKEN",
                "HTTP 401",
            ][..],
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
                "GitHub did not hand out",
                "id-token: write",
                "from ACTIONS_ID_TOKEN_REQUEST_URL",
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
            &[("DATABRICKS_METADATA_SERVICE_URL", key.as_str())],
            &[
                "the metadata service refused",
                "sign in again there",
                "from DATABRICKS_METADATA_SERVICE_URL",
            ],
        ),
    ] {
        let error = failure(&local, local.env_for(way), changes).await;
        check(&local, &error, way, parts);
        assert!(
            !error.is_config() && !error.is_transient(),
            "{way}: {error:?}"
        );
    }
    for (way, parts) in [
        (
            SignIn::DatabricksCli,
            &[
                "cannot get access token",
                "no such login",
                "databricks auth login",
            ][..],
        ),
        (
            SignIn::AzureCli,
            &["cannot get access token", "no such login", "az login"],
        ),
    ] {
        local.fail(Call::Cli, Fault::status(400, "E", "no such login"));
        let error = failure(&local, local.env_for(way), &[]).await;
        check(&local, &error, way, parts);
        assert!(error.is_sign_in(), "{way}: {error:?}");
        local.heal(Call::Cli);
    }
}

#[tokio::test]
async fn nobody_answering_is_told_apart_and_trying_again_can_help() {
    let local = local().await;
    // A port that is ours, and that nobody listens on.
    let reserved = tokio::net::TcpSocket::new_v4().expect("a socket");
    reserved
        .bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("a port");
    let free = reserved.local_addr().expect("an address");
    let gone = format!("http://{free}");
    let (service, tokens) = (format!("{gone}/key-hush"), format!("{gone}/token?x=1"));
    for (way, changes) in [
        (SignIn::Pat, &[("DATABRICKS_HOST", gone.as_str())][..]),
        (SignIn::Basic, &[("DATABRICKS_HOST", &gone)]),
        (SignIn::OauthM2m, &[("DATABRICKS_HOST", &gone)]),
        (SignIn::EnvOidc, &[("DATABRICKS_HOST", &gone)]),
        (SignIn::FileOidc, &[("DATABRICKS_HOST", &gone)]),
        (
            SignIn::GithubOidc,
            &[("ACTIONS_ID_TOKEN_REQUEST_URL", &tokens)],
        ),
        (
            SignIn::MetadataService,
            &[("DATABRICKS_METADATA_SERVICE_URL", &service)],
        ),
    ] {
        let error = failure(&local, local.env_for(way), changes).await;
        let reached = format!("cannot reach {gone}");
        check(
            &local,
            &error,
            way,
            &[reached.as_str(), "host from DATABRICKS_HOST"],
        );
        assert!(!error.to_string().contains("hush"), "{error}");
        assert!(
            error.is_transient() && !error.is_sign_in(),
            "{way}: {error}"
        );
    }
    for way in [SignIn::AzureClientSecret, SignIn::AzureMsi] {
        local.fail(Call::Entra, Fault::Reset);
        let error = failure(
            &local,
            local.env_for(way),
            &[("ARM_TENANT_ID", "local-tenant")],
        )
        .await;
        check(
            &local,
            &error,
            way,
            &["cannot reach", "host from DATABRICKS_HOST"],
        );
        assert!(error.is_transient(), "{way}: {error}");
        local.heal(Call::Entra);
    }
    // The tools are there, but what they ask is not.
    for way in [SignIn::DatabricksCli, SignIn::AzureCli] {
        local.fail(Call::Cli, Fault::Reset);
        let error = failure(&local, local.env_for(way), &[]).await;
        check(&local, &error, way, &["cannot get access token"]);
        local.heal(Call::Cli);
    }
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
    check(&local, &error, SignIn::Pat, &[source.as_str(), "HTTP 401"]);
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
    // The key of a metadata service comes back in pages and redirects.
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
            .expect_err("refused");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    }
}
