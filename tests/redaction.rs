//! No secret appears in any output, error, `Debug` or trace: everything is captured and searched.

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use diesel_async::RunQueryDsl as _;
use lakebase_core::{Config, Error, User};
use lakebase_local::{Call, Fault, LocalLakebase, LoginFault};
use lakebase_tests::{forget_idle, lakebase, lakebase_with, local, vars};
use sea_orm::ConnectionTrait as _;
use tracing_subscriber::fmt::MakeWriter;

/// Every event and span of every crate, at every level.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<u8>>>);

impl io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("not poisoned")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Capture {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Capture {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("not poisoned")).into_owned()
    }
}

/// An error in every form a program may print.
fn all_forms(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?} {}", error.chain());
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let _ = write!(text, " {error} {error:?}");
        cause = error.source();
    }
    text
}

/// Of the whole process, which is why these tests have a program of their own; with the records of crates that
/// use `log`.
static CAPTURE: LazyLock<Capture> = LazyLock::new(|| {
    let capture = Capture::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(capture.clone())
        .finish();
    tracing_subscriber::util::SubscriberInitExt::init(subscriber);
    capture
});

async fn captured() -> LocalLakebase {
    LazyLock::force(&CAPTURE);
    local().await
}

/// Asserts that no secret is in what was shown, or in any trace.
fn assert_hidden(shown: &str, secrets: Vec<String>) {
    let traced = CAPTURE.text();
    assert!(traced.contains("database credential"), "the capture works");
    for secret in secrets {
        assert!(!shown.contains(&secret), "a secret is shown");
        // The local Lakebase logs the text that it is configured to answer.
        let ours = |line: &&str| line.contains(&secret) && !line.contains("lakebase_local::events");
        let line = traced.lines().find(ours);
        assert!(line.is_none(), "a secret is traced: {line:?}");
    }
}

/// The client secret of the service principal.
fn client_secret(local: &LocalLakebase) -> String {
    let secrets = local.secrets();
    let mut secrets = secrets.into_iter();
    let secret = secrets.find(|secret| secret.starts_with("dose"));
    secret.expect("a secret")
}

#[tokio::test]
async fn both_orms_at_work_show_no_secret() {
    let local = captured().await;
    let mut shown = String::new();
    let good = lakebase(&local);
    let config = Config::from_vars(local.env()).expect("a configuration");
    let _ = write!(shown, "{config:?} {config:#?} {good:?} {good:#?} ");
    let credential = good.credential().await.expect("a credential");
    let _ = write!(shown, "{credential:?} {credential:#?} ");
    let _ = write!(shown, "{:?} ", good.target().await.expect("resolved"));

    // Both ORMs at work, and at work after a revocation.
    let pool = lakebase_diesel::bb8::connect(&good).await.expect("a pool");
    let db = lakebase_seaorm::connect(&good).await.expect("a connection");
    let _ = write!(shown, "{pool:?} {db:?} ");
    for _ in 0..2 {
        let mut connection = pool.dedicated_connection().await.expect("a connection");
        diesel::sql_query("SELECT 1")
            .execute(&mut connection)
            .await
            .expect("an answer");
        forget_idle(&db).await;
        db.execute_unprepared("SELECT 1").await.expect("an answer");
        local.revoke_tokens();
    }
    assert_hidden(&shown, local.secrets());
    let traced = CAPTURE.text();
    let lines = traced.lines().count();
    assert!(lines > 500, "at every level: {lines} lines");
    assert!(traced.contains("tokio_postgres"), "so is the `log` crate");
}

#[tokio::test]
async fn a_native_password_is_not_shown() {
    let local = captured().await;
    // For the capture.
    lakebase(&local).credential().await.expect("a credential");
    let password = "a-native-password";
    local
        .create_native_role("native", password)
        .await
        .expect("a role");
    let changes = [
        ("PGUSER", "native"),
        ("PGPASSWORD", password),
        ("LAKEBASE_ENDPOINT", ""),
    ];
    let native = lakebase_with(&local, &changes);
    let shown = format!("{native:?} {native:#?}");
    lakebase_diesel::bb8::connect(&native)
        .await
        .expect("a pool");
    lakebase_seaorm::connect(&native)
        .await
        .expect("a connection")
        .ping()
        .await
        .expect("an answer");
    assert_hidden(&shown, vec![password.to_owned()]);
}

