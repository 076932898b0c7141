//! Every login of both ORMs uses a current token, and no caller waits for a renewal.

use std::time::Duration;

use diesel_async::RunQueryDsl as _;
use lakebase_core::Lakebase;
use lakebase_local::{Event, LocalLakebase};
use lakebase_tests::{
    BETWEEN_LOGINS, TooSlow, forget_idle, in_time, lakebase, local_with_tokens_of, logged_in,
    logins, minted, no_expired_token_was_used, session, soon, too_slow_unless,
};
use sea_orm::ConnectionTrait as _;

const LIFETIME: Duration = Duration::from_secs(5);
/// Renewal starts at 80 % of the lifetime at the latest. The rest is for the mint.
const NEW_TOKEN_AFTER: f64 = 0.88;
const ROTATIONS: usize = 3;

fn has_rotated(events: &[Event]) -> bool {
    minted(events).len() > ROTATIONS
}

/// Logs in with `open` until enough tokens have been minted.
async fn keep_logging_in(
    local: &LocalLakebase,
    lakebase: &Lakebase,
    open: impl AsyncFn() -> Result<(), TooSlow>,
) -> Result<(), TooSlow> {
    soon(async {
        while !has_rotated(&local.events()) {
            assert_no_caller_waits(local, lakebase)?;
            open().await?;
            tokio::time::sleep(BETWEEN_LOGINS).await;
        }
        Ok(())
    })
    .await?;
    every_login_used_the_current_token(local)
}

/// Compares the log of the gateway with the minted tokens.
fn every_login_used_the_current_token(local: &LocalLakebase) -> Result<(), TooSlow> {
    no_expired_token_was_used(local)?;
    let events = local.events();
    let tokens = minted(&events);
    let logins = logins(&events);
    assert!(logins.len() >= ROTATIONS, "only {} logins", logins.len());
    for (at, login) in &logins {
        let token = tokens
            .iter()
            .find(|minted| Some(minted.token) == login.token)
            .expect("a login with a token from the log");
        let new_at = token.issued_at + LIFETIME.mul_f64(NEW_TOKEN_AFTER);
        too_slow_unless(*at <= new_at, || {
            format!(
                "{login:?} used the old token {:?} late",
                at.duration_since(new_at)
            )
        })?;
    }
    Ok(())
}

/// A call returns the cached credential at its first poll, unless the renewal itself is late.
fn assert_no_caller_waits(local: &LocalLakebase, lakebase: &Lakebase) -> Result<(), TooSlow> {
    use futures_util::FutureExt as _;

    let credential = lakebase.credential().now_or_never();
    if credential.is_none() {
        let age = minted(&local.events())
            .last()
            .and_then(|token| token.minted_at.elapsed().ok());
        let is_due = age.is_some_and(|age| age < LIFETIME.mul_f64(NEW_TOKEN_AFTER));
        too_slow_unless(is_due, || format!("the token is {age:?} old"))?;
    }
    assert!(credential.expect("no waiting").is_ok());
    Ok(())
}

#[tokio::test]
async fn every_diesel_login_uses_the_current_token_across_rotations() {
    in_time(async || {
        let local = local_with_tokens_of(LIFETIME).await;
        let lakebase = lakebase(&local);
        let pool = lakebase_diesel::bb8::connect(&lakebase)
            .await
            .expect("a pool");
        keep_logging_in(&local, &lakebase, async || {
            let mut fresh = logged_in(&local, pool.dedicated_connection().await)?;
            let answer = diesel::sql_query("SELECT 1").execute(&mut fresh).await;
            answer.expect("an answer");
            Ok(())
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn every_seaorm_login_uses_the_current_token_across_rotations() {
    in_time(async || {
        let local = local_with_tokens_of(LIFETIME).await;
        let lakebase = lakebase(&local);
        let db = lakebase_seaorm::connect(&lakebase)
            .await
            .expect("a connection");
        keep_logging_in(&local, &lakebase, async || {
            forget_idle(&db).await;
            logged_in(&local, db.execute_unprepared("SELECT 1").await).map(drop)
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn every_tokio_postgres_login_uses_the_current_token_across_rotations() {
    in_time(async || {
        let local = local_with_tokens_of(LIFETIME).await;
        let lakebase = lakebase(&local);
        lakebase.credential().await.expect("a first credential");
        keep_logging_in(&local, &lakebase, async || {
            let (client, connection) = logged_in(&local, lakebase.connect().await)?;
            let session = tokio::spawn(connection);
            client.simple_query("SELECT 1").await.expect("an answer");
            drop(client);
            session.await.expect("no panic").expect("a clean end");
            Ok(())
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn an_open_connection_outlives_its_token() {
    let local = local_with_tokens_of(Duration::from_secs(1)).await;
    let lakebase = lakebase(&local);
    let client = session(&lakebase).await;
    soon(local.wait_until(|events| minted(events).len() >= 3)).await;
    client
        .simple_query("SELECT 1")
        .await
        .expect("the session is still there");
}
