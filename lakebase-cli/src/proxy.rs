//! The auth proxy as a program: beside an application, or around a command.

use std::error::Error;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lakebase_core::proxy::{Builder, Clients, Proxy};
use lakebase_core::{Config, Lakebase};
use secrecy::SecretString;
use serde_json::json;

use crate::args::{ExecArgs, ProxyArgs, Target};
use crate::branch::{Branching, Temporary, check_change};
use crate::command::{self, Run, Signals};
use crate::http;
use crate::listen::{Listen, Place};
use crate::terminal::{print_note, progress};
use crate::write_stdout;

/// Pauses between attempts to become ready, which grow.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// `lakebase exec`: runs a command behind a private proxy.
pub(crate) async fn exec(wanted: &Target, args: &ExecArgs) -> Result<ExitCode, Box<dyn Error>> {
    command::check(&args.command)?;
    // First, so that a signal does not leave a socket or a branch behind.
    let mut signals = Signals::new()?;
    let exec_on =
        async |config: Config, lakebase: Lakebase, signals| -> Result<_, Box<dyn Error>> {
            let lakebase = lakebase.direct();
            let proxy = Builder::new(&lakebase).clients(Clients::ThisUser);
            let proxy = proxy.start().await?;
            let run = Run {
                target: wanted,
                config: &config,
                lakebase: &lakebase,
                proxy: &proxy,
                command: &args.command,
                has_credentials: !args.no_credentials,
            };
            let outcome = run.to_end(signals).await;
            proxy.shutdown(Duration::ZERO).await;
            outcome
        };
    if let Some(name) = &args.branch {
        let branch = wanted.lakebase()?.branches()?.get(name).await?;
        check_change(&branch, args.yes)?;
        return exec_on(branch.config(), branch.lakebase(), signals).await;
    }
    if !args.temporary_branch {
        let config = wanted.config()?;
        let lakebase = Lakebase::new(config.clone())?;
        return exec_on(config, lakebase, signals).await;
    }
    let mut temporary = Temporary::new(wanted)?;
    let from = args.from.as_deref();
    let outcome = match temporary.create(from, args.ttl, &mut signals).await {
        Ok(Branching::Ready(branch)) => exec_on(branch.config(), branch.lakebase(), signals).await,
        Ok(Branching::Ended(code)) => Ok(code),
        Err(error) => Err(error.into()),
    };
    // Earlier signals were for the command.
    temporary.delete(Signals::new()?).await;
    outcome
}

/// `lakebase proxy`: runs a proxy alone or around a command.
pub(crate) async fn run(wanted: &Target, args: &ProxyArgs) -> Result<ExitCode, Box<dyn Error>> {
    let ready = ReadyFile::new(args.ready_file.as_deref());
    command::check(&args.command)?;
    let config = wanted.config()?;
    let lakebase = Lakebase::new(config.clone())?;
    // First, so that a signal does not leave a socket behind.
    let mut signals = Signals::new()?;
    let has_command = !args.command.is_empty();
    let mut listens = [args.socket.clone(), args.listen.clone()].concat();
    if listens.is_empty() {
        listens.push(Listen {
            place: Place::Private,
            database: None,
        });
    }
    // One handle for each database.
    let mut all: Vec<Lakebase> = Vec::new();
    let mut places = Vec::new();
    for listen in &listens {
        let wanted = listen.database.as_deref();
        let handle = match wanted.filter(|wanted| *wanted != lakebase.database()) {
            Some(database) => lakebase.with_database(database)?,
            None => lakebase.clone(),
        };
        let is_it = |known: &&Lakebase| known.database() == handle.database();
        let handle = match all.iter().find(is_it) {
            Some(known) => known.clone(),
            None => {
                all.push(handle.clone());
                handle
            }
        };
        places.push((handle, &listen.place));
    }
    let http = match args.http {
        Some(address) => Some(http::serve(address, all.clone()).await?),
        None => None,
    };
    let mut proxies = Vec::new();
    for (lakebase, place) in places {
        let proxy = start(&lakebase, place, args).await?;
        proxies.push((lakebase, proxy));
    }
    if let Some(address) = http
        && (!args.json || has_command)
    {
        print_note(&format!("metrics and probes at http://{address}"));
    }
    // Mints the first token before the first connection.
    let becoming = tokio::spawn(become_ready(all, args.ready_file.clone()));
    let outcome = match proxies.first().filter(|_| has_command) {
        Some((lakebase, proxy)) => {
            let run = Run {
                target: wanted,
                config: &config,
                lakebase,
                proxy,
                command: &args.command,
                has_credentials: true,
            };
            let outcome = run.to_end(signals).await;
            // Earlier signals were for the command.
            signals = Signals::new()?;
            outcome
        }
        None => {
            announce(&proxies, http, args.json)?;
            if io::stderr().is_terminal() {
                print_note("accepts connections; Ctrl-C stops it");
            }
            signals.end().await;
            Ok(ExitCode::SUCCESS)
        }
    };
    becoming.abort();
    drop(ready);
    let ending = proxies.iter().map(|(_, proxy)| proxy.shutdown(args.grace));
    let ending = futures_util::future::join_all(ending);
    tokio::select! {
        _ = progress("waiting for open transactions; Ctrl-C ends them", ending) => {}
        // A second signal ends the grace period.
        _ = signals.end() => {}
    }
    outcome
}

