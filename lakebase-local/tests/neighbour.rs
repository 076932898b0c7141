//! Attackers on the same machine: another user with curl and psql, and a page in a browser.
//!
//! The tests need root to become another user, and `chromium` on PATH. Without these, they print that and pass;
//! with `LAKEBASE_TESTS_REQUIRE_BROWSER=1`, a missing browser fails.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lakebase_local::{LocalLakebase, SignIn};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use support::{Vars, assert_becomes_empty, http, program, raw_http, scratch, send, serving, tell};

const STAND_INS: [&str; 4] = [
    "/cli/databricks?auth&token&--host&@HOST@",
    "/cli/az?account&get-access-token&--resource&2ff814a6-3304-4ab8-85cb-cd0e6f879c1d",
    "/metadata-service",
    "/metadata/identity/oauth2/token?resource=2ff814a6-3304-4ab8-85cb-cd0e6f879c1d",
];
/// Headers that the stand-ins require.
const HEADERS: [&str; 3] = [
    "Metadata: true",
    "X-Databricks-Metadata-Version: 1",
    "X-Databricks-Host: @HOST@",
];

/// The socket of the Postgres inside, where it really is.
fn socket(local: &LocalLakebase) -> PathBuf {
    std::fs::read_link(local.dir().join(".s.PGSQL.5432")).expect("a link")
}

/// Runs a program as `nobody`; `None` if we cannot.
fn as_nobody(program: &str, args: &[&str]) -> Option<Output> {
    if !Uid::effective().is_root() {
        return None;
    }
    let nobody = User::from_name("nobody").ok()??;
    let output = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir("/")
        .uid(nobody.uid.as_raw())
        .gid(nobody.gid.as_raw())
        .stdin(Stdio::null())
        .output();
    output.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_with_curl_and_psql_gets_no_access() {
    let local = LocalLakebase::start().await.expect("started");
    if as_nobody("curl", &["--version"]).is_none() || as_nobody("psql", &["--version"]).is_none() {
        tell("SKIPPED another user: it takes root, the user nobody, curl and psql");
        return;
    }
    let url = local.workspace_url();
    let api = url.strip_prefix("http://").expect("plain HTTP");
    for path in STAND_INS {
        let address = format!("{url}{path}").replace("@HOST@", &url);
        let headers = HEADERS.map(|header| header.replace("@HOST@", &url));
        let mut args = vec!["-s", "-i", "--noproxy", "*"];
        for header in &headers {
            args.extend(["-H", header]);
        }
        for guess in ["", "/cli", "/00000000000000000000000000000000"] {
            let address = address.replace(api, &format!("{api}{guess}"));
            let output = as_nobody("curl", &[&args[..], &[&address]].concat());
            let text = String::from_utf8(output.expect("run").stdout).expect("text");
            assert!(text.starts_with("HTTP/1.1 404"), "{address}: {text}");
            assert!(!text.contains("eyJ"), "{address}: {text}");
        }
    }
    assert_eq!(local.counters().workspace_tokens, 0);

    // No access to the files and sockets of the folder.
    let folder = local.dir().display().to_string();
    let real = socket(&local);
    let real = real.parent().expect("a folder").display().to_string();
    for file in ["databricks", "az", "ca.pem", "id-token"] {
        let output = as_nobody("cat", &[&format!("{folder}/{file}")]).expect("run");
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{file}"
        );
    }
    let control = format!("{folder}/control");
    let output = as_nobody("curl", &["-s", "--unix-socket", &control, "http://x/"]);
    assert_eq!(output.expect("run").status.code(), Some(7), "no connection");
    for host in [&*folder, &*real] {
        for user in ["lakebase_admin", local.user()] {
            let to = format!("host={host} dbname=databricks_postgres user='{user}'");
            let output = as_nobody("psql", &["-w", &to, "-c", "SELECT 1"]).expect("run");
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.contains("Permission denied"), "{to}: {text}");
        }
    }
    let port = local.postgres_port();
    for user in ["lakebase_admin", local.user(), local.client_id()] {
        for password in ["", "password", "e30.e30.x"] {
            let to = format!(
                "host=localhost port={port} dbname=databricks_postgres user='{user}' password='{password}'"
            );
            let output = as_nobody("psql", &["-w", &to, "-c", "SELECT 1"]).expect("run");
            assert!(!output.status.success(), "{to}");
        }
    }
    assert_eq!(local.counters().logins, 0);

    // Our own user has access.
    let ours = Command::new("psql")
        .arg(format!(
            "host={folder} dbname=databricks_postgres user=lakebase_admin"
        ))
        .args(["-c", "SELECT 1"])
        .output();
    assert!(ours.expect("run").status.success());
}

