use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// Readings relative to one start, so that both clocks can be moved apart.
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

#[test]
fn renewal_is_due_at_three_quarters_of_the_lifetime_give_or_take_the_jitter() {
    let start = Start::new();
    for (lifetime, random, expected) in [
        (HOUR, 0.5, 2700.0),
        (HOUR, 0.0, 2520.0),
        (HOUR, 1.0, 2880.0),
        (Duration::from_secs(300), 0.5, 225.0),
        (SECOND, 0.5, 0.75),
        (HOUR, f64::INFINITY, 2880.0),
    ] {
        let now = start.after(Duration::ZERO);
        let schedule = Schedule::new(validity(&start, lifetime), Refresh::Ahead, now, random);
        let due = schedule.until_renewal(start.after(Duration::ZERO));
        assert!(
            (due.as_secs_f64() - expected).abs() < 1e-6,
            "{lifetime:?} with {random}: due after {due:?}, expected {expected} s"
        );
    }
}

#[test]
fn a_token_is_usable_until_two_seconds_before_its_end_on_either_clock() {
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
fn a_date_header_within_its_own_resolution_costs_no_lifetime() {
    let start = Start::new();
    let sent = start.after(Duration::from_millis(400));
    let received = start.after(Duration::from_millis(450));
    let validity =
        Validity::measure(sent.wall + SECOND, Some(start.wall), sent, received).expect("valid");
    assert_eq!(validity.lifetime(), SECOND);
}

#[test]
fn an_expiry_in_the_past_is_no_validity_and_a_far_one_is_capped() {
    let start = Start::new();
    let now = start.after(Duration::ZERO);
    assert!(Validity::measure(start.wall, None, now, now).is_none());
    assert!(Validity::measure(start.wall - HOUR, None, now, now).is_none());
    let far = Validity::measure(start.wall + 9000 * HOUR, None, now, now).expect("valid");
    assert_eq!(far.lifetime(), MAX_LIFETIME);
}

#[test]
fn the_pause_after_failures_grows_is_bounded_and_never_zero() {
    let start = Start::new();
    let now = start.after(Duration::ZERO);
    let left = |failures, lifetime, asked| {
        Backoff::new(start.monotonic, failures, lifetime, asked, 0.5).left(now)
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
fn callers_with_nothing_valid_share_a_failure_for_half_a_second_or_as_long_as_the_server_asks() {
    let start = Start::new();
    let left = |failures, asked| {
        Backoff::new(start.monotonic, failures, Some(HOUR), asked, 0.5)
            .left_for_callers(start.after(Duration::ZERO))
    };
    assert_eq!(left(1, None), Duration::from_millis(100));
    assert_eq!(left(9, None), Duration::from_millis(500));
    assert_eq!(left(1, Some(5 * SECOND)), spread(5 * SECOND, 0.5));
    let long = Backoff::new(start.monotonic, 9, Some(HOUR), None, 0.5);
    assert_eq!(long.left_for_callers(start.after(SECOND)), Duration::ZERO);
}

#[test]
fn a_maintenance_page_that_asks_for_five_minutes_holds_callers_up_for_one() {
    let start = Start::new();
    let now = start.after(Duration::ZERO);
    let asked = Backoff::new(start.monotonic, 1, Some(HOUR), Some(300 * SECOND), 0.5);
    assert_eq!(asked.left_for_callers(now), spread(60 * SECOND, 0.5));
    assert!(asked.left(now) >= 300 * SECOND, "the background honours it");
}

#[test]
fn a_token_has_three_ages_before_it_is_dead() {
    let start = Start::new();
    let now = start.after(Duration::ZERO);
    for (refresh, lifetime, millis, expected) in [
        (Refresh::Ahead, HOUR, 2_699_000, Age::Fresh),
        (Refresh::Ahead, HOUR, 2_701_000, Age::Due),
        (Refresh::Ahead, HOUR, 3_569_000, Age::Due),
        (Refresh::Ahead, HOUR, 3_570_000, Age::NearEnd),
        (Refresh::Ahead, HOUR, 3_597_999, Age::NearEnd),
        (Refresh::Ahead, HOUR, 3_598_000, Age::Dead),
        (Refresh::Lazy, HOUR, 2_699_000, Age::Fresh),
        (Refresh::Lazy, HOUR, 2_701_000, Age::NearEnd),
        (Refresh::Ahead, 3 * SECOND, 2_390, Age::Due),
        (Refresh::Ahead, 3 * SECOND, 2_410, Age::NearEnd),
        (Refresh::Ahead, 3 * SECOND, 2_710, Age::Dead),
    ] {
        let schedule = Schedule::new(validity(&start, lifetime), refresh, now, 0.5);
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
fn those_who_were_turned_away_together_do_not_come_back_together_and_never_early() {
    for (asked, at_most) in [(SECOND, 1_250), (60 * SECOND, 66_000)] {
        assert_eq!(spread(asked, 0.0), asked);
        assert!(spread(asked, 0.3) < spread(asked, 0.6));
        assert_eq!(spread(asked, 1.0), Duration::from_millis(at_most));
    }
}

#[test]
fn a_credential_that_lands_old_is_not_due_at_once() {
    let start = Start::new();
    let old = start.after(Duration::from_secs(3500));
    let schedule = Schedule::new(validity(&start, HOUR), Refresh::Ahead, old, 0.5);
    assert_eq!(schedule.until_renewal(old), SECOND);
}
