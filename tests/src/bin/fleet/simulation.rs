//! Handles that log in at random times, and a workspace that mints for them, on virtual time.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lakebase_core::adapter::{self, Clock, LoginFailure};
use lakebase_core::{Config, Credential, CredentialProvider, Error, Lakebase, Refresh};
use tokio::time::{Instant, sleep};

pub const MINUTE: Duration = Duration::from_secs(60);
pub const LIFETIME: Duration = Duration::from_secs(3600);
/// A process whose first login failed logs in again after this.
const RESTART: Duration = Duration::from_secs(1);
/// `Retry-After` of the workspace.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub name: &'static str,
    pub handles: usize,
    pub refresh: Refresh,
    /// All handles log in for the first time within this time.
    pub start: Duration,
    /// Mean time between two logins of a handle.
    pub logins: Duration,
    pub length: Duration,
    /// Every mint fails between these times.
    pub outage: Option<[Duration; 2]>,
    /// Most mints a second.
    pub limit: Option<u32>,
}

/// Logins by phase, because at the start and in an outage a login may wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Logins {
    pub start: u64,
    pub outage: u64,
    pub otherwise: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Mints by minute.
    pub mints: Vec<u32>,
    /// Mints that the workspace rejected, by minute.
    pub rejected: Vec<u32>,
    /// The sum of the running time of all handles.
    pub handle_hours: f64,
    pub logins: u64,
    pub waited: Logins,
    pub failed: Logins,
}

/// Runs a plan. The same seed gives the same outcome.
pub fn simulate(
    plan: Plan,
    seed: u64,
) -> Result<Outcome, Box<dyn std::error::Error + Send + Sync>> {
    // Also the generator of the crates, because all tasks run on this thread.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        let world = World(Arc::new(Shared {
            plan,
            began: Instant::now(),
            outcome: Mutex::default(),
            second: Mutex::default(),
        }));
        let config = Config::builder()
            .host("localhost")
            .user("app")
            .credential_provider(world.clone())
            .clock(world.clone())
            .refresh(plan.refresh)
            .build()?;
        for _ in 0..plan.handles {
            tokio::spawn(live(Lakebase::new(config.clone())?, world.clone()));
        }
        sleep(plan.length).await;
        Ok(std::mem::take(&mut *world.outcome()))
    })
}

#[derive(Clone)]
struct World(Arc<Shared>);

struct Shared {
    plan: Plan,
    began: Instant,
    outcome: Mutex<Outcome>,
    /// The current second, and the mints in it.
    second: Mutex<(u64, u32)>,
}

impl World {
    fn now(&self) -> Duration {
        self.0.began.elapsed()
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.0
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn is_down(&self) -> bool {
        let now = self.now();
        let outage = self.0.plan.outage;
        outage.is_some_and(|[begin, end]| (begin..end).contains(&now))
    }

    /// Whether the limit allows one more mint in this second.
    fn has_turn(&self) -> bool {
        let Some(limit) = self.0.plan.limit else {
            return true;
        };
        let mut second = self.0.second.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now().as_secs();
        if second.0 != now {
            *second = (now, 0);
        }
        second.1 += 1;
        second.1 <= limit
    }

    fn note(&self, began: Duration, is_first: bool, is_ok: bool) {
        let ended = self.now();
        let is_hit = |[begin, end]: [Duration; 2]| began < end && begin <= ended;
        let in_outage = self.0.plan.outage.is_some_and(is_hit);
        let mut outcome = self.outcome();
        outcome.logins += 1;
        let count = |logins: &mut Logins| match (is_first, in_outage) {
            (true, _) => logins.start += 1,
            (false, true) => logins.outage += 1,
            (false, false) => logins.otherwise += 1,
        };
        if !is_ok {
            count(&mut outcome.failed);
        } else if ended > began {
            count(&mut outcome.waited);
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

impl Clock for World {
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.now()
    }

    fn monotonic(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

impl CredentialProvider for World {
    /// The token contains its expiry.
    async fn credential(&self) -> Result<Credential, Error> {
        sleep(between(
            Duration::from_millis(100),
            Duration::from_millis(400),
        ))
        .await;
        let minted = match (self.is_down(), self.has_turn()) {
            (true, _) => Err(Error::provider("the workspace is down", true)),
            (false, false) => {
                Err(Error::provider("too many requests", true).with_retry_after(Some(RETRY_AFTER)))
            }
            (false, true) => {
                let end = (self.now() + LIFETIME).as_millis().to_string();
                Ok(Credential::new(end, self.wall() + LIFETIME))
            }
        };
        let minute = self.now().as_secs() / 60;
        let mut outcome = self.outcome();
        let counted = match minted {
            Ok(_) => &mut outcome.mints,
            Err(_) => &mut outcome.rejected,
        };
        count(counted, minute);
        minted
    }
}

fn count(minutes: &mut Vec<u32>, minute: u64) {
    let index = usize::try_from(minute).unwrap_or(usize::MAX);
    if minutes.len() <= index {
        minutes.resize(index + 1, 0);
    }
    minutes[index] += 1;
}

fn between(low: Duration, high: Duration) -> Duration {
    low + (high - low).mul_f64(fastrand::f64())
}

/// A process or a user: starts, and logs in at random times.
async fn live(lakebase: Lakebase, world: World) {
    let plan = world.0.plan;
    sleep(between(Duration::ZERO, plan.start)).await;
    let hours = (plan.length - world.now()).div_duration_f64(LIFETIME);
    world.outcome().handle_hours += hours;
    while !log_in(&lakebase, &world, true).await {
        sleep(RESTART).await;
    }
    loop {
        sleep(between(plan.logins / 5, plan.logins * 9 / 5)).await;
        log_in(&lakebase, &world, false).await;
    }
}

async fn log_in(lakebase: &Lakebase, world: &World, is_first: bool) -> bool {
    let began = world.now();
    let login = adapter::login(lakebase, |login| {
        let end = login.credential.expose().parse().unwrap_or(0);
        let has_expired = world.now() >= Duration::from_millis(end);
        async move {
            match has_expired {
                true => Err(LoginFailure::postgres(
                    "28P01",
                    "JWT token has expired",
                    "expired",
                )),
                false => Ok(()),
            }
        }
    });
    let is_ok = login.await.is_ok();
    world.note(began, is_first, is_ok);
    is_ok
}
