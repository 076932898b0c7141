//! No secret appears in an output, error, `Debug` or trace. The tests capture and search them.

use std::fmt::Write as _;
use std::sync::{Mutex, Once};
use std::time::Duration;

use diesel_async::RunQueryDsl as _;
use lakebase_core::{Config, Error, User};
use lakebase_local::{Call, Fault, LocalLakebase, LoginFault};
use lakebase_tests::{NATIVE_PASSWORD, forget_idle, lakebase, lakebase_with, local, native, vars};
use sea_orm::ConnectionTrait as _;
use tracing_subscriber::fmt::MakeWriter as _;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Returns an error in every form that a program can print.
fn all_forms(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?} {}", error.chain());
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let _ = write!(text, " {error} {error:?}");
        cause = error.source();
    }
    text
}

/// Every event and span of this process at every level, and the records of crates that use `log`.
static CAPTURE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn captured_text() -> String {
    String::from_utf8_lossy(&CAPTURE.lock().expect("not poisoned")).into_owned()
}

async fn captured() -> LocalLakebase {
    static START: Once = Once::new();
    START.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::FULL)
            .with_writer(|| CAPTURE.make_writer());
        subscriber.finish().init();
    });
    local().await
}

/// Asserts that no secret is in `shown` or in a trace.
fn assert_hidden(shown: &str, secrets: Vec<String>) {
    let traced = captured_text();
    assert!(traced.contains("database credential"), "the capture works");
    for secret in secrets {
        assert!(!shown.contains(&secret), "a secret is shown");
        // The local Lakebase logs its configured faults.
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
async fn both_orms_show_no_secret() {
    let local = captured().await;
    let mut shown = String::new();
    let good = lakebase(&local);
    let config = Config::from_vars(local.env()).expect("a configuration");
    let _ = write!(shown, "{config:?} {config:#?} {good:?} {good:#?} ");
    let credential = good.credential().await.expect("a credential");
    let _ = write!(shown, "{credential:?} {credential:#?} ");
    let _ = write!(shown, "{:?} ", good.target().await.expect("resolved"));

    // Before and after a revocation.
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
    let traced = captured_text();
    let lines = traced.lines().count();
    assert!(lines > 500, "at every level: {lines} lines");
    assert!(
        traced.contains("tokio_postgres"),
        "with the records of `log`"
    );
}

#[tokio::test]
async fn a_native_password_is_not_shown() {
    let local = captured().await;
    // So that the capture has an event.
    lakebase(&local).credential().await.expect("a credential");
    let native = native(&local, &[]).await;
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
    assert_hidden(&shown, vec![NATIVE_PASSWORD.to_owned()]);
}

#[tokio::test]
async fn a_secret_in_a_reply_of_the_workspace_is_not_shown() {
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
async fn errors_of_logins_and_settings_show_no_secret() {
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
        let error = bad.connect().await.map(drop).expect_err("no login");
        shown.push_str(&all_forms(&error));
        let error = lakebase_diesel::bb8::connect(&bad)
            .await
            .map(drop)
            .expect_err("no login");
        shown.push_str(&all_forms(&error));
        let error = lakebase_seaorm::connect(&bad)
            .await
            .map(drop)
            .expect_err("no login");
        shown.push_str(&all_forms(&error));
    }
    let both = vars(&local, &[("PGPASSWORD", &client_secret)]);
    shown.push_str(&all_forms(&Config::from_vars(both).expect_err("both")));
    assert_hidden(&shown, local.secrets());
}

#[tokio::test]
async fn a_message_of_the_server_with_a_token_and_control_characters_is_cleaned() {
    let mut shown = String::new();
    for sqlstate in ["28P01", "XX000", "42501"] {
        let local = captured().await;
        let hasty = lakebase(&local).with_connect_timeout(Duration::from_millis(500));
        let token = hasty.credential().await.expect("a credential");
        let message = format!("\u{1b}[2Jno: {}\r\n", token.expose());
        local.fail_logins(1000, LoginFault::refuse(sqlstate, &message));
        let error = hasty.connect().await.map(drop).expect_err("rejected");
        assert!(error.chain().contains("no: ***"), "{}", error.chain());
        shown.push_str(&all_forms(&error));
        let error = lakebase_diesel::connect(&hasty).await.map(drop);
        shown.push_str(&all_forms(&error.expect_err("rejected")));
        let blocking = hasty.clone();
        let establish = move || lakebase_diesel::r2d2::establish(&blocking).map(drop);
        let error = tokio::task::spawn_blocking(establish).await;
        let _ = write!(
            shown,
            "{:?}",
            error.expect("no panic").expect_err("rejected")
        );
        let error = lakebase_seaorm::connect(&hasty).await.map(drop);
        shown.push_str(&all_forms(&error.expect_err("rejected")));
        assert_hidden(&shown, local.secrets());
    }
    assert!(!shown.contains('\u{1b}'), "a control character");
}

#[tokio::test]
async fn valid_and_invalid_tokens_of_users_are_not_shown() {
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
        // With the arguments in the wrong order.
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