#[tokio::test]
async fn a_workspace_that_repeats_a_secret_is_not_quoted() {
    let local = captured().await;
    let good = lakebase(&local);
    let mut shown = String::new();
    let token = good
        .credential()
        .await
        .expect("a credential")
        .expose()
        .to_owned();
    for fault in [
        Fault::json(&format!("{{\"token\":\"{token}\",\"expire_time\":17}}")),
        Fault::json(&format!(
            "{{\"token\":\"{token}\",\"expire_time\":\"2020-01-01T00:00:00Z\"}}"
        )),
        Fault::json(&format!("{{\"token\":{{\"x\":\"{token}\"}}}}")),
        Fault::json(&format!("{{\"token\":\"{token}")),
        Fault::HalfReply,
    ] {
        local.fail(Call::Credential, fault);
        let error = lakebase(&local).credential().await.expect_err("a fault");
        shown.push_str(&all_forms(&error));
    }
    local.heal(Call::Credential);
    let client_secret = client_secret(&local);
    local.fail(
        Call::Token,
        Fault::status(400, "BAD", &format!("you sent {client_secret}")),
    );
    let error = lakebase(&local).credential().await.expect_err("a fault");
    shown.push_str(&all_forms(&error));
    local.heal(Call::Token);
    assert_hidden(&shown, local.secrets());
}

#[tokio::test]
async fn errors_of_logins_and_of_settings_show_no_secret() {
    let local = captured().await;
    let client_secret = client_secret(&local);
    let mut shown = String::new();
    for changes in [
        &[("PGUSER", "nobody-we-know")][..],
        &[("PGUSER", local.user())],
        &[("PGDATABASE", "missing")],
        &[("PGPORT", "1"), ("PGCONNECT_TIMEOUT", "0.2")],
        &[("PGSSLROOTCERT", "system")],
        &[
            ("PGUSER", "x"),
            ("PGPASSWORD", &client_secret),
            ("LAKEBASE_ENDPOINT", ""),
        ],
    ] {
        let bad = lakebase_with(&local, changes);
        let _ = write!(shown, "{bad:?} ");
        let error = bad.connect().await.map(drop).expect_err("it cannot work");
        shown.push_str(&all_forms(&error));
        let error = lakebase_diesel::bb8::connect(&bad)
            .await
            .map(drop)
            .expect_err("nor here");
        shown.push_str(&all_forms(&error));
        let error = lakebase_seaorm::connect(&bad)
            .await
            .map(drop)
            .expect_err("nor here");
        shown.push_str(&all_forms(&error));
    }
    let both = vars(&local, &[("PGPASSWORD", &client_secret)]);
    shown.push_str(&all_forms(&Config::from_vars(both).expect_err("both")));
    assert_hidden(&shown, local.secrets());
}

/// With cursor movements beside the token.
#[tokio::test]
async fn a_server_that_repeats_a_token_is_not_quoted_and_does_not_control_the_terminal() {
    let mut shown = String::new();
    for sqlstate in ["28P01", "XX000", "42501"] {
        let local = captured().await;
        let hasty = lakebase(&local).with_connect_timeout(Duration::from_millis(500));
        let token = hasty.credential().await.expect("a credential");
        let message = format!("\u{1b}[2Jno: {}\r\n", token.expose());
        local.fail_logins(1000, LoginFault::refuse(sqlstate, &message));
        let error = hasty.connect().await.map(drop).expect_err("refused");
        assert!(error.chain().contains("no: ***"), "{}", error.chain());
        shown.push_str(&all_forms(&error));
        let error = lakebase_diesel::connect(&hasty).await.map(drop);
        shown.push_str(&all_forms(&error.expect_err("refused")));
        let blocking = hasty.clone();
        let establish = move || lakebase_diesel::r2d2::establish(&blocking).map(drop);
        let error = tokio::task::spawn_blocking(establish).await;
        let _ = write!(
            shown,
            "{:?}",
            error.expect("no panic").expect_err("refused")
        );
        let error = lakebase_seaorm::connect(&hasty).await.map(drop);
        shown.push_str(&all_forms(&error.expect_err("refused")));
        assert_hidden(&shown, local.secrets());
    }
    assert!(!shown.contains('\u{1b}'), "a terminal is controlled");
}

#[tokio::test]
async fn a_users_own_token_is_not_shown_whether_it_works_or_not() {
    let local = captured().await;
    let name = "ana@example.com";
    local.add_user(name);
    local.create_role(name).await.expect("a role");
    let hour = Duration::from_secs(3600);
    let token = |scope| local.forwarded_token(name, hour, &[scope]);
    let pools = lakebase_diesel::bb8::user_pools(&lakebase(&local)).build();
    let mut shown = String::new();
    for user in [
        User::new(name, token("postgres")),
        User::new(name, token("sql")),
        User::new("eve@example.com", token("postgres")),
        // The arguments the wrong way round.
        User::new(token("postgres"), name),
    ] {
        let _ = write!(shown, "{user:?} {user:#?} ");
        match pools.get(&user).await {
            Ok(pool) => {
                pool.get().await.expect("a connection");
                let _ = write!(shown, "{pool:?} {pools:?} ");
            }
            Err(error) => shown += &all_forms(&error),
        }
    }
    assert_hidden(&shown, local.secrets());
}
