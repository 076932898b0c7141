//! Many users of one application: the queries of each user run as that user.

use std::time::Duration;

use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl as _;
use futures_util::future::join_all;
use lakebase_core::users::{UserPools, UserPoolsBuilder};
use lakebase_core::{Error, Lakebase, User};
use lakebase_diesel::{bb8, deadpool};
use lakebase_local::{EventKind, LocalLakebase};
use lakebase_tests::{
    PATIENCE, TestClock, lakebase, lakebase_on, lakebase_with, local, local_with_tokens_of, logins,
    no_session, soon, until,
};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};

const HOUR: Duration = Duration::from_secs(3600);

/// A policy restricts each role to its own notes.
const NOTES: &str = "CREATE TABLE notes (owner TEXT NOT NULL DEFAULT current_user, text TEXT NOT NULL); \
    ALTER TABLE notes ENABLE ROW LEVEL SECURITY; \
    CREATE POLICY own ON notes USING (owner = current_user); \
    GRANT SELECT, INSERT ON notes TO PUBLIC";

/// Adds a user with a role and a note. Returns the user with a new token.
async fn person(local: &LocalLakebase, name: &str) -> User {
    local.add_user(name);
    local.create_role(name).await.expect("a role");
    let note = format!("INSERT INTO notes VALUES ('{name}', 'of {name}')");
    local.sql(&note).await.expect("a note");
    authenticated(local, name)
}

/// Returns the user with another token.
fn authenticated(local: &LocalLakebase, name: &str) -> User {
    User::new(name, local.forwarded_token(name, HOUR, &["postgres"]))
}

async fn notes() -> LocalLakebase {
    let local = local().await;
    local.sql(NOTES).await.expect("a table");
    local
}

#[derive(diesel::QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    text: String,
    #[diesel(sql_type = BigInt)]
    process: i64,
}

const ASK: &str = "SELECT text, pg_backend_pid()::bigint AS process FROM notes";

/// The pool of an adapter.
trait Pool: Clone + Send + Sync + 'static {
    fn pools(lakebase: &Lakebase) -> UserPoolsBuilder<Self>;
    fn ask(&self) -> impl Future<Output = Result<Vec<(String, i64)>, String>> + Send;
}

fn found(rows: Vec<Row>) -> Vec<(String, i64)> {
    rows.into_iter()
        .map(|row| (row.text, row.process))
        .collect()
}

impl Pool for bb8::Pool {
    fn pools(lakebase: &Lakebase) -> UserPoolsBuilder<Self> {
        bb8::user_pools(lakebase)
    }

    async fn ask(&self) -> Result<Vec<(String, i64)>, String> {
        let mut connection = self.get().await.map_err(|error| error.to_string())?;
        let rows = diesel::sql_query(ASK).load(&mut connection).await;
        rows.map(found).map_err(|error| error.to_string())
    }
}

impl Pool for deadpool::Pool {
    fn pools(lakebase: &Lakebase) -> UserPoolsBuilder<Self> {
        deadpool::user_pools(lakebase)
    }

    async fn ask(&self) -> Result<Vec<(String, i64)>, String> {
        let mut connection = self.get().await.map_err(|error| error.to_string())?;
        let rows = diesel::sql_query(ASK).load(&mut connection).await;
        rows.map(found).map_err(|error| error.to_string())
    }
}

impl Pool for DatabaseConnection {
    fn pools(lakebase: &Lakebase) -> UserPoolsBuilder<Self> {
        lakebase_seaorm::user_pools(lakebase)
    }

    async fn ask(&self) -> Result<Vec<(String, i64)>, String> {
        let ask = Statement::from_string(DbBackend::Postgres, ASK);
        let rows = self.query_all_raw(ask).await;
        let rows = rows.map_err(|error| error.to_string())?;
        let row = |row: &sea_orm::QueryResult| {
            Ok::<_, sea_orm::DbErr>((row.try_get("", "text")?, row.try_get("", "process")?))
        };
        let rows: Result<_, _> = rows.iter().map(row).collect();
        rows.map_err(|error| error.to_string())
    }
}

