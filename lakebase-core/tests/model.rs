//! Runs a handle through schedules of random faults on paused time. No login uses an expired token, no fault causes a
//! request storm, and the handle recovers from each fault.
//!
//! A failure prints its seed. `LAKEBASE_MODEL_SEED=n` runs that schedule alone; `LAKEBASE_MODEL_SCHEDULES=n` runs the
//! schedules with the seeds below `n`.

#![allow(clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use lakebase_core::adapter::{Clock, Login, LoginFailure};
use lakebase_core::{Config, Credential, CredentialProvider, Error, Lakebase};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Time limit of the HTTP client.
const HTTP_LIMIT: Duration = Duration::from_secs(10);
/// Attempts to mint within any minute: callers that retry all the time cause two a second, because they share a failure for
/// half a second, and renewals add a few.
const MOST_ATTEMPTS_A_MINUTE: usize = 150;
/// A burst, and one a second.
const MOST_MINTS_A_MINUTE: usize = 71;
/// An hour's token is renewed after 41 to 48 minutes.
const MINTS_A_DAY: usize = 36;

/// A generator of our own, so that a seed has the same schedule in all versions.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = (high - low).as_millis().max(1) as u64;
        low + Duration::from_millis(self.next() % span)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Api {
    Up,
    Refuses,
    Slow(Duration),
    Unresponsive,
}

/// How the gateway in front of Postgres treats valid tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gateway {
    Sane,
    /// Rejects every login, as for a fresh branch.
    Unready,
    /// Rejects every other login.
    Flaps(bool),
    /// Rejects one login by mistake.
    RejectsOne,
}

/// The true state of the platform and the machine.
struct State {
    began: std::time::Instant,
    /// Time in which the machine was suspended. True time and the wall clock include it.
    suspended: Duration,
    /// By how much the wall clock is ahead; negative if it is behind.
    skew_secs: i64,
    api: Api,
    compute_up: bool,
    gateway: Gateway,
    minted: u64,
    revoked_up_to: u64,
    /// Tokens up to this one were held when a clock was set or the machine was suspended. The handle may count that time
    /// twice.
    aged_up_to: u64,
    /// True time of each token's expiry, by serial number from 1.
    expiries: Vec<Duration>,
    /// Times of the last minute's attempts to mint.
    attempts: VecDeque<Duration>,
    most_attempts: usize,
    /// When the last fault ended.
    last_fault: Duration,
    faults: usize,
    /// Valid tokens that the gateway rejected.
    rejections: usize,
    /// Times of the last minute's mints.
    mints: VecDeque<Duration>,
    most_mints: usize,
    logins: usize,
    violation: Option<String>,
}

#[derive(Clone)]
struct World(Arc<Mutex<State>>);

impl World {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            began: Instant::now().into_std(),
            suspended: Duration::ZERO,
            skew_secs: 0,
            api: Api::Up,
            compute_up: true,
            gateway: Gateway::Sane,
            minted: 0,
            revoked_up_to: 0,
            aged_up_to: 0,
            expiries: Vec::new(),
            attempts: VecDeque::new(),
            most_attempts: 0,
            last_fault: Duration::ZERO,
            faults: 0,
            rejections: 0,
            mints: VecDeque::new(),
            most_mints: 0,
            logins: 0,
            violation: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }
}

impl State {
    /// Time that the machine was awake.
    fn awake(&self) -> Duration {
        Instant::now().into_std() - self.began
    }

    /// True time.
    fn now(&self) -> Duration {
        self.awake() + self.suspended
    }

    fn violate(&mut self, text: String) {
        let at = self.now();
        self.violation
            .get_or_insert_with(|| format!("after {at:?}: {text}"));
    }

    fn is_faulty(&self) -> bool {
        self.api != Api::Up || self.is_login_faulty()
    }

    fn is_login_faulty(&self) -> bool {
        !self.compute_up || matches!(self.gateway, Gateway::Unready | Gateway::Flaps(_))
    }

    /// Whether the newest token is valid for longer than this, and the handle must know it.
    fn holds_valid_token(&self, margin: Duration) -> bool {
        let newest = self.expiries.last();
        self.minted > self.revoked_up_to.max(self.aged_up_to)
            && newest.is_some_and(|expiry| self.now() + margin < *expiry)
    }

    /// The error of the gateway for a login with a valid token.
    fn rejects(&mut self) -> Option<&'static str> {
        match &mut self.gateway {
            Gateway::Sane => None,
            Gateway::Unready => Some("External authorization failed"),
            Gateway::Flaps(rejects) => {
                *rejects = !*rejects;
                rejects.then_some("password authentication failed")
            }
            Gateway::RejectsOne => {
                self.gateway = Gateway::Sane;
                Some("password authentication failed")
            }
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
        let state = self.lock();
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let skew = Duration::from_secs(state.skew_secs.unsigned_abs());
        let now = base + state.now();
        if state.skew_secs < 0 {
            now - skew
        } else {
            now + skew
        }
    }

