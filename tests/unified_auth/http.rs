//! Retries, error bodies, pages instead of JSON, proxies.

use std::time::Duration;

use futures_util::future::join_all;
use lakebase_core::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::handle;
use crate::stub::{Answer, CREDENTIALS, DISCOVERY, Stub, TOKEN};

/// A workspace whose first replies to mints are `answer`.
async fn answering(times: usize, answer: Answer) -> Stub {
    Stub::start(move |seen| {
        (seen.path == CREDENTIALS && seen.count <= times).then(|| answer.clone())
    })
    .await
}

async fn outcome(stub: &Stub) -> Result<(), Error> {
    let explicit = [("host", stub.url.as_str()), ("token", "dapi-hush")];
    handle(&explicit, &[]).credential().await.map(drop)
}

#[tokio::test]
async fn a_transient_failure_is_retried() {
    let cluster = r#"{"error_code":"INVALID_STATE","message":"ClusterNotReadyException: wait"}"#;
    let rows = [
        Answer::new(429, "{}"),
        Answer::new(429, "{}").with("retry-after", "1"),
        Answer::new(429, "{}").with("retry-after", "1.58"),
        Answer::new(503, "{}"),
        Answer::new(503, "{}").with("retry-after", "1"),
        Answer::new(503, "{}").with("retry-after", "1.58"),
        Answer::new(400, cluster),
        // A mint is safe to repeat, so these count as an outage.
        Answer::new(502, "<html><title>502 Bad Gateway</title></html>"),
        Answer::new(500, ""),
    ];
    // Together, because each waits for its retry.
    let rows = rows.into_iter().map(async |answer| {
        let stub = answering(1, answer.clone()).await;
        let result = outcome(&stub).await;
        result.unwrap_or_else(|error| panic!("{answer:?}: {error}"));
        assert_eq!(stub.seen(CREDENTIALS).len(), 2, "{answer:?}");
    });
    join_all(rows).await;
}

#[tokio::test]
async fn authentication_is_retried_by_the_same_rules() {
    let rows = [
        (429, 2),
        (502, 2),
        (503, 2),
        (504, 2),
        (400, 1),
        (401, 1),
        (403, 1),
    ];
    let rows = rows.map(async |(status, requests)| {
        let stub = Stub::start(move |seen| {
            (seen.path == TOKEN && seen.count == 1).then(|| Answer::new(status, "{}"))
        })
        .await;
        let explicit = stub.service_principal();
        let outcome = handle(&explicit, &[]).credential().await;
        assert_eq!(stub.seen(TOKEN).len(), requests, "{status}");
        assert_eq!(outcome.is_ok(), requests == 2, "{status}");
        assert_eq!(stub.seen(DISCOVERY).len(), 1, "{status}");
    });
    join_all(rows).await;
}

#[tokio::test]
async fn retry_after_is_limited_by_the_connect_timeout_and_reported() {
    let stub = answering(9, Answer::new(429, "{}").with("retry-after", "30")).await;
    let explicit = [
        ("host", stub.url.as_str()),
        ("token", "t"),
        ("auth_type", "pat"),
    ];
    let config = crate::builder(&explicit, &[("PGHOST", "localhost"), ("PGUSER", "u")])
        .connect_timeout(Duration::from_secs(3))
        .build()
        .expect("a configuration");
    let lakebase = lakebase_core::Lakebase::new(config).expect("a handle");
    let error = lakebase.connect().await.map(drop).expect_err("too long");
    assert!(error.is_timeout(), "{error}");
    assert_eq!(stub.seen(CREDENTIALS).len(), 1);
    for (status, header, seconds) in [
        (429, Some("100"), Some(100)),
        (503, Some("100"), Some(100)),
        (429, None, Some(1)),
        (503, None, None),
    ] {
        let answer = Answer::new(status, "{}");
        let answer = match header {
            Some(value) => answer.with("retry-after", value),
            None => answer,
        };
        let stub = answering(9, answer).await;
        let error = outcome(&stub).await.expect_err("an error");
        let expected = seconds.map(Duration::from_secs);
        assert_eq!(error.retry_after(), expected, "{status} {header:?}");
        assert!(error.is_transient(), "{error}");
    }
}

#[tokio::test]
async fn a_login_waits_for_retry_after_within_its_connect_timeout() {
    let local = lakebase_tests::local().await;
    let limited = lakebase_local::Fault::rate_limited("6");
    local.fail_times(lakebase_local::Call::Credential, 1, limited);
    let lakebase = lakebase_tests::lakebase(&local).with_connect_timeout(Duration::from_secs(9));
    lakebase.connect().await.map(drop).expect("a login");
    assert_eq!(local.counters().credential_calls, 2);
}