#[tokio::test]
async fn the_stand_ins_of_tools_return_tokens() {
    let local = LocalLakebase::start().await.expect("started");
    let url = local.workspace_url();
    for (way, tool, args) in [
        (
            SignIn::DatabricksCli,
            "databricks",
            &["auth", "token", "--host", &url][..],
        ),
        (
            SignIn::AzureCli,
            "az",
            &["account", "get-access-token", "--resource", "r"],
        ),
    ] {
        let (_, path) = (local.env_for(way).into_iter())
            .find(|(name, _)| name == "PATH")
            .expect("a path");
        let tool = Path::new(&path).join(tool);
        let output = tokio::process::Command::new(tool).args(args).output();
        let output = output.await.expect("run");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("eyJ"));
    }
}

#[tokio::test]
async fn requests_for_another_host_are_rejected() {
    let local = LocalLakebase::start().await.expect("started");
    let vars = Vars::of(&local);
    let api = vars.api();
    let bearer = format!("Authorization: Bearer {}", local.user_token());
    let port = api.rsplit(':').next().expect("a port");
    let localhost = format!("Host: localhost:{port}");
    let ours = format!("Host: {api}");
    let elsewhere = format!("Host: attacker.example:{port}");
    let foreign = [
        &[][..],
        &["Host: attacker.example"],
        &[&elsewhere],
        &["Host: 127.0.0.1"],
        &[&localhost],
        &[&ours, "Host: attacker.example"],
    ];
    for path in [
        "/api/2.0/preview/scim/v2/Me",
        "/api/2.0/postgres/projects/local/branches/production/endpoints/primary",
        "/.well-known/databricks-config",
        "/cli/databricks?version",
        "/nowhere",
    ] {
        let before = local.counters();
        for hosts in foreign {
            let headers = [hosts, &[&*bearer]].concat();
            let reply = raw_http(api, "GET", path, &headers, "").await;
            let reply = reply.expect("a reply");
            // Two hosts, or none, may be rejected earlier.
            assert!(
                [400, 421].contains(&reply.status),
                "{path} {hosts:?}: {reply:?}"
            );
        }
        let absolute = format!("http://attacker.example{path}");
        let reply = raw_http(api, "GET", &absolute, &[&ours, &bearer], "").await;
        assert_eq!(reply.expect("a reply").status, 421, "{absolute}");
        assert_eq!(local.counters(), before, "it is not recorded as a call");
        let reply = http(api, "GET", path, &[&bearer], "").await;
        assert_ne!(reply.expect("a reply").status, 421, "{path}");
    }
}

