use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
/// An hour's credential that has expired.
const DEAD: Option<(Duration, Duration)> = Some((Duration::ZERO, HOUR));

/// Clock readings relative to one start.
struct Start {
    wall: SystemTime,
    monotonic: Instant,
}

impl Start {
    fn new() -> Self {
        Self {
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            monotonic: tokio::time::Instant::now().into_std(),
        }
    }

    fn after(&self, both: Duration) -> Now {
        self.apart(both, both)
    }

    fn apart(&self, wall: Duration, monotonic: Duration) -> Now {
        Now {
            wall: self.wall + wall,
            monotonic: self.monotonic + monotonic,
            passed: wall.max(monotonic),
        }
    }
}

fn validity(start: &Start, lifetime: Duration) -> Validity {
    let now = start.after(Duration::ZERO);
    Validity::measure(start.wall + lifetime, None, now, now).expect("in the future")
}

/// The latest schedule of a handle's first credential that was minted `age` before the start.
fn minted(age: Duration, start: &Start, lifetime: Duration) -> Schedule {
    let earlier = Start {
        wall: start.wall - age,
        monotonic: start.monotonic,
    };
    let landed = earlier.after(Duration::ZERO);
    Schedule::new(
        validity(&earlier, lifetime),
        Refresh::Ahead,
        landed,
        None,
        1.0,
    )
}

/// The schedule of a credential that was renewed when it was due.
fn renewed(start: &Start, lifetime: Duration, refresh: Refresh, random: f64) -> Schedule {
    let before = minted(lifetime.mul_f64(0.85), start, lifetime);
    let now = start.after(Duration::ZERO);
    Schedule::new(
        validity(start, lifetime),
        refresh,
        now,
        Some(before),
        random,
    )
}

#[test]
fn renewal_is_due_after_about_three_quarters_of_the_lifetime() {
    let start = Start::new();
    for (lifetime, random, expected) in [
        (HOUR, 0.5, 2664.0),
        (HOUR, 0.0, 2448.0),
        (HOUR, 1.0, 2880.0),
        (Duration::from_secs(300), 0.5, 222.0),
        (SECOND, 0.5, 0.74),
        (HOUR, f64::INFINITY, 2880.0),
    ] {
        let due = renewed(&start, lifetime, Refresh::Ahead, random);
        let due = due.until_renewal(start.after(Duration::ZERO));
        assert!(
            (due.as_secs_f64() - expected).abs() < 1e-6,
            "{lifetime:?} with {random}: due after {due:?}, expected {expected} s"
        );
    }
}

/// How many of a thousand handles that mint now renew in each interval of five minutes, if their last credential had this
/// age.
fn by_five_minutes(before: Option<Duration>) -> [usize; 12] {
    let start = Start::new();
    let now = start.after(Duration::ZERO);
    let before = before.map(|age| minted(age, &start, HOUR));
    let mut counts = [0; 12];
    for n in 0..1000 {
        let random = f64::from(n) / 1000.0;
        let schedule = Schedule::new(validity(&start, HOUR), Refresh::Ahead, now, before, random);
        counts[schedule.until_renewal(now).as_secs() as usize / 300] += 1;
    }
    counts
}

#[test]
fn the_first_renewals_of_a_fleet_after_a_common_event_are_spread_over_the_whole_interval() {
    let minute = Duration::from_secs(60);
    for (before, why) in [
        (None, "a start"),
        (Some(61 * minute), "the one before has expired"),
        (
            Some(20 * minute),
            "the one before was rejected early in its life",
        ),
    ] {
        let counts = by_five_minutes(before);
        let even = &counts[1..8];
        assert!(
            even.iter().all(|count| (110..=125).contains(count)),
            "{why}: {counts:?}"
        );
        assert!(
            counts[0] < 60,
            "{why}: none in the first three minutes: {counts:?}"
        );
        assert_eq!(counts[10..], [0, 0], "{why}: {counts:?}");
    }
    let counts = by_five_minutes(Some(50 * minute));
    assert_eq!(counts[..8], [0; 8], "renewed in time: {counts:?}");
}

