//! Settings that are not configured are looked up in the workspace.

use lakebase_local::{Call, EventKind, Fault};
use lakebase_tests::{lakebase, lakebase_with, local, session, soon};

#[tokio::test]
async fn an_unset_host_is_looked_up_once() {
    let local = local().await;
    let lakebase = lakebase_with(&local, &[("PGHOST", "")]);
    for _ in 0..3 {
        soon(lakebase.connect()).await.map(drop).expect("a login");
    }
    assert_eq!(
        lakebase.target().await.expect("resolved").host(),
        "localhost"
    );
    let lookups = local.events().into_iter().filter(|event| {
        matches!(
            event.kind,
            EventKind::Api {
                call: Call::Endpoint,
                ..
            }
        )
    });
    assert_eq!(lookups.count(), 1);
}

#[tokio::test]
async fn with_a_personal_access_token_the_user_name_comes_from_the_workspace() {
    let local = local().await;
    let lakebase = lakebase_with(
        &local,
        &[
            ("DATABRICKS_CLIENT_ID", ""),
            ("DATABRICKS_CLIENT_SECRET", ""),
            ("PGUSER", ""),
            ("DATABRICKS_TOKEN", local.user_token()),
        ],
    );
    let client = session(&lakebase).await;
    let row = client
        .query_one("SELECT current_user::text", &[])
        .await
        .expect("an answer");
    assert_eq!(row.get::<_, String>(0), local.user());
    assert_eq!(
        local.counters().workspace_tokens,
        0,
        "a personal access token needs no exchange"
    );
}

#[tokio::test]
async fn the_error_of_an_endpoint_without_a_usable_host_names_the_reason() {
    let local = local().await;
    for (body, expected, transient) in [
        (
            r#"{"status":{"disabled":true,"hosts":{"host":"h"}}}"#,
            "disabled",
            false,
        ),
        (r#"{"status":{}}"#, "no host yet", true),
        (
            r#"{"status":{"hosts":{"host":"ep-1-pooler.db.example"}}}"#,
            "pooled",
            false,
        ),
    ] {
        local.fail(Call::Endpoint, Fault::json(body));
        let lakebase = lakebase_with(&local, &[("PGHOST", "")]);
        let error = soon(lakebase.target()).await.expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.is_transient(), transient, "{error}");
        local.heal(Call::Endpoint);
    }
}

#[tokio::test]
async fn without_an_oauth_document_the_default_token_endpoint_is_used() {
    let local = local().await;
    local.fail(
        Call::Discovery,
        Fault::status(404, "NOT_FOUND", "no document"),
    );
    soon(lakebase(&local).credential())
        .await
        .expect("the default token endpoint");
}

#[tokio::test]
async fn a_token_endpoint_without_tls_is_rejected_before_the_secret_is_sent() {
    let local = local().await;
    local.fail(
        Call::Discovery,
        Fault::json(r#"{"token_endpoint":"http://example.com/token"}"#),
    );
    let error = soon(lakebase(&local).credential()).await.expect_err("http");
    assert!(error.to_string().contains("token_endpoint"), "{error}");
    assert_eq!(local.counters().token_calls, 0);
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_is_looked_up_again() {
    let local = local().await;
    // An old host of the endpoint, on which nothing listens.
    local.fail(
        Call::Endpoint,
        Fault::json(r#"{"status":{"hosts":{"host":"127.0.0.254"}}}"#),
    );
    let lakebase = lakebase_with(&local, &[("PGHOST", "")]);
    let target = soon(lakebase.target()).await.expect("looked up");
    assert_eq!(target.host(), "127.0.0.254");
    local.heal(Call::Endpoint);
    soon(lakebase.connect())
        .await
        .map(drop)
        .expect("a login to the new host within the connect timeout");
    assert_eq!(
        lakebase.target().await.expect("resolved").host(),
        "localhost"
    );
}

#[tokio::test]
async fn an_invalid_host_name_from_the_workspace_is_rejected() {
    let local = local().await;
    local.fail(
        Call::Endpoint,
        Fault::json(r#"{"status":{"hosts":{"host":"db.example/../x y"}}}"#),
    );
    let lakebase = lakebase_with(&local, &[("PGHOST", "")]);
    let error = soon(lakebase.target()).await.expect_err("no host name");
    assert!(error.to_string().contains("invalid host name"), "{error}");
}

#[tokio::test]
async fn the_look_up_of_the_host_is_part_of_the_connect_timeout() {
    let local = local().await;
    local.fail(Call::Endpoint, Fault::Silence);
    let hasty = [("PGHOST", ""), ("PGCONNECT_TIMEOUT", "0.5")];
    let lakebase = lakebase_with(&local, &hasty);
    let outcome = soon(lakebase_seaorm::connect(&lakebase)).await;
    let error = outcome.map(drop).expect_err("silence");
    assert!(
        error.is_timeout() && error.to_string().contains("no login within 0.5 s"),
        "{error}"
    );
}