async fn rejected<P: Pool>(pools: &UserPools<P>, user: &User) -> Error {
    let error = soon(pools.get(user)).await.map(drop);
    error.expect_err("no pool")
}

async fn each_user_gets_their_own_rows<P: Pool>() {
    let local = notes().await;
    let pools = P::pools(&lakebase(&local)).build();
    for name in ["ana@example.com", "bo@example.com"] {
        let user = person(&local, name).await;
        let pool = soon(pools.get(&user)).await.expect("a pool");
        let rows = soon(pool.ask()).await.expect("rows");
        let texts: Vec<&str> = rows.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, [format!("of {name}")]);
    }
    // sqlx returns connections a moment after their use.
    until(|| pools.stats().in_use == 0).await;
    assert_eq!(pools.stats().open, 2);
    let logins = logins(&local.events()).into_iter();
    let logins: Vec<String> = logins.map(|(_, login)| login.user).collect();
    assert_eq!(logins, ["ana@example.com", "bo@example.com"]);
    soon(pools.close()).await;
    assert_eq!(pools.stats().open, 0);
    no_session(&local).await;
}

#[tokio::test]
async fn each_user_gets_their_own_rows_through_bb8() {
    each_user_gets_their_own_rows::<bb8::Pool>().await;
}

#[tokio::test]
async fn each_user_gets_their_own_rows_through_deadpool() {
    each_user_gets_their_own_rows::<deadpool::Pool>().await;
}

#[tokio::test]
async fn each_user_gets_their_own_rows_through_seaorm() {
    each_user_gets_their_own_rows::<DatabaseConnection>().await;
}

/// The variables of the application are set, but its identity is never used.
#[tokio::test]
async fn an_email_with_the_token_of_another_user_gets_no_connection_whether_a_pool_is_open_or_not()
{
    let local = notes().await;
    let ana = person(&local, "ana@example.com").await;
    let token = local.forwarded_token("eve@example.com", HOUR, &["postgres"]);
    let forged = User::new("ana@example.com", token);
    let pools = bb8::user_pools(&lakebase(&local)).build();
    for has_pool in [false, true] {
        if has_pool {
            soon(pools.get(&ana)).await.expect("a pool");
        }
        let error = rejected(&pools, &forged).await;
        assert!(
            error.is_login() && !error.is_transient(),
            "{has_pool}: {error}"
        );
        let text = error.chain();
        assert!(text.contains("ana@example.com"), "{text}");
    }
    let pool = soon(pools.get(&ana)).await.expect("a pool");
    assert_eq!(soon(pool.ask()).await.expect("rows").len(), 1);
    let mut logins = logins(&local.events()).into_iter();
    assert!(logins.all(|(_, login)| login.user != local.client_id()));
}

#[tokio::test]
async fn a_user_who_cannot_log_in_gets_the_reason_and_does_not_affect_others() {
    let local = notes().await;
    let ana = person(&local, "ana@example.com").await;
    let pools = bb8::user_pools(&lakebase(&local)).build();
    let pool = soon(pools.get(&ana)).await.expect("a pool");
    local.add_user("bo@example.com");
    // No role in the database.
    let error = rejected(&pools, &authenticated(&local, "bo@example.com")).await;
    assert!(error.is_login(), "{error}");
    assert!(
        error.chain().contains("databricks_create_role"),
        "{}",
        error.chain()
    );
    // Administrators copy the SQL of the hint.
    let name = "x', 'USER'); DROP ROLE ana; --";
    local.add_user(name);
    let error = rejected(&pools, &authenticated(&local, name)).await;
    let advice = "databricks_create_role('x'', ''USER''); DROP ROLE ana; --', ...)";
    assert!(error.chain().contains(advice), "{}", error.chain());
    // A token without the scope.
    let scopeless = local.forwarded_token("ana@example.com", HOUR, &["sql"]);
    let error = rejected(&pools, &User::new("ana@example.com", scopeless)).await;
    assert_eq!(error.status(), Some(403), "{error}");
    assert!(error.chain().contains("postgres"), "{}", error.chain());
    // A token that has expired.
    let expired = local.forwarded_token("ana@example.com", Duration::ZERO, &["postgres"]);
    let error = rejected(&pools, &User::new("ana@example.com", expired)).await;
    assert!(error.is_sign_in(), "{error}");
    assert!(
        error.chain().contains("The user's token has expired"),
        "{}",
        error.chain()
    );
    // A user who was removed from the workspace.
    let cy = person(&local, "cy@example.com").await;
    local.remove_user("cy@example.com");
    let error = rejected(&pools, &cy).await;
    assert!(error.is_sign_in(), "{error}");
    assert_eq!(soon(pool.ask()).await.expect("rows").len(), 1);
}