#[test]
fn a_token_is_valid_until_two_seconds_before_its_expiry_by_either_clock() {
    let start = Start::new();
    let hour = validity(&start, HOUR);
    let margin = Duration::from_secs(2);
    for (now, usable, why) in [
        (start.after(Duration::ZERO), true, "fresh"),
        (
            start.after(HOUR - margin - SECOND),
            true,
            "before the margin",
        ),
        (start.after(HOUR - margin), false, "at the margin"),
        (
            start.apart(HOUR, Duration::ZERO),
            false,
            "suspended: only the wall clock moved",
        ),
        (
            start.apart(Duration::ZERO, HOUR),
            false,
            "wall clock set back: only the monotonic moved",
        ),
    ] {
        assert_eq!(hour.is_usable(now), usable, "{why}");
    }
    assert!(validity(&start, SECOND).is_usable(start.after(Duration::from_millis(899))));
    assert!(!validity(&start, SECOND).is_usable(start.after(Duration::from_millis(900))));
}

#[test]
fn clock_skew_against_the_server_does_not_lengthen_the_lifetime() {
    let start = Start::new();
    let quarter = Duration::from_secs(900);
    let now = start.after(Duration::ZERO);
    for (server, why) in [
        (start.wall + quarter, "our clock is 15 minutes slow"),
        (start.wall - quarter, "our clock is 15 minutes fast"),
    ] {
        let validity = Validity::measure(server + HOUR, Some(server), now, now).expect("valid");
        let lifetime = validity.lifetime();
        assert!(
            lifetime <= HOUR && lifetime >= HOUR - SECOND,
            "{why}: measured {lifetime:?}"
        );
    }
}

#[test]
fn a_date_header_within_its_resolution_does_not_shorten_the_lifetime() {
    let start = Start::new();
    let sent = start.after(Duration::from_millis(400));
    let received = start.after(Duration::from_millis(450));
    let validity =
        Validity::measure(sent.wall + SECOND, Some(start.wall), sent, received).expect("valid");
    assert_eq!(validity.lifetime(), SECOND);
}

#[test]
fn an_expiry_in_the_past_is_invalid_and_a_far_one_is_limited_to_a_day() {
    let start = Start::new();
    let now = start.after(Duration::ZERO);
    assert!(Validity::measure(start.wall, None, now, now).is_none());
    assert!(Validity::measure(start.wall - HOUR, None, now, now).is_none());
    let far = Validity::measure(start.wall + 9000 * HOUR, None, now, now).expect("valid");
    assert_eq!(far.lifetime(), MAX_LIFETIME);
}

#[test]
fn without_a_valid_value_the_pause_after_failures_doubles_up_to_a_limit_and_is_never_zero() {
    let start = Start::new();
    let now = start.after(Duration::ZERO);
    let left = |failures, lifetime: Option<Duration>, retry_after| {
        let held = lifetime.map(|lifetime| (Duration::ZERO, lifetime));
        Backoff::new(Duration::ZERO, failures, held, retry_after, 0.5).left(now)
    };
    assert_eq!(left(1, Some(HOUR), None), SECOND);
    assert_eq!(left(2, Some(HOUR), None), 2 * SECOND);
    assert_eq!(left(40, Some(HOUR), None), Duration::from_secs(30));
    assert_eq!(left(1, Some(SECOND), None), Duration::from_millis(50));
    assert_eq!(left(40, Some(SECOND), None), Duration::from_millis(250));
    assert_eq!(left(1, None, Some(7 * SECOND)), spread(7 * SECOND, 0.5));
    assert!(left(1, Some(Duration::ZERO), None) > Duration::ZERO);
}

#[test]
fn with_a_valid_value_the_pause_after_failures_is_a_part_of_its_remaining_time() {
    let start = Start::new();
    let now = start.after(Duration::ZERO);
    let left = |usable, retry_after, random| {
        Backoff::new(Duration::ZERO, 9, Some((usable, HOUR)), retry_after, random).left(now)
    };
    assert_eq!(left(900 * SECOND, None, 0.0), 225 * SECOND);
    assert_eq!(left(900 * SECOND, None, 1.0), 675 * SECOND);
    assert_eq!(left(8 * SECOND, None, 0.5), 4 * SECOND);
    assert_eq!(
        left(SECOND, None, 0.5),
        SECOND,
        "never shorter than the floor"
    );
    assert_eq!(left(900 * SECOND, Some(5 * SECOND), 0.0), 225 * SECOND);
    assert_eq!(left(8 * SECOND, Some(9 * SECOND), 0.0), 9 * SECOND);
}

