//! Endpoints, branches and instances, and their hosts.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lakebase_core::config::{Claim, ConfigBuilder, HostKind};
use lakebase_core::{Config, Lakebase};
use lakebase_local::{EventKind, LocalLakebase};
use lakebase_tests::{local, soon};
use tokio_postgres::Client;

use crate::stub::{Answer, CREDENTIALS, Stub};

/// Authentication and port of the local Lakebase, without an endpoint and a host.
fn base(local: &LocalLakebase) -> ConfigBuilder {
    let mut vars = local.env();
    vars.retain(|(name, _)| name != "PGHOST" && name != "LAKEBASE_ENDPOINT");
    Config::builder().vars(vars)
}

fn lakebase(builder: ConfigBuilder) -> Lakebase {
    Lakebase::new(builder.build().expect("a configuration")).expect("a handle")
}

async fn client(lakebase: &Lakebase) -> Client {
    let (client, connection) = soon(lakebase.connect()).await.expect("a login");
    tokio::spawn(connection);
    client
}

async fn query(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.expect("an answer").get(0)
}

#[tokio::test]
async fn an_endpoint_a_branch_and_an_instance_lead_to_the_same_database() {
    let local = local().await;
    for builder in [
        base(&local).endpoint(local.endpoint()),
        base(&local).endpoint(local.branch()),
        base(&local).instance(local.instance()),
        base(&local).vars([("LAKEBASE_ENDPOINT", local.branch())]),
        base(&local).vars([("LAKEBASE_INSTANCE_NAME", local.instance())]),
    ] {
        let lakebase = lakebase(builder);
        let client = client(&lakebase).await;
        let database = query(&client, "SELECT current_user::text").await;
        assert_eq!(database, local.client_id());
        // For a Provisioned instance this needs a new request id: the same id returns the same token.
        let before = local.counters().minted;
        local.revoke_tokens();
        soon(lakebase.connect()).await.map(drop).expect("a login");
        assert_eq!(local.counters().minted, before + 1);
    }
}

#[tokio::test]
async fn the_other_hosts_of_a_compute_are_looked_up() {
    let local = local().await;
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    // PGHOST names the direct host, as in Databricks Apps; code overrides it.
    let reading = |builder: ConfigBuilder| {
        builder
            .vars([("PGHOST", "localhost")])
            .host_kind(HostKind::ReadOnly)
            .hostaddr(here)
    };
    for builder in [
        reading(base(&local).endpoint(local.endpoint())),
        reading(base(&local).endpoint(local.branch())),
        reading(base(&local).instance(local.instance())),
    ] {
        let lakebase = lakebase(builder);
        let client = client(&lakebase).await;
        let read_only = query(&client, "SHOW transaction_read_only").await;
        assert_eq!(read_only, "on");
        let target = lakebase.target().await.expect("a target");
        assert_eq!(target.host(), local.read_only_host());
    }
    local
        .create_native_role("native", "hush")
        .await
        .expect("a role");
    let pooled = |kind| {
        base(&local)
            .endpoint(local.endpoint())
            .user("native")
            .password("hush")
            .host_kind(kind)
            .hostaddr(here)
    };
    let first = lakebase(pooled(HostKind::Pooled));
    client(&first).await;
    let target = first.target().await.expect("a target");
    assert_eq!(target.host(), local.pooled_host());
    assert!(target.is_pooled());
    let second = lakebase(pooled(HostKind::ReadOnlyPooled));
    let target = second.target().await.expect("a target");
    assert!(target.is_pooled() && target.host() != local.pooled_host());
}

