//! The login of `databricks auth login`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::home::Home;
use crate::stub::Stub;
use crate::{E0, Pairs, configured, handle};

/// A CLI of version `VERSION` that prints `ANSWER`, or fails with `COMPLAINT`.
const CLI: &str = r#"
echo "$*" >> "$HOME/cli.log"
if [ "$1" = version ]; then
    [ -n "$VERSION" ] || exit 1
    echo "$VERSION"
    exit 0
fi
if [ -n "$COMPLAINT" ]; then
    echo "$COMPLAINT" >&2
    exit 1
fi
echo "$ANSWER"
"#;

const ANSWER: &str = "{\n  \"access_token\": \"cli-token\",\n  \"token_type\": \"Bearer\",\n  \"expiry\": \"2100-01-01T00:00:00.123456789+11:00\"\n}";

fn version(minor: u64, patch: u64) -> String {
    format!("{{\"Major\": 0, \"Minor\": {minor}, \"Patch\": {patch}, \"Prerelease\": \"rc.1\"}}")
}

/// Authenticates with [`CLI`]. Returns the arguments after `auth token`, or the error.
async fn outcome(explicit: Pairs<'_>, vars: Pairs<'_>) -> Result<String, String> {
    let home = Home::new();
    let path = home.program("databricks", CLI);
    let mut all = vec![
        ("HOME", home.as_str()),
        ("PATH", path.as_str()),
        ("ANSWER", ANSWER),
    ];
    all.extend(vars);
    let lakebase = match configured(explicit, &all) {
        Ok(config) => lakebase_core::Lakebase::new(config).expect("a handle"),
        Err(error) => return Err(error.to_string()),
    };
    lakebase
        .credential()
        .await
        .map_err(|error| error.to_string())?;
    let log = home.read("cli.log");
    let command = log
        .lines()
        .find_map(|line| line.strip_prefix("auth token "));
    Ok(command.expect("it was called").to_owned())
}

#[tokio::test]
async fn the_cli_is_called_with_the_arguments_of_its_version() {
    let stub = Stub::workspace().await;
    let host = ("host", stub.url.as_str());
    let profile = ("profile", "my-profile");
    let home = Home::with_profiles("[my-profile]\naccount_id = x\n");
    let file = home.profile_file();
    let file = ("config_file", file.as_str());
    let by_host = format!("--host {}", stub.url);
    let fresh = format!("{by_host} --force-refresh");
    let ids = [host, ("account_id", "a"), ("workspace_id", "1")];
    let garbage = "Databricks CLI v0.207.1".to_owned();
    let incomplete = "{\"Minor\": 296, \"Patch\": 0}".to_owned();
    for (explicit, version, expected) in [
        (&[host][..], version(200, 0), by_host.as_str()),
        (&[host], String::new(), &by_host),
        (&[host], version(0, 0), &by_host),
        (
            &[host, profile, file],
            version(207, 1),
            "--profile my-profile",
        ),
        (&[host, profile, file], version(200, 0), &by_host),
        (&[host, profile, file], version(207, 0), &by_host),
        (&[host, profile, file], String::new(), &by_host),
        (&[host, profile, file], version(0, 0), &by_host),
        (&[host], version(296, 0), &fresh),
        (
            &[host, profile, file],
            version(296, 0),
            "--profile my-profile --force-refresh",
        ),
        (&ids, version(295, 0), &by_host),
        (&[host], garbage, &by_host),
        (&[host], incomplete, &by_host),
    ] {
        let vars = [("VERSION", version.as_str())];
        let arguments = outcome(explicit, &vars).await;
        assert_eq!(arguments.as_deref(), Ok(expected), "{version}");
    }
}

#[tokio::test]
async fn the_cli_needs_a_host() {
    let error = outcome(&[("auth_type", "databricks-cli")], &[])
        .await
        .expect_err("no host");
    assert!(
        error.contains("neither profile nor host is configured"),
        "{error}"
    );
}

