//! A proxy in a process without free file descriptors.

#![cfg(unix)]
#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::fs::File;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lakebase_core::proxy::Builder;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::{Provider, TestClock, lakebase};
use tokio::time::{sleep, timeout};
use tracing::{Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// The events about accepted connections.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Line>>>);

type Line = (Level, &'static str);

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let data = event.metadata();
        if data.name().starts_with("lakebase.proxy.accept") {
            let line = (*data.level(), data.name());
            self.0.lock().expect("not poisoned").push(line);
        }
    }
}

impl Log {
    async fn when(&self, is_met: impl Fn(&[Line]) -> bool) -> Vec<Line> {
        let waiting = async {
            loop {
                let lines = self.0.lock().expect("not poisoned").clone();
                if is_met(&lines) {
                    return lines;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let lines = timeout(Duration::from_secs(60), waiting).await;
        lines.expect("these events")
    }
}

#[tokio::test]
async fn a_proxy_without_file_descriptors_warns_once_until_it_accepts_again() {
    let log = Log::default();
    let subscriber = tracing_subscriber::registry().with(log.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let lakebase = lakebase(&Provider::new(&TestClock::new()));
    let proxy = Builder::new(&lakebase).listen_on(([127, 0, 0, 1], 0).into());
    let proxy = proxy.start().await.expect("a proxy");
    let address = proxy.address().expect("TCP");
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 64, most).expect("a limit");
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    // The client gets the last descriptor.
    files.pop();
    let client = TcpStream::connect(address).expect("a connection");
    let lines = log.when(|lines| lines.len() > 4).await;
    let (first, more) = lines.split_first().expect("a line");
    assert_eq!(first, &(Level::WARN, "lakebase.proxy.accept_failed"));
    let again = (Level::DEBUG, "lakebase.proxy.accept_failed_again");
    assert!(more.iter().all(|line| *line == again), "{lines:?}");
    drop(files);
    let recovered = (Level::INFO, "lakebase.proxy.accept_recovered");
    log.when(|lines| lines.contains(&recovered)).await;
    drop(client);
}
