//! The results of a fleet, and the goals for them.

use std::fmt;

use serde_json::{Value, json};

use crate::simulation::{LIFETIME, Logins, MINUTE, Outcome, Plan};

const MOST_MINTS_AN_HOUR: f64 = 1.5;
const MOST_IN_A_MINUTE: f64 = 1.5;
const MOST_AFTER_AN_OUTAGE: f64 = 3.0;
/// A smaller fleet has so few mints a minute that it has random peaks, so this number of standard deviations is allowed.
const FULL_FLEET: usize = 10_000;
const DEVIATIONS: f64 = 4.0;

pub struct Report {
    pub plan: Plan,
    pub outcome: Outcome,
    mints_an_hour: f64,
    /// Mints a minute, from the end of the first lifetime to the outage.
    pub mean: f64,
    peak: u32,
    peak_after_outage: Option<u32>,
    pub misses: Vec<String>,
}

impl Report {
    pub fn new(plan: Plan, outcome: Outcome) -> Self {
        let minute = |time: std::time::Duration| (time.as_secs() / 60) as usize;
        let minutes = minute(plan.length).min(outcome.mints.len());
        let begin = minute(plan.start + LIFETIME + MINUTE).min(minutes);
        let end = plan
            .outage
            .map_or(minutes, |[begin, _]| minute(begin).min(minutes));
        let steady = &outcome.mints[begin.min(end)..end];
        let sum = |minutes: &[u32]| f64::from(minutes.iter().sum::<u32>());
        let most = |minutes: &[u32]| minutes.iter().copied().max().unwrap_or(0);
        let mut report = Self {
            mints_an_hour: sum(&outcome.mints) / outcome.handle_hours,
            mean: sum(steady) / steady.len() as f64,
            peak: most(steady),
            peak_after_outage: plan
                .outage
                .map(|[_, end]| most(&outcome.mints[minute(end).min(minutes)..minutes])),
            misses: Vec::new(),
            plan,
            outcome,
        };
        report.check();
        report
    }

    fn check(&mut self) {
        let mut misses = Vec::new();
        if self.mints_an_hour > MOST_MINTS_AN_HOUR {
            misses.push(format!("more than {MOST_MINTS_AN_HOUR} mints an hour"));
        }
        let most = |goal: f64| match goal * self.mean {
            most if self.plan.handles >= FULL_FLEET => most,
            most => most + DEVIATIONS * most.sqrt(),
        };
        if !self.mean.is_normal() || f64::from(self.peak) > most(MOST_IN_A_MINUTE) {
            misses.push(format!(
                "a minute with more than {MOST_IN_A_MINUTE} times the mean"
            ));
        }
        if let Some(peak) = self.peak_after_outage
            && f64::from(peak) > most(MOST_AFTER_AN_OUTAGE)
        {
            misses.push(format!(
                "a minute with more than {MOST_AFTER_AN_OUTAGE} times the mean after the outage"
            ));
        }
        if self.outcome.waited.otherwise > 0 {
            misses.push(String::from("logins waited for a mint"));
        }
        if self.outcome.failed.otherwise > 0 {
            misses.push(String::from("logins failed"));
        }
        self.misses = misses;
    }

    fn over_mean(&self, peak: u32) -> f64 {
        f64::from(peak) / self.mean
    }

    pub fn json(&self) -> Value {
        let Self { plan, outcome, .. } = self;
        let logins = |logins: &Logins| {
            json!({
                "at_the_start": logins.start,
                "in_the_outage": logins.outage,
                "otherwise": logins.otherwise,
            })
        };
        json!({
            "scenario": plan.name,
            "handles": plan.handles,
            "hours": plan.length.div_duration_f64(LIFETIME),
            "mints_per_handle_hour": self.mints_an_hour,
            "mean_mints_per_minute": self.mean,
            "peak_to_mean": self.over_mean(self.peak),
            "peak_to_mean_after_outage": self.peak_after_outage.map(|peak| self.over_mean(peak)),
            "logins": outcome.logins,
            "waited": logins(&outcome.waited),
            "failed": logins(&outcome.failed),
            "mints_by_minute": outcome.mints,
            "rejected_by_minute": outcome.rejected,
            "missed": self.misses,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, outcome, .. } = self;
        writeln!(f, "{}", plan.name)?;
        writeln!(
            f,
            "  {:.3} mints an hour for each of {}",
            self.mints_an_hour, plan.handles
        )?;
        writeln!(
            f,
            "  {:.2} times the mean of {:.0} mints in the worst minute after the first lifetime",
            self.over_mean(self.peak),
            self.mean
        )?;
        if let Some(peak) = self.peak_after_outage {
            writeln!(
                f,
                "  {:.2} times the mean in the worst minute after the outage",
                self.over_mean(peak)
            )?;
        }
        let rejected: u32 = outcome.rejected.iter().sum();
        writeln!(f, "  {rejected} mints rejected by the workspace")?;
        writeln!(f, "  {} logins", outcome.logins)?;
        for (what, logins) in [
            ("waited for a mint", outcome.waited),
            ("failed", outcome.failed),
        ] {
            writeln!(
                f,
                "    {what}: {} at the start, {} in the outage, {} otherwise",
                logins.start, logins.outage, logins.otherwise
            )?;
        }
        for miss in &self.misses {
            writeln!(f, "  MISSED: {miss}")?;
        }
        Ok(())
    }
}
