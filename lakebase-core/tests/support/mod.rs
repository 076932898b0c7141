//! A clock that can be moved and a provider that does as told.
#![allow(dead_code, unreachable_pub, clippy::expect_used)] // each test program uses its part

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use lakebase_core::adapter::Clock;
use lakebase_core::{Config, Credential, CredentialProvider, Error, Lakebase, Refresh};
use tokio::sync::Semaphore;

pub const HOUR: Duration = Duration::from_secs(3600);

/// Both clocks follow tokio's (paused) time; the wall clock can be set apart.
#[derive(Clone, Debug)]
pub struct TestClock {
    start: Instant,
    wall_ahead_secs: Arc<AtomicI64>,
}

impl TestClock {
    pub fn new() -> Self {
        Self {
            start: tokio::time::Instant::now().into_std(),
            wall_ahead_secs: Arc::default(),
        }
    }

    /// Moves the wall clock alone: a suspend, or it is set.
    pub fn step_wall(&self, seconds: i64) {
        self.wall_ahead_secs.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn wall(&self) -> SystemTime {
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let now = base + (self.monotonic() - self.start);
        let ahead = self.wall_ahead_secs.load(Ordering::SeqCst);
        let distance = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 {
            now - distance
        } else {
            now + distance
        }
    }

    fn monotonic(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// What the next mints do.
#[derive(Clone, Debug)]
pub enum Script {
    Mint,
    Fail(Error),
    Panic,
}

#[derive(Clone, Debug)]
pub struct Provider {
    pub clock: TestClock,
    pub lifetime: Duration,
    calls: Arc<AtomicUsize>,
    script: Arc<Mutex<Script>>,
    /// Each mint takes a permit; none left means that it hangs.
    gate: Arc<Semaphore>,
}

impl Provider {
    pub fn new(clock: &TestClock) -> Self {
        Self {
            clock: clock.clone(),
            lifetime: HOUR,
            calls: Arc::default(),
            script: Arc::new(Mutex::new(Script::Mint)),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }

    /// A provider whose mints wait for [`open`](Self::open).
    pub fn gated(clock: &TestClock) -> Self {
        Self {
            gate: Arc::new(Semaphore::new(0)),
            ..Self::new(clock)
        }
    }

    pub fn open(&self) {
        self.gate.add_permits(1_000);
    }

    /// Mints hang from now on.
    pub fn close(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub fn play(&self, script: Script) {
        *self.script.lock().expect("not poisoned") = script;
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl CredentialProvider for Provider {
    async fn credential(&self) -> Result<Credential, Error> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.gate.acquire().await.expect("never closed").forget();
        let script = self.script.lock().expect("not poisoned").clone();
        match script {
            Script::Mint => {
                let token = format!("token-{call}");
                Ok(Credential::new(token, self.clock.wall() + self.lifetime))
            }
            Script::Fail(error) => Err(error),
            Script::Panic => panic!("on purpose"),
        }
    }
}

pub fn lakebase(provider: &Provider) -> Lakebase {
    lakebase_with(provider, Refresh::Ahead)
}

pub fn lakebase_with(provider: &Provider, refresh: Refresh) -> Lakebase {
    let config = Config::builder()
        .host("db.example.com")
        .user("app")
        .credential_provider(provider.clone())
        .clock(provider.clock.clone())
        .refresh(refresh)
        .build()
        .expect("a configuration");
    Lakebase::new(config).expect("a handle")
}