#[tokio::test]
async fn every_shape_of_an_error_reply_is_reported_with_its_code() {
    let json = "application/json";
    let html = "text/html";
    for (status, kind, body, code, detail) in [
        (
            400,
            json,
            r#"{"error_code":"BAD_REQUEST","message":"no"}"#,
            Some("BAD_REQUEST"),
            "no",
        ),
        (
            403,
            json,
            r#"{"error_code":"PERMISSION_DENIED","message":"errorMessage"}"#,
            Some("PERMISSION_DENIED"),
            "errorMessage",
        ),
        (404, json, "", None, "Not Found"),
        (
            400,
            "text/plain",
            "MALFORMED_REQUEST: vpc_endpoints malformed",
            Some("MALFORMED_REQUEST"),
            "vpc_endpoints malformed",
        ),
        (
            400,
            json,
            r#"{"error_code":500,"message":"m"}"#,
            Some("500"),
            "m",
        ),
        (
            400,
            html,
            "<html><pre>Worker environment not ready</pre></html>",
            Some("BAD_REQUEST"),
            "Worker environment not ready",
        ),
        (444, json, r#"{"message":"odd"}"#, None, "odd"),
        (
            502,
            html,
            "<html><title>502 Bad Gateway</title></html>",
            Some("BAD_GATEWAY"),
            "502 Bad Gateway",
        ),
    ] {
        let stub = answering(9, Answer::new(status, body).with("content-type", kind)).await;
        let error = outcome(&stub).await.expect_err("an error");
        let text = error.to_string();
        assert_eq!(error.error_code(), code, "{text}");
        assert_eq!(error.status(), Some(status), "{text}");
        assert!(text.contains(detail), "{text}");
        assert_eq!(error.is_sign_in(), status == 403, "{text}");
        for part in [
            "authentication pat",
            "host from attribute host",
            "token from attribute token",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("hush"), "{text}");
        let requests = if status == 502 { 3 } else { 1 };
        assert_eq!(stub.seen(CREDENTIALS).len(), requests, "{text}");
    }
}

#[tokio::test]
async fn the_error_of_a_reply_that_repeats_the_request_contains_no_secret_and_no_control_character()
{
    let token = "hush+secret/42=";
    for status in [200, 400, 403, 404, 503] {
        let stub = Stub::start(move |seen| {
            (seen.path == CREDENTIALS).then(|| {
                let echo = seen.header("authorization").to_owned();
                let long = format!("\u{9b}2J{echo}{}", "x".repeat(2000));
                let body = serde_json::json!({"message": long, "error_code": long, "token": 17});
                Answer::new(status, body.to_string()).with("x-request-id", format!("id {echo}"))
            })
        })
        .await;
        let explicit = [("host", stub.url.as_str()), ("token", token)];
        let error = handle(&explicit, &[]).credential().await;
        let error = error.expect_err("unusable");
        let text = format!(
            "{error} {error:?} {:?} {:?}",
            error.request_id(),
            error.error_code()
        );
        assert!(text.contains("id Bearer ***"), "{status}: {text}");
        assert!(
            !text.contains(token) && text.len() < 8000,
            "{status}: {text}"
        );
        assert!(!text.contains('\u{9b}'), "{status}: {text}");
    }
}

#[tokio::test]
async fn a_minted_token_with_invalid_characters_is_rejected() {
    for token in ["a\u{0}b", "a\r\nb", "a b", ""] {
        let body = serde_json::json!({"token": token, "expire_time": "2999-01-01T00:00:00Z"});
        let stub = answering(9, Answer::json(body.to_string())).await;
        let error = outcome(&stub).await.expect_err("no token").to_string();
        assert!(error.contains("`token`"), "{token:?}: {error}");
    }
}

#[tokio::test]
async fn a_private_link_is_recognised_by_its_login_page() {
    let page = "/login.html?error=private-link-validation-error&x=1";
    let stub = answering(9, Answer::new(302, "").with("location", page)).await;
    let error = outcome(&stub).await.expect_err("an error");
    assert_eq!(error.error_code(), Some("PRIVATE_LINK_VALIDATION_ERROR"));
    assert_eq!(error.status(), Some(403));
    assert!(
        error.is_sign_in() && error.to_string().contains("private network"),
        "{error}"
    );
}

#[tokio::test]
async fn the_proxy_and_its_exceptions_come_from_the_environment() {
    // It rejects every CONNECT.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let proxy = format!(
        "http://user:hush@{}",
        listener.local_addr().expect("an address")
    );
    let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match socket.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let _ = sender.send(String::from_utf8_lossy(&head).into_owned());
            let _ = socket
                .write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    });
    let host = "https://dbc-1.invalid";
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let vars = [(name, proxy.as_str())];
        let lakebase = handle(&[("host", host), ("token", "t")], &vars);
        let error = lakebase
            .credential()
            .await
            .expect_err("rejected by the proxy");
        let text = format!("{error:?}");
        assert!(!text.contains("hush"), "{text}");
        // The proxy, its variable and its status.
        let place = proxy.split('@').nth(1).expect("an address");
        for part in [place, name, "HTTP 403"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let head = requests.recv().await.expect("a request to the proxy");
        assert!(head.starts_with("CONNECT dbc-1.invalid:443 "), "{head}");
        assert!(
            head.to_lowercase().contains("proxy-authorization: basic"),
            "{head}"
        );
        while requests.try_recv().is_ok() {}
    }
    let vars = [("HTTPS_PROXY", proxy.as_str()), ("NO_PROXY", "*.invalid")];
    let lakebase = handle(&[("host", host), ("token", "t")], &vars);
    lakebase
        .credential()
        .await
        .expect_err("there is no such host");
    assert!(requests.try_recv().is_err(), "an exception");
    // Requests to this machine never use a proxy.
    let stub = Stub::workspace().await;
    let vars = [("HTTP_PROXY", proxy.as_str()), ("ALL_PROXY", &proxy)];
    let lakebase = handle(&[("host", &stub.url), ("token", "t")], &vars);
    lakebase.credential().await.expect("a credential");
    assert!(requests.try_recv().is_err());
    task.abort();

    let config = crate::configured(
        &[("host", host), ("token", "t")],
        &[("HTTPS_PROXY", "socks5://u:hush@x")],
    );
    let error = lakebase_core::Lakebase::new(config.expect("a configuration")).expect_err("SOCKS");
    let text = error.to_string();
    assert!(
        text.contains("HTTPS_PROXY") && !text.contains("hush"),
        "{text}"
    );
}
