//! A pool reports at once why a login failed, when it is built and later.

use std::pin::Pin;
use std::time::Duration;

use diesel_async::pooled_connection::PoolError;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use lakebase_local::{Call, Cut, Fault};
use lakebase_tests::{forget_idle, lakebase, lakebase_with, local, soon, until};

/// Logins may wait for an hour, so a failure within the limits of a test is immediate.
const HOUR: (&str, &str) = ("PGCONNECT_TIMEOUT", "3600");

#[tokio::test]
async fn a_diesel_pool_that_cannot_be_built_names_the_cause_at_once() {
    let local = local().await;
    let no_role = lakebase_with(&local, &[HOUR, ("PGUSER", "nobody-we-know")]);
    let pool = soon(lakebase_diesel::bb8::connect(&no_role)).await;
    let error = pool.map(drop).expect_err("no role");
    assert!(
        error.is_login() && error.chain().contains("does not exist"),
        "{}",
        error.chain()
    );

    let wrong_secret = lakebase_with(&local, &[HOUR, ("DATABRICKS_CLIENT_SECRET", "wrong")]);
    let pool = soon(lakebase_diesel::bb8::connect(&wrong_secret)).await;
    let error = pool.map(drop).expect_err("wrong secret");
    assert!(
        error.to_string().contains("DATABRICKS_CLIENT_SECRET"),
        "{error}"
    );
}

#[tokio::test]
async fn a_diesel_pool_in_use_names_the_cause_at_once_and_recovers() {
    let local = local().await;
    let pool = lakebase_diesel::bb8::connect(&lakebase_with(&local, &[HOUR])).await;
    let pool = pool.expect("a pool");
    local.revoke_tokens();
    local.fail(
        Call::Credential,
        Fault::status(403, "PERMISSION_DENIED", "privileges were revoked"),
    );
    local.cut_sessions(Cut::Message).await.expect("cut");
    let getting = soon(async {
        // The pool may notice the end of its connection a moment later.
        loop {
            match pool.get().await {
                Ok(mut connection) => {
                    drop(diesel::sql_query("SELECT 1").execute(&mut connection).await)
                }
                Err(error) => return error,
            }
        }
    });
    let error = getting.await.to_string();
    assert!(
        error.contains("PERMISSION_DENIED") && error.contains("privileges were revoked"),
        "{error}"
    );
    let typed = pool.last_failure().expect("typed as well");
    assert_eq!(typed.error_code(), Some("PERMISSION_DENIED"));

    local.heal(Call::Credential);
    let healed = soon(async {
        while pool.get().await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    healed.await;
    assert!(pool.last_failure().is_none());
}

#[tokio::test]
async fn every_waiting_caller_gets_the_cause() {
    let local = local().await;
    let pool = lakebase_diesel::bb8::Builder::new()
        .build_lazy(&lakebase_with(&local, &[HOUR, ("PGDATABASE", "missing")]));
    let waiting = (0..20).map(|_| async { pool.get().await.map(drop).expect_err("no database") });
    for error in soon(futures_util::future::join_all(waiting)).await {
        assert!(error.to_string().contains("3D000"), "{error}");
    }
}

#[tokio::test]
async fn the_error_of_an_exhausted_pool_is_a_timeout() {
    let local = local().await;
    let pool = lakebase_diesel::bb8::Builder::new()
        .max_size(1)
        .connection_timeout(Duration::from_secs(3))
        .build(&lakebase(&local))
        .await
        .expect("a pool");
    let _busy = pool.get().await.expect("the only one");
    let error = pool.get().await.map(drop).expect_err("none left");
    assert!(
        matches!(error, lakebase_diesel::bb8::RunError::TimedOut),
        "{error}"
    );
}

#[tokio::test]
async fn seaorm_names_the_cause_at_start_and_in_use() {
    let local = local().await;
    let no_role = lakebase_with(&local, &[HOUR, ("PGUSER", "nobody-we-know")]);
    let db = soon(lakebase_seaorm::connect(&no_role)).await;
    let error = db.map(drop).expect_err("no role");
    assert!(
        error.is_login() && error.chain().contains("does not exist"),
        "{}",
        error.chain()
    );

    let db = lakebase_seaorm::connect(&lakebase_with(&local, &[HOUR])).await;
    let db = db.expect("a connection");
    local.revoke_tokens();
    local.fail(
        Call::Credential,
        Fault::status(403, "PERMISSION_DENIED", "privileges were revoked"),
    );
    forget_idle(&db).await;
    let error = soon(db.ping()).await.expect_err("no new login");
    assert!(
        error.to_string().contains("privileges were revoked"),
        "{error}"
    );
    let typed = lakebase_seaorm::cause(&error).expect("typed as well");
    assert_eq!(typed.error_code(), Some("PERMISSION_DENIED"), "{typed}");
}

#[tokio::test]
async fn a_checkout_survives_a_failed_login_and_gets_a_returned_connection() {
    let local = local().await;
    let lakebase = lakebase(&local);
    drop(lakebase.connect().await.expect("a login"));
    let pool = lakebase_diesel::bb8::Builder::new()
        .connection_timeout(lakebase_tests::PATIENCE)
        .build(&lakebase.with_connect_timeout(Duration::from_secs(2)))
        .await
        .expect("a pool");
    let busy = pool.get().await.expect("the first");
    local.set_connection_limit(1);
    let waiting = pool.get();
    let releasing = async {
        // The second login fails after its connect timeout.
        until(|| {
            pool.last_failure()
                .is_some_and(|failure| failure.is_timeout())
        })
        .await;
        drop(busy);
    };
    let (second, ()) = soon(async { tokio::join!(waiting, releasing) }).await;
    second.map(drop).expect("the returned connection");
}

#[tokio::test]
async fn the_error_of_a_connection_customizer_is_returned() {
    #[derive(Debug)]
    struct SetRole;

    impl bb8::CustomizeConnection<AsyncPgConnection, PoolError> for SetRole {
        fn on_acquire<'a>(
            &'a self,
            connection: &'a mut AsyncPgConnection,
        ) -> Pin<Box<dyn Future<Output = Result<(), PoolError>> + Send + 'a>> {
            Box::pin(async move {
                let set = diesel::sql_query("SET ROLE nobody_we_know");
                let set = set.execute(connection).await;
                set.map(drop).map_err(PoolError::QueryError)
            })
        }
    }

    let local = local().await;
    let lakebase = lakebase_with(&local, &[HOUR]);
    let building = lakebase_diesel::bb8::Builder::new()
        .configure(|inner| inner.connection_customizer(Box::new(SetRole)))
        .build(&lakebase);
    let error = soon(building).await.map(drop).expect_err("no such role");
    assert!(error.to_string().contains("nobody_we_know"), "{error}");
}
