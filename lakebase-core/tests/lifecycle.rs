//! A handle starts no task before its first use, and leaves none behind.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::sync::OnceLock;

use lakebase_core::{Config, Lakebase, Refresh};
use support::{Provider, TestClock, lakebase, lakebase_with};
use tokio::runtime::Handle;

const ENDPOINT: &str = "projects/shop/branches/production/endpoints/primary";

fn assert_shareable<T: Clone + Send + Sync + 'static>(_: &T) {}

#[test]
fn a_handle_can_be_created_without_a_runtime_and_kept_in_a_static() {
    static LAKEBASE: OnceLock<Lakebase> = OnceLock::new();
    let lakebase = LAKEBASE.get_or_init(|| {
        let config = Config::builder()
            .endpoint(ENDPOINT)
            .workspace_host("https://dbc-1.cloud.databricks.com")
            .service_principal("id", "secret")
            .build()
            .expect("a configuration");
        Lakebase::new(config).expect("a handle")
    });
    assert_shareable(lakebase);
}

#[test]
fn a_credential_without_a_runtime_is_an_error_that_names_the_runtime() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    let error = futures_util::future::FutureExt::now_or_never(lakebase.credential())
        .expect("at once")
        .expect_err("no runtime");
    assert!(
        error.is_config() && error.to_string().contains("runtime"),
        "{error}"
    );
}

#[tokio::test]
async fn creating_and_cloning_a_handle_starts_no_task() {
    let provider = Provider::new(&TestClock::new());
    let before = Handle::current().metrics().num_alive_tasks();
    let lakebase = lakebase(&provider);
    let _clone = lakebase.clone();
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
    assert_eq!(provider.calls(), 0);
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_refresh_task_and_a_running_mint() {
    let provider = Provider::gated(&TestClock::new());
    let lakebase = lakebase(&provider);
    let before = Handle::current().metrics().num_alive_tasks();
    let clone = lakebase.clone();
    let caller = tokio::spawn(async move { clone.credential().await.map(drop) });
    while provider.calls() == 0 {
        tokio::task::yield_now().await;
    }
    caller.abort();
    let _ = caller.await;
    drop(lakebase);
    while Handle::current().metrics().num_alive_tasks() > before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lazy_handle_has_no_refresh_task() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase_with(&provider, Refresh::Lazy);
    let before = Handle::current().metrics().num_alive_tasks();
    lakebase.credential().await.expect("a credential");
    while Handle::current().metrics().num_alive_tasks() > before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_native_password_needs_no_mint() {
    let config = Config::from_url("postgresql://app:pass%40word@localhost/shop").expect("a config");
    let lakebase = Lakebase::new(config).expect("a handle");
    let credential = lakebase.credential().await.expect("at hand");
    assert_eq!(
        (credential.expose(), credential.expires_at()),
        ("pass@word", None)
    );
    assert!(!lakebase.uses_tokens());
}