/// The DOM of a page in a browser, after its scripts have run.
async fn browse(url: &str, extra: &[&str]) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut programs = std::env::split_paths(&path).map(|folder| folder.join("chromium"));
    let Some(browser) = programs.find(|program| program.is_file()) else {
        let why = "chromium is not on PATH";
        if std::env::var_os("LAKEBASE_TESTS_REQUIRE_BROWSER").is_some_and(|value| value == "1") {
            panic!("{why}");
        }
        tell(&format!("SKIPPED a page in a browser: {why}"));
        return None;
    };
    let home = tempfile::tempdir().expect("a folder");
    let output = tokio::process::Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--no-first-run",
            "--no-proxy-server",
            "--disable-background-networking",
        ])
        .args([
            "--disable-component-update",
            "--disable-sync",
            "--virtual-time-budget=20000",
        ])
        .arg(format!(
            "--user-data-dir={}",
            home.path().join("profile").display()
        ))
        .args(extra)
        .args(["--dump-dom", url])
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_CACHE_HOME")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), output).await;
    let output = output.expect("it ends").expect("it runs");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_a_browser_gets_no_access() {
    let local = LocalLakebase::start().await.expect("started");
    let url = local.workspace_url();
    let (_, port) = url.rsplit_once(':').expect("a port");
    // A name of the attacker's that leads here: the browser takes it for the page's own server.
    let rules = "--host-resolver-rules=MAP attacker.example 127.0.0.1";
    for path in ["/.well-known/databricks-config", "/cli/databricks?version"] {
        let page = format!("http://attacker.example:{port}{path}");
        let Some(seen) = browse(&page, &[rules]).await else {
            return;
        };
        assert!(seen.contains("MISDIRECTED_REQUEST"), "{seen}");
        assert!(!seen.contains("oidc_endpoint"), "{seen}");
    }
    // The right address, from a page of another origin: the browser keeps the reply to itself.
    let script = format!(
        "<body>waiting<script>fetch('{url}/.well-known/databricks-config').then(r => r.text()).then(\
         t => document.body.innerText = 'READ ' + t, e => document.body.innerText = 'BLOCKED')</script>"
    );
    let page: String = script.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let seen = browse(&format!("data:text/html,{page}"), &[]).await;
    let seen = seen.expect("a browser");
    assert!(seen.contains("BLOCKED"), "{seen}");
}

/// The processes whose command line names this folder.
#[cfg(target_os = "linux")]
fn processes(folder: &Path) -> Vec<PathBuf> {
    let folder = folder.display().to_string();
    let all = std::fs::read_dir("/proc").expect("processes");
    let all = all.filter_map(|entry| Some(entry.ok()?.path()));
    all.filter(|process| {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&folder)
    })
    .collect()
}

#[cfg(target_os = "linux")]
#[test]
fn the_processes_of_the_database_do_not_get_our_environment() {
    let scratch = scratch();
    let mut command = program(scratch.path());
    let (mut child, _) = serving(command.env("AWS_SECRET_ACCESS_KEY", "a-canary"));
    let processes = processes(scratch.path());
    let mut servers = 0;
    for process in &processes {
        let environment = std::fs::read(process.join("environ")).expect("readable for us");
        let text = String::from_utf8_lossy(&environment);
        assert!(!text.contains("a-canary"), "{process:?}: {text}");
        let program = std::fs::read_link(process.join("exe")).unwrap_or_default();
        servers += usize::from(program.ends_with("postgres"));
    }
    assert!(servers > 0, "{processes:?}");
    send(&child, Signal::SIGTERM);
    child.wait().expect("ended");
    assert_becomes_empty(scratch.path());
}

/// Everything below a folder, with the folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        // A server makes and removes files at any time.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(below(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}

#[tokio::test]
async fn each_folder_belongs_to_one_user() {
    let local = LocalLakebase::start().await.expect("started");
    let ours = local.dir();
    let socket = socket(&local);
    let servers = socket.parent().expect("a folder");
    let owner =
        |path: &Path| std::fs::symlink_metadata(path).map(|found| (found.uid(), found.mode()));
    let (uid, mode) = owner(ours).expect("a folder");
    assert_eq!((uid, mode & 0o777), (Uid::effective().as_raw(), 0o700));
    let (server, mode) = owner(servers).expect("a folder");
    assert_eq!(mode & 0o777, 0o700);
    assert_ne!(server, 0, "Postgres does not run as root");
    for (folder, uid) in [(ours, uid), (servers, server)] {
        for path in below(folder) {
            if let Ok((found, _)) = owner(&path) {
                assert_eq!(found, uid, "{}", path.display());
            }
        }
    }
}