#[test]
fn contradictory_or_unsupported_targets_are_rejected_by_name() {
    let path = crate::ENDPOINT;
    let signed = || Config::builder().workspace_host("https://x").token("t");
    for (builder, expected) in [
        (
            signed().endpoint(path).instance("orders"),
            "both endpoint and instance are set",
        ),
        (
            signed().endpoint("projects/shop/branches/"),
            "endpoint path",
        ),
        (signed().instance("projects/shop"), "LAKEBASE_ENDPOINT"),
        (
            signed().instance("instance-1.database.cloud.databricks.com"),
            "PGHOST",
        ),
        (signed().instance("a/b"), "instance"),
        (
            signed().endpoint(path).host_kind(HostKind::Pooled),
            "native passwords only",
        ),
        (
            signed()
                .endpoint(path)
                .host("h")
                .host_kind(HostKind::ReadOnly),
            "both host_kind and host are set",
        ),
        (
            Config::builder()
                .password("p")
                .user("u")
                .host_kind(HostKind::Pooled),
            "names no endpoint",
        ),
        (
            signed()
                .instance("orders")
                .token_ttl(Duration::from_secs(600)),
            "token_ttl",
        ),
        (
            signed().endpoint(path).claim(Claim::read_only([""; 1])),
            "claim",
        ),
        (
            signed()
                .endpoint(path)
                .claim(Claim::read_only(Vec::<String>::new())),
            "claim",
        ),
    ] {
        let error = builder.build().expect_err(expected);
        assert!(
            error.is_config() && error.to_string().contains(expected),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_user_is_explicit_or_from_the_variable_or_the_service_principal_or_the_workspace() {
    let local = local().await;
    let user = async |builder: ConfigBuilder| {
        let target = lakebase(builder.endpoint(local.endpoint())).target().await;
        target.expect("a target").user().to_owned()
    };
    let unnamed = || {
        let mut vars = local.env();
        vars.retain(|(name, _)| name != "PGUSER");
        Config::builder().vars(vars)
    };
    assert_eq!(
        user(unnamed().user("group").vars([("PGUSER", "x")])).await,
        "group"
    );
    assert_eq!(user(unnamed().vars([("PGUSER", "x")])).await, "x");
    assert_eq!(user(unnamed()).await, local.client_id());
    // A client id that does not authenticate is not the user.
    let vars = [
        ("DATABRICKS_TOKEN", local.user_token()),
        ("DATABRICKS_AUTH_TYPE", "pat"),
    ];
    assert_eq!(user(unnamed().vars(vars)).await, local.user());
}

#[tokio::test]
async fn a_member_logs_in_as_its_group() {
    let local = local().await;
    let members = [local.client_id()];
    local
        .create_group_role("data team", &members)
        .await
        .expect("a role");
    local
        .sql("GRANT CONNECT ON DATABASE databricks_postgres TO \"data team\"")
        .await
        .expect("a grant");
    let lakebase = lakebase(base(&local).endpoint(local.endpoint()).user("data team"));
    let client = client(&lakebase).await;
    assert_eq!(
        query(&client, "SELECT current_user::text").await,
        "data team"
    );
}

#[tokio::test]
async fn lifetime_and_claims_are_sent_with_the_mint() {
    let local = local().await;
    let claims = || Claim::read_only(["main.sales.orders", "main.sales.customers"]);
    let ttl = Duration::from_secs(600);
    let first = lakebase(
        base(&local)
            .endpoint(local.endpoint())
            .token_ttl(ttl)
            .claim(claims()),
    );
    let second = lakebase(base(&local).instance(local.instance()).claim(claims()));
    first.credential().await.expect("a credential");
    second.credential().await.expect("a credential");
    let minted: Vec<_> = local
        .events()
        .into_iter()
        .filter_map(|event| match event.kind {
            EventKind::Minted {
                claims,
                issued_at,
                expires_at,
                ..
            } => Some((claims, expires_at.duration_since(issued_at).expect("later"))),
            _ => None,
        })
        .collect();
    let tables = vec![
        "main.sales.orders".to_owned(),
        "main.sales.customers".to_owned(),
    ];
    let hour = Duration::from_secs(3600);
    assert_eq!(minted, [(tables.clone(), ttl), (tables, hour)]);
}

#[tokio::test]
async fn the_endpoints_of_a_branch_are_read_page_by_page_and_pages_may_be_empty() {
    let path = "/api/2.0/postgres/projects/shop/branches/b/endpoints";
    let pages = |seen: &crate::stub::Seen| {
        let endpoint = |id: &str, kind: &str| {
            format!(
                "{{\"name\":\"projects/shop/branches/b/endpoints/{id}\",\"status\":{{\"endpoint_type\":\"{kind}\"}}}}"
            )
        };
        match seen.field("page_token").as_deref() {
            None => "{\"next_page_token\":\"a b\"}".to_owned(),
            Some("a b") => format!(
                "{{\"endpoints\":[{},{}],\"next_page_token\":\"c\"}}",
                endpoint("r", "ENDPOINT_TYPE_READ_ONLY"),
                endpoint("x", "ENDPOINT_TYPE_NEW")
            ),
            _ => format!(
                "{{\"endpoints\":[{}],\"next_page_token\":\"\"}}",
                endpoint("w", "ENDPOINT_TYPE_READ_WRITE")
            ),
        }
    };
    let stub =
        Stub::start(move |seen| (seen.path == path).then(|| Answer::json(pages(seen)))).await;
    let signed = |branch: &str| {
        let builder = Config::builder().workspace_host(&stub.url).token("t");
        lakebase(builder.endpoint(format!("projects/shop/branches/{branch}")))
    };
    let lakebase = signed("b");
    lakebase.credential().await.expect("a credential");
    assert_eq!(stub.seen(path).len(), 3);
    let sent = stub.last(CREDENTIALS);
    assert!(
        sent.body.contains("projects/shop/branches/b/endpoints/w"),
        "{}",
        sent.body
    );
    // The list is reused.
    let held = lakebase.credential().await.expect("a credential");
    lakebase_core::adapter::reject(&lakebase, &held);
    lakebase.credential().await.expect("a credential");
    assert_eq!(stub.seen(path).len(), 3);
}

#[tokio::test]
async fn a_branch_without_an_endpoint_and_an_endless_list_are_errors() {
    for (answer, expected) in [
        ("{}", "has no read-write endpoint"),
        (
            "{\"endpoints\":[{\"status\":{\"endpoint_type\":\"ENDPOINT_TYPE_READ_WRITE\"}}]}",
            "without a usable `name`",
        ),
        ("{\"next_page_token\":\"again\"}", "does not end"),
    ] {
        let stub = Stub::start(move |seen| {
            seen.path
                .ends_with("/endpoints")
                .then(|| Answer::json(answer))
        })
        .await;
        let builder = Config::builder().workspace_host(&stub.url).token("t");
        let lakebase = lakebase(builder.endpoint("projects/shop/branches/b"));
        let error = lakebase.credential().await.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("branch projects/shop/branches/b"), "{error}");
    }
}

#[tokio::test]
async fn the_error_of_an_unusable_instance_names_the_reason() {
    for (body, kind, expected, transient) in [
        (
            r#"{"effective_stopped": true}"#,
            HostKind::ReadWrite,
            "is stopped",
            false,
        ),
        (
            r#"{"state": "STOPPED"}"#,
            HostKind::ReadWrite,
            "is stopped",
            false,
        ),
        (
            r#"{"state": "DELETING"}"#,
            HostKind::ReadWrite,
            "deleted",
            false,
        ),
        (
            r#"{"state": "STARTING"}"#,
            HostKind::ReadWrite,
            "read_write_dns",
            true,
        ),
        (
            r#"{"state": "NEW", "read_write_dns": "h"}"#,
            HostKind::ReadOnly,
            "read_only_dns",
            false,
        ),
    ] {
        let stub = Stub::start(move |seen| {
            seen.path
                .contains("/instances/")
                .then(|| Answer::json(body))
        })
        .await;
        let builder = Config::builder().workspace_host(&stub.url).token("t");
        let lakebase = lakebase(builder.instance("orders").host_kind(kind));
        let error = lakebase.target().await.expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains("instance orders"), "{error}");
        assert_eq!(error.is_transient(), transient, "{error}");
    }
}

#[tokio::test]
async fn a_provisioned_credential_without_an_expiry_is_used_for_less_than_an_hour() {
    let stub = Stub::start(|seen| {
        (seen.path == "/api/2.0/database/credentials").then(|| Answer::json("{\"token\":\"t\"}"))
    })
    .await;
    let builder = Config::builder().workspace_host(&stub.url).token("t");
    let lakebase = lakebase(builder.instance("orders"));
    let before = std::time::SystemTime::now();
    let credential = lakebase.credential().await.expect("a credential");
    let left = credential
        .expires_at()
        .expect("an expiry")
        .duration_since(before);
    let left = left.expect("later").as_secs();
    assert!((3000..3600).contains(&left), "{left}");
    let sent = stub.last("/api/2.0/database/credentials");
    assert!(
        sent.body.contains("\"instance_names\":[\"orders\"]"),
        "{}",
        sent.body
    );
}
