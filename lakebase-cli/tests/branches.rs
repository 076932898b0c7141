//! `branch`, and `exec` on a branch, as a shell sees them.

#![allow(clippy::expect_used)]

mod support;

use std::process::Stdio;
use std::time::Duration;

use lakebase_local::{Call, EventKind, Fault, LocalLakebase};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use support::{Ran, has_psql, lakebase, local, pid_of, run, soon};
use tokio::io::{AsyncBufReadExt as _, BufReader};

async fn branch(local: &LocalLakebase, args: &[&str]) -> Ran {
    let args = ["branch"].iter().chain(args);
    soon(run(args, &local.env(), &[])).await
}

async fn done(local: &LocalLakebase, args: &[&str]) -> String {
    let ran = branch(local, args).await;
    assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.err);
    assert_eq!(ran.err, "", "progress is for terminals");
    ran.out
}

fn ids(local: &LocalLakebase) -> Vec<String> {
    let id = |path: String| path.rsplit('/').next().map(str::to_owned);
    local.branches().into_iter().filter_map(id).collect()
}

#[tokio::test]
async fn branches_are_created_shown_extended_and_deleted() {
    let local = local().await;
    let out = done(
        &local,
        &["create", "ci-1", "--from", "production", "--ttl", "4h"],
    )
    .await;
    assert!(out.contains("ci-1") && out.contains("READY"), "{out}");
    done(
        &local,
        &["create", "--git", "feature/Foo", "--ttl", "never"],
    )
    .await;
    let list: Value = serde_json::from_str(&done(&local, &["list", "--json"]).await).expect("JSON");
    let list = list["branches"].as_array().expect("a list");
    let listed: Vec<_> = list
        .iter()
        .map(|known| known["id"].as_str().expect("an id"))
        .collect();
    assert_eq!(listed, ["ci-1", "feature-foo", "production"]);
    assert_eq!(list[0]["source"], "production");
    assert!(list[0]["expires_at"].is_string() && list[1]["expires_at"].is_null());
    assert_eq!(list[2]["is_default"], true);

    let before: Value =
        serde_json::from_str(&done(&local, &["show", "ci-1", "--json"]).await).expect("JSON");
    done(&local, &["extend", "ci-1", "--ttl", "7d"]).await;
    let after: Value =
        serde_json::from_str(&done(&local, &["wait", "ci-1", "--json"]).await).expect("JSON");
    assert_ne!(before["expires_at"], after["expires_at"]);

    done(&local, &["create", "kept", "--protected", "--ttl", "1d"]).await;
    let ran = branch(&local, &["delete", "kept"]).await;
    assert!(ran.err.contains("--yes"), "{}", ran.err);
    done(&local, &["delete", "kept", "--purge", "--yes"]).await;
    done(&local, &["delete", "feature-foo", "--purge"]).await;

    let out = done(
        &local,
        &["cleanup", "--prefix", "ci-", "--older-than", "0s"],
    )
    .await;
    assert_eq!(out, "would delete ci-1\n");
    let out = done(&local, &["cleanup", "--prefix", "ci-"]).await;
    assert_eq!(out, "", "younger than a day");
    let args = [
        "cleanup",
        "--prefix",
        "ci-",
        "--older-than",
        "0s",
        "--purge",
        "--yes",
    ];
    assert_eq!(done(&local, &args).await, "deleted ci-1\n");
    assert_eq!(ids(&local), ["production"]);
}

#[tokio::test]
async fn wrong_ids_and_times_are_errors_and_a_ttl_has_days_hours_or_seconds() {
    let local = local().await;
    for (args, text) in [
        (&["create", "Foo", "--ttl", "1d"][..], "63 characters"),
        (&["create", "x", "--ttl", "soon"], "7d"),
        (&["create", "x"], "--ttl"),
        (&["create", "x", "--ttl", "31d"], "shorter expiry"),
        (&["show", "nothing"], "uid"),
    ] {
        let ran = branch(&local, args).await;
        assert_ne!(ran.code, Some(0), "{args:?}");
        assert!(ran.err.contains(text), "{args:?}: {}", ran.err);
    }
    for ttl in ["7d", "168h", "604800s"] {
        done(&local, &["create", "x", "--replace", "--ttl", ttl]).await;
    }
}