#[tokio::test]
async fn the_next_login_uses_a_newer_token_and_open_connections_stay() {
    let local = notes().await;
    let ana = person(&local, "ana@example.com").await;
    let pools = bb8::user_pools(&lakebase(&local)).build();
    let pool = soon(pools.get(&ana)).await.expect("a pool");
    let before = soon(pool.ask()).await.expect("rows")[0].1;
    // The newer token comes during a transaction.
    let mut transaction = soon(pool.get()).await.expect("a connection");
    diesel::sql_query("BEGIN")
        .execute(&mut transaction)
        .await
        .expect("begun");
    let newer = authenticated(&local, "ana@example.com");
    let again = soon(pools.get(&newer)).await.expect("the pool");
    diesel::sql_query("COMMIT")
        .execute(&mut transaction)
        .await
        .expect("committed");
    drop(transaction);
    let after = soon(again.ask()).await.expect("rows")[0].1;
    assert_eq!(before, after, "the same connection");
    // The earlier token is still valid, and is not checked again.
    let minted = local.counters().minted;
    soon(pools.get(&ana)).await.expect("the pool");
    soon(pools.get(&newer)).await.expect("the pool");
    assert_eq!(local.counters().minted, minted);
    assert_eq!(pools.stats().open, 1);
    // The second connection logs in with the cached credential.
    let (one, two) = (soon(again.get()).await, soon(again.get()).await);
    one.expect("a connection");
    two.expect("a connection");
    assert_eq!(local.counters().minted, minted);
    // The mint that checks a newer token replaces the credential of the pool.
    local.revoke_tokens();
    let newest = authenticated(&local, "ana@example.com");
    soon(pools.get(&newest)).await.expect("the pool");
    let three = join_all((0..3).map(|_| again.get())).await;
    assert!(three.iter().all(Result::is_ok));
    assert_eq!(local.counters().minted, minted + 1);
    assert_eq!(pools.stats().open, 1);
}

#[tokio::test]
async fn after_the_expiry_of_a_users_token_logins_fail_and_sessions_stay_open() {
    let local = local_with_tokens_of(Duration::from_secs(2)).await;
    local.sql(NOTES).await.expect("a table");
    let ana = person(&local, "ana@example.com").await;
    // The pool waits this long for the connection in use.
    let hasty = lakebase(&local).with_connect_timeout(Duration::from_secs(1));
    let pools = bb8::user_pools(&hasty).build();
    let pool = soon(pools.get(&ana)).await.expect("a pool");
    let mut held = soon(pool.get()).await.expect("a connection");
    local.expire_workspace_tokens();
    local.expire_tokens();
    let error = soon(pool.get()).await.map(drop).expect_err("no login");
    let cause = lakebase_diesel::cause(&error).unwrap_or_else(|| panic!("typed: {error:?}"));
    assert!(cause.is_sign_in(), "{cause}");
    let rows: Vec<Row> = diesel::sql_query(ASK).load(&mut held).await.expect("rows");
    assert_eq!(rows.len(), 1);
    let newer = authenticated(&local, "ana@example.com");
    soon(pools.get(&newer)).await.expect("the pool");
    let both = (soon(pool.get()).await, soon(pool.get()).await);
    both.0.expect("a connection");
    both.1.expect("a connection");
}

