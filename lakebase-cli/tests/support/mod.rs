//! Runs the program with exactly the variables of a local Lakebase.

#![allow(
    clippy::expect_used,
    dead_code,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub
)]

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use lakebase_local::LocalLakebase;
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::process::{Child, Command};

/// Prints the reason, which the test runner does not capture.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {why}");
}

/// Fails a test that hangs.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(Duration::from_secs(60), future).await;
    outcome.expect("in time")
}

/// Returns whether psql is installed.
pub fn has_psql() -> bool {
    let found = std::process::Command::new("psql").arg("-V").output();
    if found.is_err() {
        skipped("psql is not installed");
    }
    found.is_ok()
}

pub fn pid_of(child: &Child) -> Pid {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    Pid::from_raw(pid.expect("it runs"))
}

pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub async fn local() -> LocalLakebase {
    LocalLakebase::start().await.expect("a local Lakebase")
}

/// The program, with `PATH` and no other variable of this process.
pub fn lakebase<S: AsRef<OsStr>>(
    args: impl IntoIterator<Item = S>,
    vars: &[(String, String)],
    changes: &[(&str, &str)],
) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lakebase"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    command
        .args(args)
        .env_clear()
        .env("PATH", path)
        .envs(vars.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for (name, value) in changes {
        match value.is_empty() {
            true => command.env_remove(name),
            false => command.env(name, value),
        };
    }
    command
}

pub async fn run<S: AsRef<OsStr>>(
    args: impl IntoIterator<Item = S>,
    vars: &[(String, String)],
    changes: &[(&str, &str)],
) -> Ran {
    let output = lakebase(args, vars, changes)
        .output()
        .await
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// A TLS server for `host`: the PEM of the authority that signed its certificate, and its configuration.
pub fn tls_server(host: &str, authority: &str) -> (String, Arc<ServerConfig>) {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, authority);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().expect("a key");
    let ca = params.self_signed(&ca_key).expect("an authority");
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, host);
    let cert = params.signed_by(&key, &issuer).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a server");
    (ca.pem(), Arc::new(config))
}