#[tokio::test]
async fn an_expiry_is_rfc_3339_or_local_time_or_an_error() {
    let stub = Stub::workspace().await;
    let explicit = [("host", stub.url.as_str())];
    let answer = |expiry: &str| {
        format!("{{\"access_token\": \"t\", \"token_type\": \"Bearer\", \"expiry\": \"{expiry}\"}}")
    };
    for expiry in [
        "2100-12-01T15:19:48.007742617Z",
        "2100-12-05T15:59:01.40081+11:00",
        "2100-12-06 10:06:05",
    ] {
        outcome(&explicit, &[("ANSWER", &answer(expiry))])
            .await
            .expect(expiry);
    }
    for (expiry, expected) in [
        ("March 20, 2100", "`expiry` is not a date"),
        ("", "`expiry` is not a date"),
        ("2023-12-01T15:19:48Z", "a token that has expired"),
    ] {
        let error = outcome(&explicit, &[("ANSWER", &answer(expiry))])
            .await
            .expect_err(expiry);
        assert!(
            error.contains(expected) && error.contains("databricks-cli"),
            "{error}"
        );
    }
    let error = outcome(&explicit, &[("ANSWER", "not json hush")])
        .await
        .expect_err("no JSON");
    assert!(
        error.contains("cannot unmarshal CLI result") && !error.contains("hush"),
        "{error}"
    );
}

#[test]
fn the_legacy_tool_is_skipped() {
    let (legacy, current) = (Home::new(), Home::new());
    let script = "exec python -c 'from databricks_cli.cli import cli'";
    let old = legacy.program("databricks", script);
    let new = current.program("databricks", CLI);
    let host = ("host", "https://x");
    for path in [
        format!("{old}:{new}"),
        format!("{new}:{old}"),
        format!("relative:{new}"),
    ] {
        let config = configured(&[host], &[("PATH", &path)]).expect("the current one");
        assert_eq!(config.auth_type(), Some("databricks-cli"));
    }
    for (path, expected) in [
        (old.as_str(), "version <0.100.0 detected"),
        ("/nowhere", "not installed"),
        ("relative", "not installed"),
    ] {
        let error = configured(&[host], &[("PATH", path)])
            .expect_err(expected)
            .to_string();
        assert!(error.starts_with(E0) && error.contains(expected), "{error}");
    }
    let direct = format!("{new}/databricks");
    configured(&[host, ("databricks_cli_path", &direct)], &[]).expect("by path");
    let gone = configured(&[host, ("databricks_cli_path", "/nowhere/databricks")], &[]);
    assert!(
        gone.expect_err("gone")
            .to_string()
            .contains("is not at /nowhere/databricks")
    );
}