#[tokio::test]
async fn a_member_of_a_group_logs_in_as_the_group_with_their_own_token() {
    let local = notes().await;
    for name in ["ana@example.com", "eve@example.com"] {
        local.add_user(name);
    }
    let members = ["ana@example.com"];
    local
        .create_group_role("analysts", &members)
        .await
        .expect("a role");
    let pools = bb8::user_pools(&lakebase(&local)).build();
    let ana = authenticated(&local, "ana@example.com").role("analysts");
    let pool = soon(pools.get(&ana)).await.expect("a pool");
    assert!(soon(pool.ask()).await.expect("no rows").is_empty());
    let eve = authenticated(&local, "eve@example.com").role("analysts");
    let error = rejected(&pools, &eve).await;
    assert!(error.is_login(), "{error}");
}

#[tokio::test]
async fn at_the_limit_a_new_pool_replaces_the_longest_idle_one_or_waits() {
    let local = notes().await;
    let pools = bb8::user_pools(&lakebase(&local)).connections_per_user(1);
    let pools = pools.max_connections(3).wait_timeout(PATIENCE).build();
    let (ana, bo) = (
        person(&local, "ana@x.com").await,
        person(&local, "bo@x.com").await,
    );
    let (cy, di) = (
        person(&local, "cy@x.com").await,
        person(&local, "di@x.com").await,
    );
    drop(soon(pools.get(&ana)).await.expect("a pool"));
    let used = soon(pools.get(&bo)).await.expect("a pool");
    let third = soon(pools.get(&cy))
        .await
        .expect("the place of the idle pool");
    assert_eq!(pools.stats().evicted, 1);
    // Both pools are in use: another user waits, and neither is closed.
    let waiting = tokio::spawn({
        let (pools, di) = (pools.clone(), di.clone());
        async move { pools.get(&di).await.map(drop) }
    });
    until(|| pools.stats().waiting > 0).await;
    assert_eq!(soon(used.ask()).await.expect("rows").len(), 1);
    assert!(!waiting.is_finished());
    drop(third);
    soon(waiting).await.expect("no panic").expect("a pool");
    assert_eq!(soon(used.ask()).await.expect("rows").len(), 1);
    assert_eq!((pools.stats().open, pools.stats().limit), (2, 2));
}

#[tokio::test]
async fn the_error_of_the_pools_limit_differs_from_that_of_the_computes_limit() {
    let local = notes().await;
    let (ana, bo) = (
        person(&local, "ana@x.com").await,
        person(&local, "bo@x.com").await,
    );
    let hasty = lakebase(&local).with_connect_timeout(Duration::from_secs(1));
    let pools = bb8::user_pools(&hasty).max_connections(3);
    let pools = pools.wait_timeout(Duration::from_millis(100)).build();
    let _used = soon(pools.get(&ana)).await.expect("a pool");
    let error = rejected(&pools, &bo).await;
    assert!(error.is_timeout() && error.is_transient(), "{error}");
    assert!(error.to_string().contains("no free pool"), "{error}");
    assert_eq!(error.sqlstate(), None, "{error}");
    local.set_connection_limit(0);
    let pools = bb8::user_pools(&hasty).build();
    let error = rejected(&pools, &bo).await;
    assert_eq!(error.sqlstate(), Some("53300"), "{error}");
}

#[tokio::test]
async fn renewing_a_users_credential_checks_the_token_again() {
    let local = notes().await;
    person(&local, "ana@example.com").await;
    let token = local.forwarded_token("ana@example.com", 4 * HOUR, &["postgres"]);
    let ana = User::new("ana@example.com", token);
    let clock = TestClock::default();
    let pools = bb8::user_pools(&lakebase_on(&local, &clock)).build();
    let minutes = |minutes: i64| clock.set_ahead_millis(minutes * 60 * 1000);
    let minted = || local.counters().minted;
    soon(pools.get(&ana)).await.expect("a pool");
    assert_eq!(minted(), 1);
    minutes(49);
    soon(pools.get(&ana))
        .await
        .expect("the pool, without a wait");
    until(|| minted() >= 2 && pools.stats().waiting == 0).await;
    // The renewal was the check.
    minutes(85);
    for _ in 0..10 {
        soon(pools.get(&ana)).await.expect("the pool");
    }
    assert_eq!(minted(), 2);
    // The next renewal is rejected, and so is the user.
    local.remove_user("ana@example.com");
    minutes(49 + 51);
    let error = rejected(&pools, &ana).await;
    assert!(error.is_sign_in(), "{error}");
    assert_eq!(minted(), 2);
}

