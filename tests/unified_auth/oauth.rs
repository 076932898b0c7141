//! OAuth: client credentials and token federation.

use crate::home::Home;
use crate::stub::{Answer, CREDENTIALS, Seen, Stub, TOKEN};
use crate::{Pairs, X, configured, handle};

const M2M: Pairs<'static> = &[("client_id", "b"), ("client_secret", "c")];

async fn outcome(stub: &Stub, explicit: Pairs<'_>, vars: Pairs<'_>) -> Result<(), String> {
    let mut all = vec![("host", stub.url.as_str())];
    all.extend(explicit);
    let lakebase = handle(&all, vars);
    let minted = lakebase.credential().await;
    minted.map(drop).map_err(|error| error.to_string())
}

fn fields(seen: &Seen) -> Vec<String> {
    let mut names: Vec<String> = seen
        .body
        .split('&')
        .filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn client_credentials_are_sent_in_the_header_and_the_token_type_is_kept() {
    for (kind, expected) in [
        ("Some", "Some cde"),
        ("bearer", "Bearer cde"),
        ("", "Bearer cde"),
    ] {
        let reply = format!(
            "{{\"access_token\":\"cde\",\"token_type\":\"{kind}\",\"expires_in\":\"3600\"}}"
        );
        let stub =
            Stub::start(move |seen| (seen.path == TOKEN).then(|| Answer::json(reply.clone())))
                .await;
        outcome(&stub, M2M, &[]).await.expect("a credential");
        let sent = stub.last(TOKEN);
        assert_eq!(sent.header("authorization"), "Basic Yjpj");
        assert_eq!(sent.body, "grant_type=client_credentials&scope=all-apis");
        let sent = stub.last(CREDENTIALS);
        assert_eq!(sent.header("authorization"), expected);
        assert_eq!(sent.header("accept"), "application/json");
        assert_eq!(sent.header("content-type"), "application/json");
    }
}

#[tokio::test]
async fn without_a_usable_expires_on_the_lifetime_of_a_token_is_its_expires_in() {
    let rejected = "the authentication reply is unusable: `expires_on` is not a time";
    for (expiry, problem) in [
        (r#""expires_on":null,"expires_in":3600"#, None),
        (r#""expires_on":"soon","expires_in":3600"#, None),
        (r#""expires_on":"soon","expires_in":0"#, Some(rejected)),
        (r#""expires_on":"soon""#, Some(rejected)),
    ] {
        let reply = format!("{{\"access_token\":\"cde\",\"token_type\":\"Bearer\",{expiry}}}");
        let stub =
            Stub::start(move |seen| (seen.path == TOKEN).then(|| Answer::json(reply.clone())))
                .await;
        let outcome = outcome(&stub, M2M, &[]).await;
        match problem {
            None => outcome.expect(expiry),
            Some(problem) => {
                let error = outcome.expect_err(expiry);
                assert!(error.contains(problem), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_group_role_and_authorization_details_are_sent_in_the_form() {
    let stub = Stub::workspace().await;
    let mut explicit = M2M.to_vec();
    explicit.extend([("group_id", "g 1"), ("authorization_details", "[{}]")]);
    outcome(&stub, &explicit, &[]).await.expect("a credential");
    let sent = stub.last(TOKEN);
    assert_eq!(sent.field("assume_group").as_deref(), Some("g 1"));
    assert_eq!(sent.field("authorization_details").as_deref(), Some("[{}]"));
    let explicit = [("host", "https://x"), ("token", "t"), ("group_id", "g")];
    let error = configured(&explicit, &[])
        .expect_err("not supported")
        .to_string();
    let expected = "does not support group role assumption";
    assert!(error.contains(expected) && error.contains("pat"), "{error}");
}

#[tokio::test]
async fn a_rejected_secret_is_reported_at_first_use_with_the_servers_message() {
    let refusal =
        r#"{"error":"invalid_client","error_description":"Client authentication failed"}"#;
    let stub = Stub::start(move |seen| {
        (seen.path == TOKEN)
            .then(|| Answer::new(401, refusal).with("content-type", "application/json"))
    })
    .await;
    let wrong = [("client_id", "b"), ("client_secret", "hush-hush")];
    let error = outcome(&stub, &wrong, &[]).await.expect_err("rejected");
    for part in [
        "oauth-m2m",
        "invalid_client",
        "Client authentication failed",
        "client_secret from",
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    assert_eq!(stub.seen(TOKEN).len(), 1, "no retry");
}

#[tokio::test]
async fn an_identity_token_is_sent_without_a_client_secret() {
    let stub = Stub::workspace().await;
    let vars = [("DATABRICKS_OIDC_TOKEN", "id-token-42")];
    let forced = ("auth_type", "env-oidc");
    outcome(&stub, &[("client_id", "client-id"), forced], &vars)
        .await
        .expect("a credential");
    let sent = stub.last(TOKEN);
    let all = [
        "client_id",
        "grant_type",
        "scope",
        "subject_token",
        "subject_token_type",
    ];
    assert_eq!(fields(&sent), all);
    assert_eq!(sent.header("authorization"), "");
    for (name, value) in [
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("subject_token", "id-token-42"),
        ("client_id", "client-id"),
        ("scope", "all-apis"),
    ] {
        assert_eq!(sent.field(name).as_deref(), Some(value), "{name}");
    }
    outcome(&stub, &[], &vars).await.expect("a credential");
    assert_eq!(fields(&stub.last(TOKEN)), all[1..]);
}

#[tokio::test]
async fn the_default_audience_is_the_token_endpoint() {
    let stub =
        Stub::start(|seen| (seen.path == "/id").then(|| Answer::json("{\"value\":\"jwt\"}"))).await;
    let url = format!("{}/id?x=1", stub.url);
    let vars = [
        ("ACTIONS_ID_TOKEN_REQUEST_URL", url.as_str()),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "job"),
        ("DATABRICKS_CLIENT_ID", "c"),
    ];
    outcome(&stub, &[], &vars).await.expect("a credential");
    let request = stub.last("/id");
    assert_eq!(
        request.field("audience"),
        Some(format!("{}{TOKEN}", stub.url))
    );
    assert_eq!(request.field("x").as_deref(), Some("1"));
    assert_eq!(request.header("authorization"), "Bearer job");
    assert_eq!(
        stub.last(TOKEN).field("subject_token").as_deref(),
        Some("jwt")
    );
}

#[tokio::test]
async fn a_missing_identity_token_is_an_error() {
    let stub = Stub::workspace().await;
    let home = Home::new();
    let path = format!("{}/jwt", home.as_str());
    let explicit = [("oidc_token_filepath", path.as_str())];
    let error = outcome(&stub, &explicit, &[]).await.expect_err("missing");
    assert!(
        error.contains(&format!("file {path} does not exist")),
        "{error}"
    );
    std::fs::write(&path, " \n").expect("a file");
    let error = outcome(&stub, &explicit, &[]).await.expect_err("empty");
    assert!(error.contains(&format!("file {path} is empty")), "{error}");
    // Each exchange reads the file, and trims the token.
    std::fs::write(&path, "jwt\n").expect("a file");
    outcome(&stub, &explicit, &[]).await.expect("a credential");
    assert_eq!(
        stub.last(TOKEN).field("subject_token").as_deref(),
        Some("jwt")
    );

    let host = ("host", "https://x");
    for (explicit, vars) in [
        (&[host, ("oidc_token_env", "MINE")][..], &[("MINE", "")][..]),
        (&[host, ("auth_type", "file-oidc")], &[]),
        (
            &[host, ("auth_type", "env-oidc")],
            &[("DATABRICKS_OIDC_TOKEN", "")],
        ),
    ] {
        configured(explicit, vars).expect_err("nothing to exchange");
    }
}

#[test]
fn an_ambiguous_configuration_is_rejected_unless_the_auth_type_is_set() {
    let host = ("DATABRICKS_HOST", "https://x");
    let (id, secret) = (
        ("DATABRICKS_CLIENT_ID", "c"),
        ("DATABRICKS_CLIENT_SECRET", "s"),
    );
    let default = ("DATABRICKS_OIDC_TOKEN", "jwt");
    let (by_name, mine) = (("DATABRICKS_OIDC_TOKEN_ENV", "MINE"), ("MINE", "jwt"));
    let file = ("DATABRICKS_OIDC_TOKEN_FILEPATH", "/f");
    let forced = ("DATABRICKS_AUTH_TYPE", "env-oidc");
    for (vars, expected) in [
        (&[host, id, secret, default][..], Ok("oauth-m2m")),
        (&[host, id, by_name, mine], Err("env-oidc and oauth")),
        (&[host, id, file], Err("file-oidc and oauth")),
        (&[host, id, by_name, mine, forced], Ok("env-oidc")),
    ] {
        match (configured(&[], vars), expected) {
            (Ok(config), Ok(expected)) => {
                assert_eq!(config.auth_type(), Some(expected), "{vars:?}")
            }
            (Err(error), Err(families)) => {
                let expected = format!("{X}{families}. Config: ");
                assert!(error.to_string().starts_with(&expected), "{error}");
            }
            (outcome, _) => panic!("{vars:?}: {outcome:?}"),
        }
    }
}

#[test]
fn every_pair_of_identities_is_rejected_and_both_are_named() {
    let families = [
        ("pat", "token"),
        ("basic", "username"),
        ("oauth", "client_id"),
        ("azure", "azure_tenant_id"),
        ("google", "google_service_account"),
        ("metadata-service", "metadata_service_url"),
        ("env-oidc", "oidc_token_env"),
        ("file-oidc", "oidc_token_filepath"),
    ];
    let mut pairs = 0;
    for (at, (first, one)) in families.iter().enumerate() {
        for (second, other) in &families[at + 1..] {
            let mut names = [*first, *second];
            names.sort_unstable();
            let explicit = [("host", "https://x"), (*one, "x"), (*other, "x")];
            let error = configured(&explicit, &[])
                .expect_err("two identities")
                .to_string();
            let expected = format!("{X}{} and {}. Config: ", names[0], names[1]);
            assert!(
                error.starts_with(&expected),
                "{error}\ndoes not begin with {expected}"
            );
            pairs += 1;
        }
    }
    assert_eq!(pairs, 28);
}

#[tokio::test]
async fn each_exchange_uses_a_new_identity_token() {
    // A workspace token is accepted once, so each mint needs an exchange.
    let used = std::sync::Mutex::new(std::collections::HashSet::new());
    let stub = Stub::start(move |seen| match seen.path.as_str() {
        CREDENTIALS => {
            let bearer = seen.header("authorization").to_owned();
            let is_new = used.lock().expect("not poisoned").insert(bearer);
            (!is_new).then(|| Answer::new(401, ""))
        }
        "/id" => Some(Answer::json(format!(
            "{{\"value\":\"job-{}\"}}",
            seen.count
        ))),
        _ => None,
    })
    .await;
    let home = Home::new();
    let path = format!("{}/jwt", home.as_str());
    let url = format!("{}/id", stub.url);
    let file = [("oidc_token_filepath", path.as_str())];
    let github = [
        ("client_id", "c"),
        ("actions_id_token_request_url", url.as_str()),
        ("actions_id_token_request_token", "t"),
    ];
    for (explicit, name) in [(&file[..], "file"), (&github, "job")] {
        let mut all = vec![("host", stub.url.as_str())];
        all.extend(explicit);
        let lakebase = handle(&all, &[]);
        for round in 1..=2 {
            std::fs::write(&path, format!("file-{round}")).expect("a file");
            let held = lakebase.credential().await.expect("a credential");
            let sent = stub.last(TOKEN).field("subject_token");
            assert_eq!(sent, Some(format!("{name}-{round}")));
            lakebase_core::adapter::accept(&held);
            lakebase_core::adapter::reject(&lakebase, &held);
        }
    }
    assert_eq!(stub.seen("/id").len(), 2, "one for each exchange");
}

#[tokio::test]
async fn a_workspace_token_is_reused_until_it_expires() {
    let local = lakebase_tests::local().await;
    let mut vars = local.env_for(lakebase_local::SignIn::EnvOidc);
    vars.push(("PGHOST".to_owned(), "localhost".to_owned()));
    let config = lakebase_core::Config::from_vars(vars).expect("a configuration");
    let lakebase = lakebase_core::Lakebase::new(config).expect("a handle");
    for _ in 0..6 {
        local.revoke_tokens();
        lakebase.connect().await.map(drop).expect("a login");
    }
    let counters = local.counters();
    assert!(counters.minted >= 6, "{counters:?}");
    assert_eq!(counters.token_calls, 1, "{counters:?}");
    local.expire_workspace_tokens();
    local.revoke_tokens();
    lakebase.connect().await.map(drop).expect("a login");
    assert_eq!(local.counters().token_calls, 2);
}