#[test]
fn callers_without_a_valid_value_share_a_failure_for_half_a_second_or_as_long_as_retry_after() {
    let start = Start::new();
    let left = |failures, retry_after| {
        Backoff::new(Duration::ZERO, failures, DEAD, retry_after, 0.5)
            .left_for_callers(start.after(Duration::ZERO))
    };
    assert_eq!(left(1, None), Duration::from_millis(100));
    assert_eq!(left(9, None), Duration::from_millis(500));
    assert_eq!(left(1, Some(5 * SECOND)), spread(5 * SECOND, 0.5));
    let long = Backoff::new(Duration::ZERO, 9, DEAD, None, 0.5);
    assert_eq!(long.left_for_callers(start.after(SECOND)), Duration::ZERO);
}

#[test]
fn callers_wait_a_minute_for_a_retry_after_of_five_minutes() {
    let start = Start::new();
    let now = start.after(Duration::ZERO);
    let backoff = Backoff::new(Duration::ZERO, 1, DEAD, Some(300 * SECOND), 0.5);
    assert_eq!(backoff.left_for_callers(now), spread(60 * SECOND, 0.5));
    assert!(
        backoff.left(now) >= 300 * SECOND,
        "the background honours it"
    );
}

#[test]
fn a_token_is_fresh_then_due_then_near_its_end_then_dead() {
    let start = Start::new();
    for (refresh, lifetime, millis, expected) in [
        (Refresh::Ahead, HOUR, 2_663_000, Age::Fresh),
        (Refresh::Ahead, HOUR, 2_665_000, Age::Due),
        (Refresh::Ahead, HOUR, 3_569_000, Age::Due),
        (Refresh::Ahead, HOUR, 3_570_000, Age::NearEnd),
        (Refresh::Ahead, HOUR, 3_597_999, Age::NearEnd),
        (Refresh::Ahead, HOUR, 3_598_000, Age::Dead),
        (Refresh::OnDemand, HOUR, 2_665_000, Age::Due),
        (Refresh::Lazy, HOUR, 2_663_000, Age::Fresh),
        (Refresh::Lazy, HOUR, 2_665_000, Age::NearEnd),
        (Refresh::Ahead, 3 * SECOND, 2_390, Age::Due),
        (Refresh::Ahead, 3 * SECOND, 2_410, Age::NearEnd),
        (Refresh::Ahead, 3 * SECOND, 2_710, Age::Dead),
    ] {
        let schedule = renewed(&start, lifetime, refresh, 0.5);
        let age = schedule.age(start.after(Duration::from_millis(millis)));
        assert_eq!(age, expected, "{refresh:?}, {millis} ms of {lifetime:?}");
    }
}

#[test]
fn a_bucket_allows_a_burst_and_then_one_per_interval() {
    let start = Start::new().monotonic;
    let mut bucket = Bucket::full();
    let taken = |bucket: &mut Bucket, at: Duration| {
        (0..100).filter(|_| bucket.take(SECOND, start + at)).count()
    };
    assert_eq!(taken(&mut bucket, Duration::ZERO), 10);
    assert_eq!(taken(&mut bucket, Duration::from_millis(900)), 0);
    assert_eq!(taken(&mut bucket, Duration::from_millis(2_900)), 2);
    assert_eq!(taken(&mut bucket, SECOND * 3), 1, "the fraction is kept");
    bucket.give_back();
    assert_eq!(taken(&mut bucket, SECOND * 3), 1);
    assert_eq!(taken(&mut bucket, HOUR), 10, "never more than a burst");
}

#[test]
fn clients_with_the_same_retry_after_retry_at_different_times_and_never_early() {
    for (retry_after, at_most) in [(SECOND, 1_250), (60 * SECOND, 66_000)] {
        assert_eq!(spread(retry_after, 0.0), retry_after);
        assert!(spread(retry_after, 0.3) < spread(retry_after, 0.6));
        assert_eq!(spread(retry_after, 1.0), Duration::from_millis(at_most));
    }
}

#[test]
fn a_credential_that_arrives_old_is_not_due_at_once() {
    let start = Start::new();
    let old = start.after(Duration::from_secs(3500));
    let schedule = Schedule::new(validity(&start, HOUR), Refresh::Ahead, old, None, 0.5);
    assert_eq!(schedule.until_renewal(old), SECOND);
}