#[tokio::test]
async fn a_command_runs_on_a_named_or_on_a_temporary_branch() {
    let local = local().await;
    done(&local, &["create", "mine", "--ttl", "1d"]).await;
    let args = ["exec", "--branch", "mine", "--", "env"];
    let ran = soon(run(args, &local.env(), &[])).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let path = "LAKEBASE_ENDPOINT=projects/local/branches/mine\n";
    assert!(ran.out.contains(path), "{}", ran.out);

    // Not on production by mistake.
    for (args, is_run) in [
        (
            &["exec", "--branch", "production", "--", "echo", "ran"][..],
            false,
        ),
        (
            &[
                "exec",
                "--branch",
                "production",
                "--yes",
                "--",
                "echo",
                "ran",
            ],
            true,
        ),
        (&["branch", "extend", "production", "--ttl", "1d"], false),
    ] {
        let ran = soon(run(args, &local.env(), &[])).await;
        assert_eq!(
            (ran.code == Some(0), ran.out == "ran\n"),
            (is_run, is_run),
            "{args:?}"
        );
        assert_eq!(
            ran.err.contains("default branch: use --yes"),
            !is_run,
            "{}",
            ran.err
        );
    }

    // The database of a URL applies, but not its host.
    let roots = local.ca_file().display();
    let port = local.postgres_port();
    let url = format!("postgresql://localhost:{port}/elsewhere?sslrootcert={roots}");
    let changes = [("LAKEBASE_PG_URL", url.as_str()), ("PGDATABASE", "")];
    let ran = soon(run(args, &local.env(), &changes)).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("PGDATABASE=elsewhere\n"), "{}", ran.out);
    let address = local.branch_address("mine").expect("it is served");
    let host = format!("@{address}/elsewhere");
    assert!(ran.out.contains(&host), "{}", ran.out);

    let args = [
        "exec",
        "--temporary-branch",
        "--from",
        "production",
        "--",
        "sh",
        "-c",
    ];
    let args = args.into_iter().chain(["echo $LAKEBASE_ENDPOINT; exit 7"]);
    let ran = soon(run(args, &local.env(), &[])).await;
    assert_eq!(ran.code, Some(7), "{}", ran.err);
    assert!(
        ran.out.starts_with("projects/local/branches/exec-"),
        "{}",
        ran.out
    );
    assert_eq!(ran.err, "");
    assert_eq!(ids(&local), ["mine", "production"]);
}

