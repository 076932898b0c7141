//! Every reply of the platform leads to a clear error without a panic or a loop.

use lakebase_core::Error;
use lakebase_local::{Call, Fault, LocalLakebase};
use lakebase_tests::{lakebase, lakebase_with, local, soon};

/// Returns the error of a new handle, and the number of its credential calls.
async fn rejection(local: &LocalLakebase, call: Call, fault: Fault) -> (Error, u64) {
    local.fail(call, fault.clone());
    let before = local.counters().credential_calls;
    let error = soon(lakebase(local).credential())
        .await
        .map(drop)
        .expect_err(&format!("{fault:?}"));
    local.heal(call);
    (error, local.counters().credential_calls - before)
}

#[tokio::test]
async fn the_error_of_an_invalid_reply_names_what_is_wrong() {
    let local = local().await;
    let in_an_hour = "2999-01-01T00:00:00Z";
    let reply = |token: &str, expiry: &str| {
        Fault::json(&format!("{{\"token\":{token},\"expire_time\":{expiry}}}"))
    };
    for (fault, expected) in [
        (Fault::html(), "an HTML page where JSON was expected"),
        (Fault::json("{\"token\":"), "malformed JSON"),
        (Fault::json(""), "nothing where JSON was expected"),
        (Fault::json("{}"), "`token` is missing"),
        (Fault::json("[]"), "`token` is missing"),
        (
            reply("\"\"", &format!("\"{in_an_hour}\"")),
            "`token` is empty",
        ),
        (
            reply("17", &format!("\"{in_an_hour}\"")),
            "`token` is not a string",
        ),
        (Fault::json("{\"token\":\"t\"}"), "`expire_time` is missing"),
        (
            reply("\"t\"", "\"tomorrow\""),
            "`expire_time` is not an RFC 3339 date",
        ),
        (
            reply("\"t\"", "\"NaN\""),
            "`expire_time` is not an RFC 3339 date",
        ),
        (
            reply("\"t\"", "\"\""),
            "`expire_time` is not an RFC 3339 date",
        ),
        (
            reply("\"t\"", "1789381800"),
            "`expire_time` is not a string",
        ),
        (reply("\"t\"", "null"), "`expire_time` is not a string"),
        (
            reply("\"t\"", "\"2020-01-01T00:00:00Z\""),
            "`expire_time` has passed already",
        ),
    ] {
        let (error, calls) = rejection(&local, Call::Credential, fault.clone()).await;
        let text = error.to_string();
        assert!(text.contains(expected), "{fault:?}: {text}");
        assert!(
            text.contains(&local.endpoint()) && text.contains(local.client_id()),
            "{text}"
        );
        assert!(
            error.request_id().is_some() && error.status() == Some(200),
            "{text}"
        );
        assert_eq!(calls, 1, "{fault:?}");
    }
}

#[tokio::test]
async fn the_error_of_a_rejection_names_endpoint_identity_status_code_request_id_and_next_step() {
    let local = local().await;
    for (status, code, message, hint) in [
        (
            403,
            "PERMISSION_DENIED",
            "This API is disabled for users without the workspace-access entitlement.",
            "entitlement",
        ),
        (
            404,
            "NOT_FOUND",
            "endpoint id not found",
            "LAKEBASE_ENDPOINT",
        ),
        (
            400,
            "INVALID_PARAMETER_VALUE",
            "Field 'endpoint' is required",
            "will not help",
        ),
    ] {
        let fault = Fault::status(status, code, message);
        let (error, calls) = rejection(&local, Call::Credential, fault).await;
        let text = error.to_string();
        for part in [
            code,
            message,
            hint,
            &local.endpoint(),
            local.client_id(),
            &format!("HTTP {status}"),
        ] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
        assert!(
            error.request_id().is_some_and(|id| text.contains(id)),
            "{text}"
        );
        assert!(!error.is_transient(), "{text}");
        assert_eq!(calls, 1, "{text}");
    }
}

#[tokio::test]
async fn an_unknown_endpoint_is_a_404_with_its_name() {
    let local = local().await;
    let other = "projects/local/branches/production/endpoints/other";
    let lakebase = lakebase_with(&local, &[("LAKEBASE_ENDPOINT", other)]);
    let error = lakebase.credential().await.expect_err("unknown");
    assert_eq!(
        (error.status(), error.error_code()),
        (Some(404), Some("NOT_FOUND")),
        "{error}"
    );
    assert!(error.to_string().contains(other), "{error}");
}

#[tokio::test]
async fn a_wrong_client_secret_names_its_variable_and_the_identity() {
    let local = local().await;
    let lakebase = lakebase_with(&local, &[("DATABRICKS_CLIENT_SECRET", "dose-wrong")]);
    let error = lakebase.credential().await.expect_err("wrong secret");
    let text = error.to_string();
    assert!(error.is_sign_in() && !error.is_transient(), "{text}");
    for part in [
        "invalid_client",
        "DATABRICKS_CLIENT_SECRET",
        local.client_id(),
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert_eq!(local.counters().token_calls, 1);
}

#[tokio::test]
async fn a_wrong_access_token_is_rejected_after_one_call() {
    let local = local().await;
    let lakebase = lakebase_with(
        &local,
        &[
            ("DATABRICKS_CLIENT_ID", ""),
            ("DATABRICKS_CLIENT_SECRET", ""),
            ("DATABRICKS_TOKEN", "dapi-wrong"),
        ],
    );
    let error = lakebase.credential().await.expect_err("wrong token");
    assert!(
        error.is_sign_in() && error.to_string().contains("DATABRICKS_TOKEN"),
        "{error}"
    );
    assert_eq!(local.counters().credential_calls, 1);
}

#[tokio::test]
async fn the_error_of_a_redirect_to_a_login_page_names_the_host_setting() {
    let local = local().await;
    let (error, calls) = rejection(&local, Call::Credential, Fault::LoginPage).await;
    let text = error.to_string();
    assert!(
        text.contains("/login.html") && text.contains("DATABRICKS_HOST"),
        "{text}"
    );
    assert_eq!(calls, 1);
}

#[tokio::test]
async fn a_transient_failure_is_retried_until_the_first_success() {
    let local = local().await;
    for fault in [
        Fault::status(503, "TEMPORARILY_UNAVAILABLE", "later"),
        Fault::status(500, "INTERNAL_ERROR", "oops"),
        Fault::rate_limited("1"),
        Fault::HalfReply,
        Fault::Reset,
    ] {
        local.fail_times(Call::Credential, 1, fault.clone());
        let credential = soon(lakebase(&local).credential()).await;
        credential.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    }
}

#[tokio::test]
async fn an_expired_workspace_token_is_renewed_once() {
    let local = local().await;
    let lakebase = lakebase(&local);
    lakebase.credential().await.expect("a credential");
    local.expire_workspace_tokens();
    local.revoke_tokens();
    soon(lakebase.connect())
        .await
        .map(drop)
        .expect("authenticated again");
    assert_eq!(local.counters().workspace_tokens, 2);
}