async fn start(
    lakebase: &Lakebase,
    place: &Place,
    args: &ProxyArgs,
) -> Result<Proxy, lakebase_core::Error> {
    let builder = Builder::new(lakebase);
    let builder =
        match place {
            Place::Private => builder.clients(Clients::ThisUser),
            Place::Folder(folder) => builder.listen_in(folder).clients(Clients::ThisUser),
            Place::Address(address) => builder.listen_on(*address).clients(
                match (args.trust_local_users, &args.password) {
                    (true, _) if !address.ip().is_loopback() => {
                        let text = format!(
                            "--trust-local-users: {address} can be reached from other machines"
                        );
                        return Err(lakebase_core::Error::config(text));
                    }
                    (true, _) => Clients::Anyone,
                    (false, Some(password)) => {
                        Clients::Password(SecretString::from(password.clone()))
                    }
                    (false, None) => Clients::ThisUser,
                },
            ),
        };
    builder.start().await
}

/// Prints the listeners.
fn announce(
    proxies: &[(Lakebase, Proxy)],
    http: Option<SocketAddr>,
    as_json: bool,
) -> io::Result<()> {
    let text = match as_json {
        true => {
            let listeners: Vec<_> = proxies
                .iter()
                .map(|(lakebase, proxy)| {
                    let address = proxy.address();
                    json!({
                        "database": lakebase.database(),
                        "host": address.map_or_else(
                            || proxy.folder().map(|folder| folder.display().to_string()),
                            |address| Some(address.ip().to_string()),
                        ),
                        "port": address.map_or(5432, |address| address.port()),
                        "password": proxy.password(),
                        "url": proxy.url(),
                    })
                })
                .collect();
            let mut line = json!({ "listeners": listeners });
            if let Some(address) = http {
                line["http"] = json!(format!("http://{address}"));
            }
            format!("{line}\n")
        }
        false => proxies
            .iter()
            .map(|(_, proxy)| format!("{}\n", proxy.url()))
            .collect(),
    };
    write_stdout(&text)
}

/// Waits until a login has worked for each listener, then creates the file.
async fn become_ready(all: Vec<Lakebase>, file: Option<PathBuf>) {
    for lakebase in all {
        let mut pause = FIRST_PAUSE;
        while let Err(error) = lakebase.connect().await.map(drop) {
            print_note(&format!("not ready: {}", error.chain()));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
    if let Some(file) = file
        && let Err(error) = make(&file).await
    {
        print_note(&format!("{}: {error}", file.display()));
    }
}

async fn make(file: &Path) -> io::Result<()> {
    tokio::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .await
        .map(drop)
}

/// Removes the ready file of an earlier run at the start, and its own at the end. Removes only an empty file.
struct ReadyFile<'a>(Option<&'a Path>);

impl<'a> ReadyFile<'a> {
    fn new(file: Option<&'a Path>) -> Self {
        let ready = Self(file);
        ready.remove();
        ready
    }

    fn remove(&self) {
        let Some(file) = self.0 else {
            return;
        };
        let found = std::fs::symlink_metadata(file);
        if found.is_ok_and(|found| found.is_file() && found.len() == 0) {
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Drop for ReadyFile<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}
