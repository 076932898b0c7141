//! Variables that drivers read do not override the configuration.

use lakebase_tests::{ADAPTERS, local};
use tokio::process::Command;

#[tokio::test]
async fn variables_of_the_environment_do_not_change_a_configuration_in_code() {
    let local = local().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("settings");
    let settings: Vec<String> = local
        .env()
        .into_iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    std::fs::write(&file, settings.concat()).expect("written");
    for adapter in ADAPTERS {
        let run = Command::new(env!("CARGO_BIN_EXE_puppet"))
            .arg(adapter.name())
            .arg(&file)
            .env_clear()
            .env("HOME", folder.path())
            .env("PGHOST", "nowhere.invalid")
            .env("PGHOSTADDR", "127.0.0.2")
            .env("PGPORT", "1")
            .env("PGUSER", "nobody")
            .env("PGDATABASE", "nothing")
            .env("PGPASSWORD", "a-password-of-somebody-else")
            .env("PGSSLMODE", "disable")
            .env("PGSSLROOTCERT", "/nonexistent/roots.pem")
            .env("PGOPTIONS", "-c search_path=nowhere")
            .env("PGTARGETSESSIONATTRS", "read-only")
            .env("PGCHANNELBINDING", "require")
            .env("PGSSLCERT", "/nonexistent/client.pem")
            .env("PGSSLKEY", "/nonexistent/client.key")
            .env("PGAPPNAME", "somebody-else")
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = lakebase_tests::soon(run).await.expect("it runs");
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(out, "ready\n", "{adapter:?}: {err}");
    }
}
