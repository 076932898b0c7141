//! A month in the life of a handle, on paused time, with faults at random: whatever the platform and the
//! machine do, no login uses a dead token, nothing becomes a storm, and everything recovers.
//!
//! A failing seed is printed. `LAKEBASE_MODEL_SEED=n` plays that one alone, `LAKEBASE_MODEL_SCHEDULES=n`
//! plays as many.

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
/// An answer that does not come is given up by the HTTP client.
const HTTP_LIMIT: Duration = Duration::from_secs(10);
/// Attempts to mint within any minute, with callers that ask all the time and no answer: two a
/// second, because callers share a failure for half a second, and what the renewals add.
const MOST_ATTEMPTS_A_MINUTE: usize = 150;
/// A burst, and one a second.
const MOST_MINTS_A_MINUTE: usize = 71;
/// An hour's token is renewed after 41 to 48 minutes.
const MINTS_A_DAY: usize = 36;

/// A small generator, so that a seed means the same for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Somewhere between.
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
    Silent,
}

/// What the gateway in front of Postgres makes of good tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gateway {
    Sane,
    /// Rejects every login, as that of a fresh branch.
    Unready,
    /// Rejects every other login.
    Flaps(bool),
    /// Rejects one login by mistake.
    RejectsOne,
}

/// What is true, whatever our machine believes.
struct State {
    began: std::time::Instant,
    /// Time that passed while the machine was suspended: for the world, and for the wall clock.
    suspended: Duration,
    /// How far the wall clock is ahead; negative if it is behind.
    skew_secs: i64,
    api: Api,
    compute_up: bool,
    gateway: Gateway,
    minted: u64,
    revoked_up_to: u64,
    /// Tokens up to this one were held when a clock was set or the machine suspended: our side may count
    /// their age double.
    aged_up_to: u64,
    /// True time at which each token dies, by serial number from 1.
    deaths: Vec<Duration>,
    /// The last minute's attempts to mint.
    attempts: VecDeque<Duration>,
    most_attempts: usize,
    /// When something was last wrong.
    last_fault: Duration,
    disturbances: usize,
    /// Good tokens that the gateway rejected.
    rejections: usize,
    /// The last minute's mints.
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
            deaths: Vec::new(),
            attempts: VecDeque::new(),
            most_attempts: 0,
            last_fault: Duration::ZERO,
            disturbances: 0,
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

    fn blame(&mut self, text: String) {
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

    /// The newest token is good for longer than this, and our side cannot but know it.
    fn holds_good_token(&self, margin: Duration) -> bool {
        let newest = self.deaths.last();
        self.minted > self.revoked_up_to.max(self.aged_up_to)
            && newest.is_some_and(|death| self.now() + margin < *death)
    }

    /// What the gateway makes of a login with a good token.
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
            Api::Slow(_) | Api::Silent => {
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
            let death = state.now() + HOUR;
            state.deaths.push(death);
            state.minted
        };
        // A provider states the expiry by this machine's clock.
        Ok(Credential::new(serial.to_string(), self.wall() + HOUR))
    }
}

/// Notes one more, and counts those of the last minute.
fn within_a_minute(times: &mut VecDeque<Duration>, now: Duration) -> usize {
    times.push_back(now);
    while times.front().is_some_and(|at| now - *at > MINUTE) {
        times.pop_front();
    }
    times.len()
}

/// One login, as the platform judges it.
async fn attempt(world: World, login: Login) -> Result<(), LoginFailure> {
    let serial: u64 = login.credential.expose().parse().expect("a serial number");
    let mut state = world.lock();
    if !state.compute_up {
        return Err(LoginFailure::transport("the compute is asleep"));
    }
    let death = state.deaths[serial as usize - 1];
    if state.now() >= death {
        let late = state.now() - death;
        state.blame(format!("a login with a token that is dead since {late:?}"));
        return Err(LoginFailure::postgres(
            "28P01",
            "JWT token has expired",
            "dead",
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

/// A task of the application: logs in every now and then. It may fail only if something is wrong.
async fn call(lakebase: Lakebase, world: World, mut random: Random) {
    loop {
        sleep(random.between(Duration::from_secs(1), 10 * MINUTE)).await;
        let (before, good, disturbances) = {
            let state = world.lock();
            let good = !state.is_login_faulty() && state.holds_good_token(3 * SECOND);
            (state.now(), good, state.disturbances)
        };
        let outcome = log_in(&lakebase, &world).await;
        let mut state = world.lock();
        // An outage of the workspace affects no caller while a token is valid.
        let took = state.now() - before;
        if good && state.disturbances == disturbances {
            match &outcome {
                Err(error) => state.blame(format!("a login failed with a good token: {error}")),
                Ok(()) if took > SECOND => state.blame(format!("a login took {took:?}")),
                Ok(()) => {}
            }
        }
        let was_faulty = state.is_faulty() || state.last_fault + MINUTE >= before;
        if let Err(error) = outcome
            && !was_faulty
        {
            state.blame(format!("a login failed though nothing was wrong: {error}"));
        }
    }
}

/// Plays one fault to its end, and sees the handle recover.
async fn disturb(lakebase: &Lakebase, world: &World, random: &mut Random) {
    let kind = random.next() % 11;
    world.lock().disturbances += 1;
    let mut allowed = Duration::from_secs(1);
    match kind {
        0..=2 => {
            let (api, patience) = match kind {
                0 => (Api::Refuses, allowed),
                1 => {
                    let delay = random.between(allowed, 2 * HTTP_LIMIT);
                    (Api::Slow(delay), HTTP_LIMIT + allowed)
                }
                _ => (Api::Silent, HTTP_LIMIT + allowed),
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
            // A busy application in the middle of it.
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
            // Several at once.
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
    // Callers that keep asking get through at once.
    let mut last = None;
    let recovered = timeout(allowed, async {
        while let Err(error) = log_in(lakebase, world).await {
            last = Some(error);
            // Paused time stands still while no task sleeps.
            sleep(Duration::from_millis(10)).await;
        }
    });
    if recovered.await.is_err() {
        let text = format!("not recovered {allowed:?} after fault {kind}: {last:?}");
        world.lock().blame(text);
    }
}

/// `pause` is the longest between two faults.
fn play(seed: u64, length: Duration, pause: Duration) {
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
                tokio::spawn(call(lakebase.clone(), world.clone(), own))
            })
            .collect();
        while world.lock().awake() < length {
            sleep(random.between(MINUTE, pause)).await;
            disturb(&lakebase, &world, &mut random).await;
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
        // Each disturbance may cost a token or two before its time, and each rejection one.
        let most = days * MINTS_A_DAY + 2 * state.disturbances + state.rejections + 1;
        let (minted, attempts) = (state.minted as usize, state.most_attempts);
        assert!(
            minted <= most,
            "LAKEBASE_MODEL_SEED={seed}: {minted} mints in {days} days with {} disturbances",
            state.disturbances
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

#[allow(clippy::disallowed_methods)] // which seed to play is the developer's word
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_month_of_random_faults_leads_to_no_expired_token_no_storm_and_no_standstill() {
    let seeds = match asked("LAKEBASE_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..4,
    };
    for seed in seeds {
        play(seed, 30 * DAY, 8 * HOUR);
    }
}

#[test]
fn no_login_fails_in_a_thousand_random_outages() {
    let seeds = match asked("LAKEBASE_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..asked("LAKEBASE_MODEL_SCHEDULES").unwrap_or(400),
    };
    for seed in seeds {
        play(seed, 4 * HOUR, HOUR);
    }
}