#[tokio::test]
async fn an_idle_pool_is_closed_and_opened_again_for_the_next_request() {
    let local = notes().await;
    let ana = person(&local, "ana@example.com").await;
    let pools = bb8::user_pools(&lakebase(&local))
        .idle_timeout(Duration::from_millis(200))
        .build();
    let pool = soon(pools.get(&ana)).await.expect("a pool");
    drop(pool);
    no_session(&local).await;
    until(|| pools.stats().open == 0).await;
    let pool = soon(pools.get(&ana)).await.expect("a pool");
    assert_eq!(soon(pool.ask()).await.expect("rows").len(), 1);
    assert_eq!(local.counters().minted, 1, "the credential was kept");
    drop(pool);
    soon(pools.close()).await;
    // A forged e-mail does not get the cached credential.
    let token = local.forwarded_token("eve@example.com", HOUR, &["postgres"]);
    let error = rejected(&pools, &User::new("ana@example.com", token)).await;
    assert!(error.is_login(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_concurrent_users_get_their_own_rows_within_the_connection_limit() {
    const USERS: usize = 200;
    const REQUESTS: usize = 20;
    const CONNECTIONS: u32 = 60;
    let local = notes().await;
    let users = join_all((0..USERS).map(|n| {
        let local = &local;
        async move { person(local, &format!("user{n}@example.com")).await }
    }));
    let users = users.await;
    let pools = deadpool::user_pools(&lakebase(&local)).connections_per_user(2);
    let pools = pools
        .max_connections(CONNECTIONS)
        .wait_timeout(PATIENCE)
        .build();
    let requests = (0..USERS * REQUESTS).map(|n| {
        // A fixed order that mixes the users.
        let random = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let user = users[random as usize % USERS].clone();
        let pools = pools.clone();
        tokio::spawn(async move {
            let pool = pools.get(&user).await.expect("a pool");
            let rows = pool.ask().await.expect("rows");
            let texts: Vec<String> = rows.into_iter().map(|row| row.0).collect();
            assert_eq!(texts, [format!("of {}", user.name())]);
        })
    });
    for request in join_all(requests).await {
        request.expect("no panic");
    }
    let (mut open, mut most) = (0_i64, 0);
    for event in local.events() {
        match event.kind {
            EventKind::LoggedIn(_) => open += 1,
            EventKind::Ended { .. } => open -= 1,
            _ => {}
        }
        most = most.max(open);
    }
    // The end of a closed session is logged a moment after the next login.
    assert!(most <= i64::from(CONNECTIONS) + 4, "{most}");
    soon(pools.close()).await;
    no_session(&local).await;
}

#[tokio::test]
async fn a_handle_without_a_workspace_or_a_valid_user_is_rejected() {
    let local = notes().await;
    let native = lakebase_with(
        &local,
        &[("LAKEBASE_ENDPOINT", ""), ("PGPASSWORD", "secret")],
    );
    let user = User::new("ana@example.com", "token");
    let error = native.on_behalf_of(&user).expect_err("no workspace");
    assert!(error.is_config(), "{error}");
    for user in [
        User::new("", "token"),
        User::new("ana@example.com", ""),
        User::new("ana@example.com", "two words"),
    ] {
        let error = lakebase(&local)
            .on_behalf_of(&user)
            .expect_err("no such user");
        assert!(error.is_config(), "{user:?}: {error}");
    }
    let error = lakebase(&local)
        .set_user_token("token")
        .expect_err("no user");
    assert!(error.is_config(), "{error}");
}

#[tokio::test]
async fn invalid_tokens_evict_no_pool_of_another_user() {
    let local = notes().await;
    let ana = person(&local, "ana@example.com").await;
    let pools = bb8::user_pools(&lakebase(&local)).connections_per_user(1);
    let pools = pools.max_connections(2).build();
    drop(soon(pools.get(&ana)).await.expect("a pool"));
    assert_eq!((pools.stats().open, pools.stats().limit), (1, 1));
    let attempts = (0..20).map(|n| {
        let (name, token) = match n % 2 {
            0 => ("ana@example.com", format!("made-up-{n}")),
            _ => ("bo@example.com", format!("made-up-{}", n % 3)),
        };
        let (pools, user) = (pools.clone(), User::new(name, token));
        async move { rejected(&pools, &user).await }
    });
    for error in join_all(attempts).await {
        assert!(error.is_sign_in(), "{error}");
    }
    let stats = pools.stats();
    assert_eq!((stats.open, stats.in_use, stats.evicted), (1, 0, 0));
    let minted = local.counters().minted;
    soon(pools.get(&ana)).await.expect("the pool");
    assert_eq!(local.counters().minted, minted);
}

#[tokio::test]
async fn concurrent_requests_with_two_tokens_of_a_user_share_one_pool() {
    let local = notes().await;
    let ana = person(&local, "ana@example.com").await;
    let other = authenticated(&local, "ana@example.com");
    let pools = bb8::user_pools(&lakebase(&local)).build();
    let (one, two) = soon(async { tokio::join!(pools.get(&ana), pools.get(&other)) }).await;
    let (one, two) = (one.expect("a pool"), two.expect("a pool"));
    assert_eq!((pools.stats().open, pools.stats().in_use), (1, 1));
    let (one, two) = (soon(one.ask()).await, soon(two.ask()).await);
    assert_eq!(one.expect("rows")[0].1, two.expect("rows")[0].1);
}

#[tokio::test]
async fn members_of_a_group_share_no_connection_even_with_the_same_email() {
    let local = notes().await;
    let members = ["ana@example.com", "eve@example.com"];
    for name in members {
        local.add_user(name);
    }
    let created = local.create_group_role("analysts", &members).await;
    created.expect("a role");
    local
        .sql("INSERT INTO notes VALUES ('analysts', 'ours')")
        .await
        .expect("a note");
    let pools = bb8::user_pools(&lakebase(&local)).build();
    let ana = authenticated(&local, "ana@example.com").role("analysts");
    let token = local.forwarded_token("eve@example.com", HOUR, &["postgres"]);
    let eve = User::new("ana@example.com", token).role("analysts");
    let anas = soon(pools.get(&ana)).await.expect("a pool");
    let eves = soon(pools.get(&eve)).await.expect("a pool");
    let (anas, eves) = (soon(anas.ask()).await, soon(eves.ask()).await);
    assert_ne!(anas.expect("rows")[0].1, eves.expect("rows")[0].1);
}

#[tokio::test]
async fn a_pool_with_a_connection_in_use_is_not_evicted_after_its_handle_is_dropped() {
    let local = notes().await;
    let (ana, bo) = (
        person(&local, "ana@x.com").await,
        person(&local, "bo@x.com").await,
    );
    let pools = deadpool::user_pools(&lakebase(&local)).connections_per_user(1);
    let pools = pools.max_connections(2).wait_timeout(PATIENCE).build();
    let pool = soon(pools.get(&ana)).await.expect("a pool");
    let mut connection = soon(pool.get()).await.expect("a connection");
    drop(pool);
    let waiting = tokio::spawn({
        let pools = pools.clone();
        async move { pools.get(&bo).await.map(drop) }
    });
    until(|| pools.stats().waiting > 0).await;
    let rows: Vec<Row> = diesel::sql_query(ASK)
        .load(&mut connection)
        .await
        .expect("rows");
    assert_eq!((rows.len(), pools.stats().evicted), (1, 0));
    drop(connection);
    soon(waiting).await.expect("no panic").expect("a pool");
    assert_eq!(pools.stats().evicted, 1);
}