#[tokio::test]
async fn a_temporary_branch_is_deleted_after_a_signal() {
    let local = local().await;
    // While the command runs, and while the branch is being created.
    for (signal, delay) in [
        (Signal::SIGINT, Duration::ZERO),
        (Signal::SIGTERM, Duration::ZERO),
        (Signal::SIGTERM, Duration::from_secs(4)),
    ] {
        local.set_operation_delay(delay);
        let args = [
            "exec",
            "--temporary-branch",
            "--",
            "sh",
            "-c",
            "echo runs; exec sleep 60",
        ];
        let mut command = lakebase(args, &local.env(), &[]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
        if delay.is_zero() {
            let out = child.stdout.take().expect("piped");
            let line = soon(BufReader::new(out).lines().next_line()).await;
            assert_eq!(line.expect("a line").as_deref(), Some("runs"));
        } else {
            soon(async {
                while local.branches().len() == 1 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
        }
        kill(pid_of(&child), signal).expect("sent");
        let status = soon(child.wait()).await.expect("it ends");
        assert_eq!(status.code(), Some(128 + signal as i32));
        assert_eq!(ids(&local), ["production"], "{signal} {delay:?}");
    }
}

#[tokio::test]
async fn a_command_can_run_without_credentials() {
    let local = local().await;
    let changes = [
        ("AZURE_CONFIG_DIR", "secret"),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "secret"),
        ("LAKEBASE_PROXY_PASSWORD", "secret"),
        ("LAKEBASE_SCHEMA", "mine"),
    ];
    let run_env = async |options: &[&str]| {
        let args = [&["exec"], options, &["--", "env"]].concat();
        let ran = soon(run(args, &local.env(), &changes)).await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran.out
    };
    let with = run_env(&[]).await;
    assert!(with.contains("DATABRICKS_CLIENT_SECRET=") && with.contains("=secret"));
    let without = run_env(&["--no-credentials"]).await;
    for hidden in [
        "DATABRICKS_",
        "=secret",
        "LAKEBASE_ENDPOINT",
        "LAKEBASE_PG_URL",
    ] {
        assert!(!without.contains(hidden), "{hidden}: {without}");
    }
    for kept in ["DATABASE_URL=", "PGHOST=", "LAKEBASE_SCHEMA=mine"] {
        assert!(without.contains(kept), "{kept}: {without}");
    }
}

const SHELVES: &str = "CREATE SCHEMA app; CREATE TABLE app.shelves (id int PRIMARY KEY)";

#[tokio::test]
async fn a_difference_is_printed_as_text_markdown_or_json() {
    let local = local().await;
    done(&local, &["create", "changed", "--ttl", "1h"]).await;
    let same = done(&local, &["diff", "production", "changed"]).await;
    assert_eq!(same, "no change to the schema\n");
    local.branch_sql("changed", SHELVES).await.expect("made");
    let text = done(&local, &["diff", "production", "changed"]).await;
    assert!(text.contains("+ column id: integer NOT NULL"), "{text}");
    let markdown = done(&local, &["diff", "production", "changed", "--markdown"]).await;
    assert!(
        markdown.contains("shelves") && markdown.contains("```"),
        "{markdown}"
    );
    let json = done(&local, &["diff", "changed", "production", "--json"]).await;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let text = json.to_string();
    assert!(
        text.contains("\"shelves\"") && text.contains("\"after\":null"),
        "{text}"
    );
}

#[tokio::test]
async fn a_branch_that_cannot_be_deleted_keeps_its_protection() {
    let local = local().await;
    let is_protected = async |name: &str| {
        let shown: Value =
            serde_json::from_str(&done(&local, &["show", name, "--json"]).await).expect("JSON");
        shown["is_protected"] == true
    };
    done(&local, &["create", "kept", "--protected", "--ttl", "1d"]).await;
    done(
        &local,
        &["create", "child", "--from", "kept", "--ttl", "1d"],
    )
    .await;
    let replace = ["create", "kept", "--replace", "--yes", "--ttl", "1d"];
    for args in [&["delete", "kept", "--yes"][..], &replace] {
        let ran = branch(&local, args).await;
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(ran.err.contains("kept is protected again"), "{}", ran.err);
        assert!(is_protected("kept").await);
    }

    let config = lakebase_core::Config::from_vars(local.env()).expect("a configuration");
    let production = lakebase_core::Lakebase::new(config).expect("a handle");
    let branches = production.branches().expect("a project");
    let mut production = branches.get("production").await.expect("a branch");
    soon(production.set_protected(true))
        .await
        .expect("protected");
    for yes in [&[][..], &["--yes"]] {
        let ran = branch(&local, &[&["delete", "production"], yes].concat()).await;
        assert_eq!(ran.code, Some(2));
        assert!(ran.err.contains("default branch"), "{}", ran.err);
    }
    assert!(is_protected("production").await);
}

#[tokio::test]
async fn replace_creates_the_branch_again_with_the_data_of_its_source() {
    let local = local().await;
    let create = ["create", "ci", "--ttl", "1h", "--from", "production"];
    let replace = [&create[..], &["--replace"]].concat();
    done(&local, &replace).await;
    local.branch_sql("ci", SHELVES).await.expect("made");
    done(&local, &replace).await;
    let same = done(&local, &["diff", "production", "ci"]).await;
    assert_eq!(same, "no change to the schema\n");

    done(&local, &["create", "kept", "--protected", "--ttl", "1h"]).await;
    for (args, text) in [
        (&["create", "kept", "--ttl", "1h", "--replace"][..], "--yes"),
        (
            &["create", "production", "--ttl", "1h", "--replace", "--yes"],
            "default branch",
        ),
        (
            &[
                "create",
                "ci",
                "--ttl",
                "1h",
                "--replace",
                "--from",
                "nothing",
            ],
            "uid",
        ),
        (
            &["create", "ci", "--ttl", "1h", "--replace", "--from", "ci"],
            "copy of itself",
        ),
    ] {
        let ran = branch(&local, args).await;
        assert_ne!(ran.code, Some(0), "{args:?}");
        assert!(ran.err.contains(text), "{args:?}: {}", ran.err);
    }
    assert_eq!(ids(&local), ["ci", "kept", "production"]);
}

#[tokio::test]
async fn a_branch_of_a_pull_request_is_extended_and_an_expired_one_is_created_again() {
    const MINUTES: i64 = 60 * 1000;

    let local = local().await;
    let create = ["create", "ci", "--ttl", "4h", "--if-not-exists", "--json"];
    let create =
        async || -> Value { serde_json::from_str(&done(&local, &create).await).expect("JSON") };
    let first = create().await;
    local.branch_sql("ci", SHELVES).await.expect("made");
    local.set_clock_skew_millis(235 * MINUTES);
    let second = create().await;
    assert_eq!(first["uid"], second["uid"]);
    assert!(
        first["expires_at"].as_str() < second["expires_at"].as_str(),
        "{first} {second}"
    );
    // A later expiry stays.
    done(&local, &["extend", "ci", "--ttl", "7d"]).await;
    let third = create().await;
    assert!(second["expires_at"].as_str() < third["expires_at"].as_str());

    local.set_clock_skew_millis(8 * 24 * 60 * MINUTES);
    soon(local.wait_until(|events| {
        events
            .iter()
            .any(|event| matches!(event.kind, EventKind::BranchDeleted { .. }))
    }))
    .await;
    let fresh = create().await;
    assert_ne!(first["uid"], fresh["uid"]);
    let same = done(&local, &["diff", "production", "ci"]).await;
    assert_eq!(same, "no change to the schema\n");
}

#[tokio::test]
async fn no_login_lets_an_identity_without_a_role_use_an_existing_branch() {
    let local = local().await;
    let create = ["create", "ci", "--ttl", "1h", "--if-not-exists"];
    done(&local, &create).await;
    let denied = Fault::status(403, "PERMISSION_DENIED", "no credential for you");
    local.fail(Call::Credential, denied);
    let ran = branch(&local, &create).await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    done(&local, &[&create[..], &["--no-login"]].concat()).await;
    let at = ["--at", "2026-09-14T10:30:00Z"];
    let ran = branch(&local, &[&create[..], &at].concat()).await;
    assert_eq!(ran.code, Some(2), "{}", ran.err);

    let ran = soon(run(
        ["exec", "--temporary-branch", "--", "true"],
        &local.env(),
        &[],
    ))
    .await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_eq!(ids(&local), ["ci", "production"], "{}", ran.err);
}

#[tokio::test]
async fn an_existing_branch_is_reused_only_if_it_has_the_same_source() {
    let local = local().await;
    let create = ["create", "ci", "--ttl", "1h", "--if-not-exists", "--from"];
    for _ in 0..2 {
        done(&local, &[&create[..], &["production"]].concat()).await;
    }
    done(&local, &["create", "other", "--ttl", "1h"]).await;
    let ran = branch(&local, &[&create[..], &["other"]].concat()).await;
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.err.contains("was made from production, not from other"),
        "{}",
        ran.err
    );
    for _ in 0..2 {
        done(&local, &["delete", "other", "--purge", "--if-exists"]).await;
    }
    assert_eq!(ids(&local), ["ci", "production"]);
}

#[tokio::test]
async fn the_script_for_pull_requests_creates_migrates_tests_compares_and_deletes() {
    if !has_psql() {
        return;
    }
    let local = local().await;
    let folder = tempfile::tempdir().expect("a folder");
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/ci/branch-per-pull-request.sh"
    );
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_lakebase"));
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(program.parent().expect("a folder").to_owned());
    let path = std::env::join_paths(path.chain(std::env::split_paths(&others))).expect("a path");
    let step_with = async |vars: &[(&str, &str)], args: &[&str], migrate: &str, test: &str| {
        let mut command = tokio::process::Command::new(script);
        command
            .args(args)
            .env_clear()
            .envs(local.env())
            .env("PATH", &path)
            .envs(vars.iter().copied());
        command.env("MIGRATE", migrate).env("TEST", test);
        let output = soon(command.current_dir(folder.path()).output()).await;
        let output = output.expect("it runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let step =
        async |args: &[&str], migrate: &str, test: &str| step_with(&[], args, migrate, test).await;
    let migrate = format!("psql -qXc '{SHELVES}' -v ON_ERROR_STOP=1");
    let test = "psql -qXc 'INSERT INTO app.shelves VALUES (1)'; test -z \"${PGPASSWORD:-}\"; \
        ! env | grep -E '^(DATABRICKS|LAKEBASE)_' | grep -v '^LAKEBASE_EXEC='";
    let (is_done, error) = step(&["up", "42"], &migrate, test).await;
    assert!(is_done, "{error}");
    let difference = std::fs::read_to_string(folder.path().join("schema-difference.md"));
    let difference = difference.expect("a file");
    assert!(difference.contains("app.shelves"), "{difference}");
    // A second push to the same pull request: its branch is migrated already.
    let (is_done, error) = step(&["up", "42"], "", "false").await;
    assert!(!is_done, "tests that fail fail the script: {error}");
    assert_eq!(ids(&local), ["ci-pr-42", "production"]);
    for _ in 0..2 {
        let (is_done, error) = step(&["down", "42"], "", "").await;
        assert!(is_done, "{error}");
    }
    let (is_done, error) = step(&["cleanup"], "", "").await;
    assert!(is_done, "{error}");
    // Repositories that share a project have branches of their own, and a credential for those who need it.
    let keeps = [
        ("KEEP_CREDENTIALS", "1"),
        ("GITHUB_REPOSITORY", "acme/My.Shop"),
    ];
    let test = "test -n \"$DATABRICKS_CLIENT_SECRET\"";
    let (is_done, error) = step_with(&keeps, &["up", "42"], "", test).await;
    assert!(is_done, "{error}");
    let named = ids(&local).remove(0);
    assert!(
        named.starts_with("ci-my-shop-") && named.ends_with("-pr-42"),
        "{named}"
    );
    let (is_done, error) = step_with(&keeps, &["down", "42"], "", "").await;
    assert!(is_done, "{error}");
    for prefix in ["ci", "CI-", "-", "c;-"] {
        let (is_done, error) = step_with(&[("PREFIX", prefix)], &["cleanup"], "", "").await;
        assert!(!is_done && error.starts_with("Usage"), "{prefix}: {error}");
    }
    assert_eq!(ids(&local), ["production"]);
    for args in [&["up", "42; reboot"][..], &["up"], &[]] {
        let (is_done, error) = step(args, "", "").await;
        assert!(!is_done && error.starts_with("Usage"), "{args:?}: {error}");
    }
}
