//! The user agent of requests to the workspace.

use lakebase_core::Lakebase;

use crate::stub::{CREDENTIALS, Stub, TOKEN};
use crate::{Pairs, builder};

/// The user agents of a mint and of the authentication before it.
async fn agents(vars: Pairs<'_>, extras: Pairs<'_>) -> (String, String) {
    let stub = Stub::workspace().await;
    let explicit = stub.service_principal();
    let mut builder = builder(&explicit, vars).product("test", "0.0.0");
    for (key, value) in extras {
        builder = builder.user_agent_extra(*key, *value);
    }
    let lakebase = Lakebase::new(builder.build().expect("a configuration")).expect("a handle");
    lakebase.credential().await.expect("a credential");
    let agent = |path| stub.last(path).header("user-agent").to_owned();
    (agent(CREDENTIALS), agent(TOKEN))
}

#[tokio::test]
async fn the_product_comes_first_and_extras_come_last() {
    let vars = [
        ("DATABRICKS_SDK_UPSTREAM", "upstream-product"),
        ("DATABRICKS_SDK_UPSTREAM_VERSION", "0.0.1"),
        ("DATABRICKS_RUNTIME_VERSION", "13.1 anything/else"),
    ];
    let extras = [
        ("test-extra-1", "1"),
        ("test-extra-2", "2"),
        ("test-extra-1", "1"),
        ("partner", "acme"),
    ];
    let (agent, base) = agents(&vars, &extras).await;
    let ours = concat!("lakebase-core/", env!("CARGO_PKG_VERSION"));
    let head = format!("test/0.0.0 {ours} rust/");
    assert!(agent.starts_with(&head), "{agent}");
    let os = std::env::consts::OS;
    let tail = format!(
        " os/{os} auth/oauth-m2m test-extra-1/1 test-extra-2/2 partner/acme upstream/upstream-product upstream-version/0.0.1 runtime/13.1-anything-else"
    );
    assert!(agent.ends_with(&tail), "{agent}");
    assert!(!base.contains("auth/") && base.starts_with(&head), "{base}");
    assert!(!agent.contains("databricks-sdk"), "{agent}");
}

#[tokio::test]
async fn the_build_service_is_named_and_an_incomplete_upstream_is_omitted() {
    let (agent, _) = agents(&[("GITHUB_ACTIONS", "true"), ("GITLAB_CI", "true")], &[]).await;
    assert!(agent.ends_with(" cicd/github"), "{agent}");
    let (agent, _) = agents(&[("JENKINS_URL", "x"), ("GITLAB_CI", "no")], &[]).await;
    assert!(agent.ends_with(" cicd/jenkins"), "{agent}");
    let (agent, _) = agents(&[("DATABRICKS_SDK_UPSTREAM", "x")], &[]).await;
    assert!(!agent.contains("upstream"), "{agent}");
}

#[test]
fn an_invalid_part_of_the_user_agent_is_rejected_by_name() {
    let base = || builder(&[("host", "https://x"), ("token", "t")], &[]);
    for (builder, expected) in [
        (base().product("my shop", "1.0"), "product: \"my shop\""),
        (base().product("shop", "one"), "product: \"one\""),
        (base().product("shop", "1.0\r\nx: y"), "product"),
        (base().user_agent_extra("a b", "1"), "user_agent_extra"),
        (base().user_agent_extra("a", ""), "user_agent_extra"),
    ] {
        let error = builder.build().expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    for version in ["1", "1.2", "1.2.3-rc.1+build.5"] {
        base().product("shop", version).build().expect(version);
    }
}
