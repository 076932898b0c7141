//! The compiler checks that public types are `Send` and `Sync`, and that futures can be spawned.

#![allow(clippy::expect_used)] // a test fails by panicking

use lakebase_core::adapter::{self, LoginFailure, Watch};
use lakebase_core::config::{AzureEndpoints, Claim, ConfigBuilder, ResolvedSetting};
use lakebase_core::{Config, Credential, Error, Lakebase, Retry, Target};

fn assert_sent<T: Send + 'static>() {}
fn assert_shared<T: Send + Sync + 'static>() {}
fn assert_cloned<T: Clone + Send + Sync + 'static>() {}
fn assert_spawned(_: impl Future + Send) {}

fn lakebase() -> Lakebase {
    let config = Config::from_url("postgresql://app:password@localhost/shop").expect("a config");
    Lakebase::new(config).expect("a handle")
}

#[test]
fn handles_and_values_can_be_shared_between_threads() {
    assert_cloned::<Lakebase>();
    assert_cloned::<Config>();
    assert_cloned::<ConfigBuilder>();
    assert_cloned::<Credential>();
    assert_cloned::<Error>();
    assert_cloned::<Retry>();
    assert_cloned::<Target>();
    assert_cloned::<AzureEndpoints>();
    assert_cloned::<Claim>();
    assert_cloned::<ResolvedSetting>();
    assert_cloned::<adapter::Login>();
    assert_shared::<Watch>();
    assert_sent::<LoginFailure>();
}

#[test]
fn futures_of_a_handle_can_be_spawned() {
    let lakebase = lakebase();
    assert_spawned(lakebase.credential());
    assert_spawned(lakebase.target());
    assert_spawned(adapter::login(&lakebase, async |login| Ok(login.target)));
}

#[cfg(feature = "tokio-postgres")]
#[test]
fn the_future_of_a_connection_can_be_spawned() {
    assert_spawned(lakebase().connect());
}

#[cfg(feature = "proxy")]
#[test]
fn a_proxy_can_be_shared_between_threads() {
    use lakebase_core::proxy::{Builder, Clients, Proxy};

    assert_cloned::<Proxy>();
    assert_cloned::<Builder>();
    assert_cloned::<Clients>();
    let lakebase = lakebase();
    assert_spawned(lakebase.proxy());
    assert_spawned(Builder::new(&lakebase).start());
    let _methods = |proxy: &Proxy| {
        assert_spawned(proxy.ended());
        assert_spawned(proxy.shutdown(std::time::Duration::ZERO));
    };
}

#[cfg(feature = "admin")]
#[test]
fn plans_and_states_can_be_shared_between_threads() {
    use lakebase_core::admin::{ComputeStatus, Object, Plan};

    assert_cloned::<ComputeStatus>();
    assert_cloned::<Object>();
    assert_cloned::<Plan>();
    let lakebase = lakebase();
    assert_spawned(lakebase.identity());
    assert_spawned(lakebase.compute_status());
    assert_spawned(Plan::new("shop").apply(&lakebase));
}

#[cfg(feature = "admin")]
#[test]
fn the_session_that_migrates_can_be_shared_between_threads() {
    use lakebase_core::adapter::migration::{MigrationError, MigrationSession, Position};

    assert_cloned::<MigrationError>();
    assert_cloned::<MigrationSession>();
    assert_cloned::<Position>();
    assert_spawned(MigrationSession::new(&lakebase()).connect());
}