    fn monotonic(&self) -> std::time::Instant {
        let state = self.lock();
        state.began + state.awake()
    }
}

impl CredentialProvider for World {
    async fn credential(&self) -> Result<Credential, Error> {
        let api = {
            let mut state = self.lock();
            let now = state.awake();
            let attempts = within_a_minute(&mut state.attempts, now);
            state.most_attempts = state.most_attempts.max(attempts);
            state.api
        };
        let down = || Err(Error::provider("the API is down", true));
        match api {
            Api::Up => {}
            Api::Refuses => return down(),
            Api::Slow(delay) if delay < HTTP_LIMIT => sleep(delay).await,
            Api::Slow(_) | Api::Unresponsive => {
                sleep(HTTP_LIMIT).await;
                return down();
            }
        }
        let serial = {
            let mut state = self.lock();
            let now = state.awake();
            let mints = within_a_minute(&mut state.mints, now);
            state.most_mints = state.most_mints.max(mints);
            state.minted += 1;
            let expiry = state.now() + HOUR;
            state.expiries.push(expiry);
            state.minted
        };
        // A provider states the expiry by the clock of this machine.
        Ok(Credential::new(serial.to_string(), self.wall() + HOUR))
    }
}

/// Adds a time, and counts those of the last minute.
fn within_a_minute(times: &mut VecDeque<Duration>, now: Duration) -> usize {
    times.push_back(now);
    while times.front().is_some_and(|at| now - *at > MINUTE) {
        times.pop_front();
    }
    times.len()
}

/// One login at the gateway.
async fn attempt(world: World, login: Login) -> Result<(), LoginFailure> {
    let serial: u64 = login.credential.expose().parse().expect("a serial number");
    let mut state = world.lock();
    if !state.compute_up {
        return Err(LoginFailure::transport("the compute is suspended"));
    }
    let expiry = state.expiries[serial as usize - 1];
    if state.now() >= expiry {
        let late = state.now() - expiry;
        state.violate(format!("a login with a token that expired {late:?} ago"));
        return Err(LoginFailure::postgres(
            "28P01",
            "JWT token has expired",
            "expired",
        ));
    }
    if serial <= state.revoked_up_to {
        return Err(LoginFailure::postgres(
            "28P01",
            "Invalid authorization",
            "revoked",
        ));
    }
    if let Some(text) = state.rejects() {
        state.rejections += 1;
        return Err(LoginFailure::postgres("28P01", text, "mistaken"));
    }
    state.logins += 1;
    Ok(())
}

async fn log_in(lakebase: &Lakebase, world: &World) -> Result<(), Error> {
    lakebase_core::adapter::login(lakebase, |login| attempt(world.clone(), login)).await
}

/// A task of the application, which logs in at random times. A login may fail only during a fault.
async fn application(lakebase: Lakebase, world: World, mut random: Random) {
    loop {
        sleep(random.between(Duration::from_secs(1), 10 * MINUTE)).await;
        let (before, has_token, faults) = {
            let state = world.lock();
            let has_token = !state.is_login_faulty() && state.holds_valid_token(3 * SECOND);
            (state.now(), has_token, state.faults)
        };
        let outcome = log_in(&lakebase, &world).await;
        let mut state = world.lock();
        // An outage of the workspace affects no login while a token is valid.
        let took = state.now() - before;
        if has_token && state.faults == faults {
            match &outcome {
                Err(error) => state.violate(format!("a login failed with a valid token: {error}")),
                Ok(()) if took > SECOND => state.violate(format!("a login took {took:?}")),
                Ok(()) => {}
            }
        }
        let was_faulty = state.is_faulty() || state.last_fault + MINUTE >= before;
        if let Err(error) = outcome
            && !was_faulty
        {
            state.violate(format!("a login failed without a fault: {error}"));
        }
    }
}

