//! Every login of both ORMs uses a current token, and nobody waits for a renewal.

use std::time::Duration;

use diesel_async::RunQueryDsl as _;
use lakebase_core::Lakebase;
use lakebase_local::{Event, LocalLakebase};
use lakebase_tests::{forget_idle, in_time, lakebase, local_with_tokens_of, logins, minted, soon};
use sea_orm::ConnectionTrait as _;

const LIFETIME: Duration = Duration::from_secs(5);
/// Renewal starts at 80 % of the lifetime at the latest; the rest is for the mint to arrive.
const NEW_TOKEN_AFTER: f64 = 0.88;
const ROTATIONS: usize = 3;

fn has_rotated(events: &[Event]) -> bool {
    minted(events).len() > ROTATIONS
}

/// Opens new connections through `open` until the tokens have rotated often enough.
async fn keep_logging_in<F>(local: &LocalLakebase, mut open: impl FnMut() -> F)
where
    F: Future<Output = ()>,
{
    while !has_rotated(&local.events()) {
        open().await;
        tokio::task::yield_now().await;
    }
}

/// The gateway's log is the witness.
fn assert_every_login_used_the_current_token(local: &LocalLakebase) {
    let events = local.events();
    let tokens = minted(&events);
    let logins = logins(&events);
    assert!(logins.len() >= ROTATIONS, "only {} logins", logins.len());
    assert_eq!(
        local.counters().refused,
        0,
        "a login was refused: {events:#?}"
    );
    for (at, login) in &logins {
        let token = tokens
            .iter()
            .find(|minted| Some(minted.token) == login.token)
            .expect("a login with a token from the log");
        assert!(*at < token.expires_at, "{login:?} used a dead token");
        let new_at = token.issued_at + LIFETIME.mul_f64(NEW_TOKEN_AFTER);
        assert!(
            *at <= new_at,
            "{login:?} used the old token {:?} late",
            at.duration_since(new_at)
        );
    }
}

/// Renewals happen behind the callers' backs: a call answers from memory, without ever yielding.
fn assert_nobody_waits(lakebase: &Lakebase) {
    use futures_util::FutureExt as _;

    let credential = lakebase.credential().now_or_never();
    assert!(credential.expect("no waiting").is_ok());
}

#[tokio::test]
async fn every_diesel_login_uses_the_current_token_across_rotations() {
    in_time(async || {
        let local = local_with_tokens_of(LIFETIME).await;
        let lakebase = lakebase(&local);
        let pool = lakebase_diesel::bb8::connect(&lakebase)
            .await
            .expect("a pool");
        soon(keep_logging_in(&local, async || {
            assert_nobody_waits(&lakebase);
            let mut fresh = pool.dedicated_connection().await.expect("a new connection");
            diesel::sql_query("SELECT 1")
                .execute(&mut fresh)
                .await
                .expect("an answer");
        }))
        .await;
        assert_every_login_used_the_current_token(&local);
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
        soon(keep_logging_in(&local, async || {
            assert_nobody_waits(&lakebase);
            // Closing what is idle makes the next statement log in.
            forget_idle(&db).await;
            db.execute_unprepared("SELECT 1").await.expect("an answer");
        }))
        .await;
        assert_every_login_used_the_current_token(&local);
    })
    .await;
}

#[tokio::test]
async fn every_tokio_postgres_login_uses_the_current_token_across_rotations() {
    in_time(async || {
        let local = local_with_tokens_of(LIFETIME).await;
        let lakebase = lakebase(&local);
        lakebase.credential().await.expect("a first credential");
        soon(keep_logging_in(&local, async || {
            assert_nobody_waits(&lakebase);
            let (client, connection) = lakebase.connect().await.expect("a connection");
            let session = tokio::spawn(connection);
            client.simple_query("SELECT 1").await.expect("an answer");
            drop(client);
            session.await.expect("no panic").expect("a clean end");
        }))
        .await;
        assert_every_login_used_the_current_token(&local);
    })
    .await;
}

#[tokio::test]
async fn an_open_connection_outlives_its_token() {
    let local = local_with_tokens_of(Duration::from_secs(1)).await;
    let lakebase = lakebase(&local);
    let (client, connection) = lakebase.connect().await.expect("a connection");
    tokio::spawn(connection);
    soon(local.wait_until(|events| minted(events).len() >= 3)).await;
    client
        .simple_query("SELECT 1")
        .await
        .expect("the session is still there");
}
