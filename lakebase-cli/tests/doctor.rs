//! The output of `lakebase doctor` for a working set-up and for broken ones.

#![allow(clippy::expect_used)]

mod support;

use lakebase_local::{Call, Fault, LocalLakebase, SignIn};
use support::{Ran, local, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Runs it and compares the output with the snapshot of that name; filters replace varying parts.
async fn doctor(name: &str, local: &LocalLakebase, changes: &[(&str, &str)]) -> Ran {
    let ran = run(["doctor"], &local.env(), changes).await;
    compare(name, &ran.out, local);
    assert_eq!(ran.err, "");
    for secret in local.secrets() {
        assert!(!ran.out.contains(&secret), "{name} prints a secret");
    }
    ran
}

fn compare(name: &str, text: &str, local: &LocalLakebase) {
    let folder = local
        .ca_file()
        .parent()
        .expect("a folder")
        .display()
        .to_string();
    let text = text.replace(&folder, "[folder]");
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    settings.add_filter(&format!("request id {uuid}"), "request id [request]");
    settings.add_filter(uuid, "[service principal]");
    settings.add_filter(r"ana\.[0-9a-f]{8}@example\.com", "[person]");
    settings.add_filter(r"(127\.0\.0\.1|localhost):\d+", "$1:[port]");
    settings.add_filter(r#"port(": "|: )\d{4,}"#, "port$1[port]");
    settings.add_filter(
        r"localhost is (127\.0\.0\.1|::1).*",
        "localhost is [address]",
    );
    settings.add_filter(r"has no address: .*", "has no address: [why]");
    settings.add_filter(r"error sending request: .*", "error sending request: [why]");
    settings.add_filter(r"\(os error \d+\)", "(os error [n])");
    settings.add_filter(r"in \d+ ms", "in [n] ms");
    settings.add_filter(r"Postgres \d\d\.[0-9].*", "Postgres [version]");
    settings.add_filter(r"lakebase \d+\.\d+\.\d+", "lakebase [version]");
    settings.add_filter(r"\d+ s behind", "[n] s behind");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[tokio::test]
async fn a_good_set_up_passes_every_step() {
    let local = local().await;
    let own = format!("CREATE SCHEMA app AUTHORIZATION \"{}\"", local.client_id());
    local.sql(&own).await.expect("a schema");
    let ran = doctor("good", &local, &[("LAKEBASE_SCHEMA", "app")]).await;
    assert_eq!(ran.code, Some(0));
}

#[tokio::test]
async fn a_native_password_needs_no_workspace() {
    let local = local().await;
    local
        .create_native_role("native", "pass")
        .await
        .expect("a role");
    local
        .sql("CREATE SCHEMA native AUTHORIZATION native")
        .await
        .expect("a schema");
    let changes = [
        ("LAKEBASE_ENDPOINT", ""),
        ("PGUSER", "native"),
        ("PGPASSWORD", "pass"),
        ("DATABRICKS_HOST", ""),
        ("DATABRICKS_CLIENT_ID", ""),
        ("DATABRICKS_CLIENT_SECRET", ""),
        ("LAKEBASE_SCHEMA", "native"),
    ];
    let ran = doctor("native_password", &local, &changes).await;
    assert_eq!(ran.code, Some(0));
}

#[tokio::test]
async fn an_empty_configuration_fails_the_first_check() {
    let local = local().await;
    let ran = run(["doctor"], &[], &[]).await;
    compare("broken_01_nothing_configured", &ran.out, &local);
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_host_instead_of_an_endpoint_fails_the_first_check() {
    let local = local().await;
    let host = "ep-quiet-river-d1abc234.database.us-east-1.cloud.databricks.com";
    let ran = doctor(
        "broken_02_host_as_endpoint",
        &local,
        &[("LAKEBASE_ENDPOINT", host)],
    )
    .await;
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_wrong_client_secret_fails_the_authentication() {
    let local = local().await;
    let ran = doctor(
        "broken_03_wrong_secret",
        &local,
        &[("DATABRICKS_CLIENT_SECRET", "dose-not-that-one")],
    )
    .await;
    assert_eq!(ran.code, Some(1));
    assert!(!ran.out.contains("dose-not-that-one"));
}

#[tokio::test]
async fn an_unreachable_workspace_fails_the_authentication() {
    let local = local().await;
    local.set_api_down(true);
    let ran = doctor("broken_04_workspace_down", &local, &[]).await;
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_missing_endpoint_fails_the_mint() {
    let local = local().await;
    let path = "projects/local/branches/production/endpoints/secondary";
    let ran = doctor(
        "broken_05_no_such_endpoint",
        &local,
        &[("LAKEBASE_ENDPOINT", path)],
    )
    .await;
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_missing_privilege_on_the_project_fails_the_mint() {
    let local = local().await;
    let fault = Fault::status(
        403,
        "PERMISSION_DENIED",
        "User does not have CAN USE on project local",
    );
    local.fail(Call::Credential, fault);
    let ran = doctor("broken_06_no_right_to_mint", &local, &[]).await;
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_host_name_without_an_address_fails_the_resolution() {
    let local = local().await;
    let ran = doctor(
        "broken_07_no_address",
        &local,
        &[("PGHOST", "nowhere.invalid")],
    )
    .await;
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_closed_port_fails_the_connection() {
    let local = local().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port().to_string();
    drop(free);
    let ran = doctor("broken_08_nobody_listens", &local, &[("PGPORT", &port)]).await;
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_not_trusted() {
    let local = local().await;
    let ran = doctor(
        "broken_09_untrusted_certificate",
        &local,
        &[("PGSSLROOTCERT", "")],
    )
    .await;
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_service_principal_without_a_role_cannot_log_in() {
    let local = local().await;
    let (id, secret) = local.add_service_principal();
    let changes = [
        ("DATABRICKS_CLIENT_ID", id.as_str()),
        ("DATABRICKS_CLIENT_SECRET", &secret),
        ("PGUSER", ""),
    ];
    let ran = doctor("broken_10_no_role", &local, &changes).await;
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_role_of_another_identity_cannot_log_in() {
    let local = local().await;
    let ran = doctor("broken_11_other_role", &local, &[("PGUSER", local.user())]).await;
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_schema_of_another_owner_is_a_problem() {
    let local = local().await;
    local.sql("CREATE SCHEMA app").await.expect("a schema");
    let ran = doctor(
        "broken_12_other_schema",
        &local,
        &[("LAKEBASE_SCHEMA", "app")],
    )
    .await;
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_missing_schema_is_a_problem() {
    let local = local().await;
    let ran = doctor("broken_13_no_schema", &local, &[("LAKEBASE_SCHEMA", "app")]).await;
    assert_eq!(ran.code, Some(1));
}

#[tokio::test]
async fn a_wrong_clock_is_a_warning() {
    let local = local().await;
    let own = format!("CREATE SCHEMA app AUTHORIZATION \"{}\"", local.client_id());
    local.sql(&own).await.expect("a schema");
    local.set_clock_skew_millis(20 * 60 * 1000);
    let ran = doctor("warning_clock", &local, &[("LAKEBASE_SCHEMA", "app")]).await;
    assert_eq!(ran.code, Some(0));
}

#[tokio::test]
async fn no_privilege_in_public_is_a_warning() {
    let local = local().await;
    let ran = doctor("warning_public", &local, &[]).await;
    assert_eq!(ran.code, Some(0));
}

#[tokio::test]
async fn a_role_that_row_level_security_does_not_restrict_is_a_warning_with_the_reason() {
    let local = local().await;
    let role = local.client_id();
    let sql = format!(
        "CREATE ROLE app_owner; CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO \"{role}\"; \
         CREATE TABLE app.open (); CREATE TABLE app.notes (); ALTER TABLE app.notes ENABLE ROW LEVEL SECURITY; \
         CREATE TABLE app.drafts (); ALTER TABLE app.drafts ENABLE ROW LEVEL SECURITY; \
         ALTER TABLE app.drafts OWNER TO \"{role}\"; \
         ALTER TABLE app.notes OWNER TO app_owner; GRANT app_owner TO \"{role}\""
    );
    local.sql(&sql).await.expect("a schema");
    let ran = doctor("warning_rows", &local, &[("LAKEBASE_SCHEMA", "app")]).await;
    assert_eq!(ran.code, Some(0));
}

#[tokio::test]
async fn json_has_the_same_findings() {
    let local = local().await;
    let fault = Fault::status(
        403,
        "PERMISSION_DENIED",
        "User does not have CAN USE on project local",
    );
    local.fail(Call::Credential, fault);
    let ran = run(["doctor", "--json"], &local.env_for(SignIn::Pat), &[]).await;
    assert_eq!(ran.code, Some(1));
    compare("json", &ran.out, &local);
}

#[tokio::test]
async fn symbols_and_colours_are_printed_on_demand_only() {
    let local = local().await;
    let ran = run(["--color", "always", "doctor"], &local.env(), &[]).await;
    assert!(ran.out.contains("\u{1b}[32m✔"), "{}", ran.out);
    let ran = run(["doctor"], &local.env(), &[]).await;
    assert!(
        ran.out.is_ascii() && !ran.out.contains('\u{1b}'),
        "{}",
        ran.out
    );
}

#[tokio::test]
async fn control_characters_in_a_certificate_do_not_reach_the_terminal() {
    let local = local().await;
    let forged = "\u{1b}[2J\u{1b}[H \u{202e}all is well";
    let (_, config) = support::tls_server("localhost", forged);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let port = listener
        .local_addr()
        .expect("an address")
        .port()
        .to_string();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let peer = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut request = [0; 8];
                socket.read_exact(&mut request).await?;
                socket.write_all(b"S").await?;
                acceptor.accept(socket).await.map(drop)
            });
        }
    });
    for args in [["doctor", "--color=never"], ["doctor", "--json"]] {
        let ran = run(args, &local.env(), &[("PGPORT", &port)]).await;
        assert!(ran.out.contains("all is well"), "{}", ran.out);
        let escapes = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!ran.out.contains(escapes), "{:?}", ran.out);
        assert!(!ran.out.contains("\\u001b"), "{:?}", ran.out);
    }
    peer.abort();
}