/// Injects one fault, ends it, and checks that the handle recovers.
async fn inject_fault(lakebase: &Lakebase, world: &World, random: &mut Random) {
    let kind = random.next() % 11;
    world.lock().faults += 1;
    let mut allowed = Duration::from_secs(1);
    match kind {
        0..=2 => {
            let (api, patience) = match kind {
                0 => (Api::Refuses, allowed),
                1 => {
                    let delay = random.between(allowed, 2 * HTTP_LIMIT);
                    (Api::Slow(delay), HTTP_LIMIT + allowed)
                }
                _ => (Api::Unresponsive, HTTP_LIMIT + allowed),
            };
            allowed = patience;
            let longest = if random.next().is_multiple_of(4) {
                3 * HOUR
            } else {
                20 * MINUTE
            };
            world.lock().api = api;
            sleep(random.between(Duration::from_secs(1), longest)).await;
        }
        3 => {
            world.lock().compute_up = false;
            sleep(random.between(allowed, Duration::from_secs(20))).await;
        }
        4 => {
            let mut state = world.lock();
            state.revoked_up_to = state.minted;
        }
        5 => {
            let step = (random.next() % 1800) as i64 - 900;
            let mut state = world.lock();
            state.aged_up_to = state.minted;
            state.skew_secs = (state.skew_secs + step).clamp(-900, 900);
        }
        6 => {
            let nap = random.between(MINUTE, 5 * HOUR);
            let mut state = world.lock();
            state.suspended += nap;
            state.aged_up_to = state.minted;
        }
        7 => {
            world.lock().gateway = Gateway::Unready;
            sleep(random.between(allowed, Duration::from_secs(25))).await;
            // The pause between attempts grows to four seconds, half of it more by chance.
            allowed = Duration::from_secs(7);
        }
        8 => {
            world.lock().gateway = Gateway::Flaps(false);
            // A busy application.
            let end = Instant::now() + random.between(allowed, MINUTE);
            while Instant::now() < end {
                let _ = log_in(lakebase, world).await;
                sleep(Duration::from_millis(50)).await;
            }
        }
        9 => {
            {
                let mut state = world.lock();
                state.api = Api::Refuses;
                state.gateway = Gateway::RejectsOne;
            }
            sleep(random.between(Duration::from_secs(1), 20 * MINUTE)).await;
        }
        _ => {
            // Several faults at once.
            {
                let mut state = world.lock();
                state.revoked_up_to = state.minted;
                state.suspended += 30 * MINUTE;
                state.aged_up_to = state.minted;
                state.api = Api::Refuses;
            }
            sleep(random.between(Duration::from_secs(1), 10 * MINUTE)).await;
        }
    }
    {
        let mut state = world.lock();
        state.api = Api::Up;
        state.compute_up = true;
        state.gateway = Gateway::Sane;
        state.last_fault = state.now();
    }
    // A caller that retries all the time.
    let mut last = None;
    let recovered = timeout(allowed, async {
        while let Err(error) = log_in(lakebase, world).await {
            last = Some(error);
            // Paused time advances only while all tasks wait.
            sleep(Duration::from_millis(10)).await;
        }
    });
    if recovered.await.is_err() {
        let text = format!("not recovered {allowed:?} after fault {kind}: {last:?}");
        world.lock().violate(text);
    }
}

/// `pause` is the longest time between two faults.
fn run_schedule(seed: u64, length: Duration, pause: Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let world = World::new();
        let mut random = Random(seed);
        let config = Config::builder()
            .host("db.example.com")
            .user("app")
            .credential_provider(world.clone())
            .clock(world.clone())
            .build()
            .expect("a configuration");
        let lakebase = Lakebase::new(config).expect("a handle");
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let own = Random(random.next());
                tokio::spawn(application(lakebase.clone(), world.clone(), own))
            })
            .collect();
        while world.lock().awake() < length {
            sleep(random.between(MINUTE, pause)).await;
            inject_fault(&lakebase, &world, &mut random).await;
            let state = world.lock();
            if let Some(violation) = &state.violation {
                panic!("LAKEBASE_MODEL_SEED={seed}: {violation}");
            }
        }
        for caller in callers {
            caller.abort();
        }
        let state = world.lock();
        let days = state.now().div_duration_f64(DAY).ceil() as usize;
        // A fault may cost two early mints, and a rejection one.
        let most = days * MINTS_A_DAY + 2 * state.faults + state.rejections + 1;
        let (minted, attempts) = (state.minted as usize, state.most_attempts);
        assert!(
            minted <= most,
            "LAKEBASE_MODEL_SEED={seed}: {minted} mints in {days} days with {} faults",
            state.faults
        );
        assert!(
            attempts <= MOST_ATTEMPTS_A_MINUTE,
            "LAKEBASE_MODEL_SEED={seed}: {attempts} attempts within a minute"
        );
        assert!(
            state.most_mints <= MOST_MINTS_A_MINUTE,
            "LAKEBASE_MODEL_SEED={seed}: {} mints within a minute",
            state.most_mints
        );
        assert!(state.logins > days, "LAKEBASE_MODEL_SEED={seed}: no login");
    })
}

#[allow(clippy::disallowed_methods)] // options of this test
fn option(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn in_two_weeks_of_random_faults_no_login_uses_an_expired_token_and_the_handle_always_recovers() {
    let seeds = match option("LAKEBASE_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..2,
    };
    for seed in seeds {
        run_schedule(seed, 14 * DAY, 8 * HOUR);
    }
}

#[test]
fn no_login_fails_with_a_valid_token_in_a_thousand_random_faults() {
    let seeds = match option("LAKEBASE_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..option("LAKEBASE_MODEL_SCHEDULES").unwrap_or(200),
    };
    for seed in seeds {
        run_schedule(seed, 4 * HOUR, HOUR);
    }
}