/// A program that takes the place of another one.
fn stand_in(path: &Path, script: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{script}\n")).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("set");
}

/// Scripts that replace `mkdir` and `initdb` do what another user could do at that moment.
#[test]
fn root_writes_nothing_through_the_links_of_another_user() {
    let bin = Command::new("pg_config").arg("--bindir").output();
    let Some(bin) = bin.ok().filter(|_| Uid::effective().is_root()) else {
        tell("SKIPPED links of another user: it takes root and pg_config");
        return;
    };
    let bin = String::from_utf8_lossy(&bin.stdout).trim().to_owned();
    let as_root = |act: &str| format!("[ $(id -u) != 0 ] || {{ rmdir $dir; {act}; }}");
    let to_copy_to = "for other in ${dir%/*}/lakebase-local-*/data; do \
                      [ ! -d $other ] || ln -s $victim $dir/data; done";
    let later = "for dir in ${PWD%/*}/lakebase-local-*; do [ -O $dir ] || \
                 { mv $dir $dir.moved; mkdir $dir; ln -s $victim/file $dir/ca.pem; }; done";
    let (folder, link) = (
        as_root("mkdir $dir; chown nobody $dir"),
        as_root("ln -s $victim $dir"),
    );
    let [settings, hba] =
        ["postgresql.conf", "pg_hba.conf"].map(|file| format!("ln -sf $victim/file data/{file}"));
    let taken = "another user has put a folder in its place";
    // Actions after `mkdir` and after `initdb`, and the error; if it is empty, the start succeeds.
    for (after_mkdir, after_initdb, error) in [
        (&*folder, "", taken),
        (&link, "", "cannot use"),
        (to_copy_to, "", "Permission denied"),
        ("", later, ""),
        // The shell cannot open the file; our end of its pipe may break first.
        ("", &settings, " sh"),
        ("", &hba, " sh"),
    ] {
        let (shared, tools, victim) =
            (scratch(), scratch(), tempfile::tempdir().expect("a folder"));
        // Without the sticky bit, others may rename our folder. The victim looks like a folder of ours.
        for (folder, mode) in [(&shared, 0o777), (&victim, 0o700)] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.path(), mode).expect("set");
        }
        let file = victim.path().join("file");
        std::fs::write(&file, "precious").expect("written");

        let victim_is = format!("PATH=/usr/bin:/bin victim={}", victim.path().display());
        let mkdir = format!("{victim_is}; mkdir \"$@\" || exit; dir=$3; {after_mkdir}\ntrue");
        let initdb = format!("{victim_is}; {bin}/initdb \"$@\" || exit; {after_initdb}\ntrue");
        stand_in(&tools.path().join("mkdir"), &mkdir);
        stand_in(&tools.path().join("initdb"), &initdb);
        std::os::unix::fs::symlink(format!("{bin}/postgres"), tools.path().join("postgres"))
            .expect("linked");
        let path = std::env::var("PATH").expect("a path");
        let output = program(shared.path())
            .env("PATH", format!("{}:{path}", tools.path().display()))
            .env("LAKEBASE_LOCAL_PG_BIN", tools.path())
            .arg("true")
            .output()
            .expect("run");

        let attack = format!("{after_mkdir}{after_initdb}: {output:?}");
        assert_eq!(
            std::fs::read(&file).expect("the file"),
            b"precious",
            "{attack}"
        );
        assert_eq!(below(victim.path()), [victim.path(), &file], "{attack}");
        assert_eq!(output.status.success(), error.is_empty(), "{attack}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(error), "{error}: {attack}");
    }
}