#[tokio::test]
async fn a_login_with_other_scopes_than_configured_is_not_used() {
    let stub = Stub::workspace().await;
    let host = ("host", stub.url.as_str());
    let scopes = ("scopes", "sql");
    let forced = ("auth_type", "databricks-cli");
    let answer = |scope: &str| {
        let token = format!(
            "e30.{}.sig",
            URL_SAFE_NO_PAD.encode(format!("{{\"scope\": {scope}}}"))
        );
        ANSWER.replace("cli-token", &token)
    };
    for (explicit, scope, expected) in [
        (&[host, scopes][..], "\"sql offline_access\"", None),
        (&[host, scopes], "[\"sql\"]", None),
        (
            &[host, scopes, forced],
            "\"all-apis offline_access\"",
            Some("do not match the configured scopes"),
        ),
        (&[host, scopes], "\"all-apis offline_access\"", Some(E0)),
        (&[host], "\"anything\"", None),
    ] {
        let outcome = outcome(explicit, &[("ANSWER", &answer(scope))]).await;
        match expected {
            None => drop(outcome.expect("a credential")),
            Some(text) => {
                let error = outcome.expect_err(text);
                assert!(error.contains(text), "{explicit:?}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_missing_login_declines_and_a_broken_login_is_an_error() {
    let stub = Stub::workspace().await;
    let host = ("host", stub.url.as_str());
    let no_login = "Error: cache: databricks OAuth is not configured for this host. no cached credentials; run `databricks auth login` to sign in";
    let broken = "A new access token could not be retrieved because the refresh token is invalid. To reauthenticate, run the following command:";
    let error = outcome(&[host], &[("COMPLAINT", no_login)])
        .await
        .expect_err("no login");
    assert!(
        error.contains(E0) && error.contains("databricks auth login"),
        "{error}"
    );
    let forced = [host, ("auth_type", "databricks-cli")];
    let error = outcome(&forced, &[("COMPLAINT", no_login)])
        .await
        .expect_err("no login");
    assert!(
        error.contains("databricks-cli: cannot get access token"),
        "{error}"
    );
    let error = outcome(&[host], &[("COMPLAINT", broken)])
        .await
        .expect_err("a broken login");
    let expected = "databricks-cli: cannot get access token: A new access token could not";
    assert!(error.contains(expected) && !error.contains(E0), "{error}");
}

#[tokio::test]
async fn an_identity_that_has_authenticated_is_never_replaced_by_another() {
    // The Databricks CLI's login is used, then removed. The Azure CLI must not be used instead.
    let stub = Stub::start(|seen| {
        (seen.path == crate::stub::CREDENTIALS && seen.count == 2)
            .then(|| crate::stub::Answer::new(401, ""))
    })
    .await;
    let home = Home::new();
    let path = home.program("databricks", "[ -e \"$HOME/gone\" ] && { echo 'databricks OAuth is not configured' >&2; exit 1; }; echo \"$ANSWER\"");
    home.program("az", crate::home::AZ);
    let vars = [
        ("HOME", home.as_str()),
        ("PATH", path.as_str()),
        ("ANSWER", ANSWER),
    ];
    let explicit = [("host", stub.url.as_str()), ("cloud", "AZURE")];
    let lakebase = handle(&explicit, &vars);
    let credential = lakebase.credential().await.expect("a credential");
    std::fs::write(home.path().join("gone"), "").expect("a file");
    lakebase_core::adapter::reject(&lakebase, &credential);
    let error = lakebase.credential().await.expect_err("logged out");
    assert!(error.to_string().contains("databricks-cli"), "{error}");
    assert_eq!(home.read("az.log"), "");
}

#[tokio::test]
async fn a_tool_that_hangs_is_killed_with_its_child_processes() {
    let home = Home::new();
    let script = "/bin/sleep 1000 & echo $$ $! >> \"$HOME/pids\"; wait";
    let path = home.program("databricks", script);
    let vars = [("HOME", home.as_str()), ("PATH", path.as_str())];
    let lakebase = handle(&[("host", "https://x")], &vars);
    let credential = lakebase.credential();
    tokio::pin!(credential);
    lakebase_tests::soon(async {
        while home.read("pids").is_empty() {
            tokio::select! {
                _ = &mut credential => panic!("the tool hangs"),
                () = tokio::task::yield_now() => {}
            }
        }
    })
    .await;
    let pids = home.read("pids");
    let alive = |pid: &str| {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie has ended; its parent has not waited for it yet.
        !state.is_empty() && !state.contains(") Z ")
    };
    assert!(pids.split_whitespace().all(alive), "{pids}");
    // Paused time jumps to the limit, because no other task runs.
    tokio::time::pause();
    let error = credential.await.expect_err("no output");
    tokio::time::resume();
    assert!(error.is_timeout() && error.is_transient(), "{error}");
    assert!(
        error.to_string().contains("did not answer within"),
        "{error}"
    );
    lakebase_tests::soon(async {
        while home.read("pids").split_whitespace().any(alive) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_cli_reads_the_same_file_and_profile() {
    let stub = Stub::workspace().await;
    let home = Home::new();
    let file = home.path().join("cfg");
    std::fs::write(&file, format!("[prod]\nhost = {}\n", stub.url)).expect("a file");
    let script = "echo \"$DATABRICKS_CONFIG_FILE $DATABRICKS_CONFIG_PROFILE\" >> \"$HOME/seen\"; echo \"$ANSWER\"";
    let path = home.program("databricks", script);
    let vars = [
        ("HOME", home.as_str()),
        ("PATH", path.as_str()),
        ("ANSWER", ANSWER),
        ("DATABRICKS_CONFIG_PROFILE", "other"),
    ];
    let explicit = [
        ("config_file", file.to_str().expect("UTF-8")),
        ("profile", "prod"),
    ];
    handle(&explicit, &vars)
        .credential()
        .await
        .expect("a credential");
    let expected = format!("{} prod", file.display());
    let seen = home.read("seen");
    assert!(
        seen.lines().all(|line| line == expected) && !seen.is_empty(),
        "{seen}"
    );
}
