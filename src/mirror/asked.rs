//! Sign files that come later than what they sign: the source is asked again, while the file is the newest.
use crate::{clock::Clock, cvd::FileName};
use std::{collections::BTreeMap, time::Duration};

/// A source that has none with a new file mostly has it within the day.
const YOUNG_S: u64 = 2 * 86_400;
/// How often it is asked for the sign file of a young file, and of an older one.
const OFTEN: Duration = Duration::from_secs(3600);
const SELDOM: Duration = Duration::from_secs(86_400);

/// When each sign file was asked for last, by the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Asked(BTreeMap<FileName, Duration>);

impl Asked {
    pub(super) fn asked(&mut self, sign: &FileName, clock: &Clock) {
        // Nothing older is ever asked for again, which bounds it.
        self.0.retain(|_, at| *at + SELDOM > clock.monotonic());
        self.0.insert(sign.clone(), clock.monotonic());
    }

    /// Whether it is time to ask for a sign file whose file was stored `stored_at_s`; one of the future is not young.
    pub(super) fn is_due(&self, sign: &FileName, stored_at_s: u64, clock: &Clock) -> bool {
        let age_s = clock.epoch_s().checked_sub(stored_at_s);
        let pause = if age_s.is_some_and(|age_s| age_s < YOUNG_S) { OFTEN } else { SELDOM };
        self.0.get(sign).is_none_or(|at| clock.monotonic().saturating_sub(*at) >= pause)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_pauses_grow_with_the_files_age_and_no_step_changes_one() {
        const YEAR_S: i64 = 365 * 86_400;
        let (clock, stored_at_s) = (Clock::simulated(1_800_000_000), 1_800_000_000);
        let (mut asked, sign) = (Asked::default(), "test-5.cvd.sign".parse::<FileName>().unwrap());
        let pause = |asked: &Asked| {
            let waited = (0..).find(|_| {
                clock.pass(60);
                asked.is_due(&sign, stored_at_s, &clock)
            });
            (waited.unwrap() + 1) * 60
        };
        assert!(asked.is_due(&sign, stored_at_s, &clock));
        asked.asked(&sign, &clock);
        assert_eq!(pause(&asked), OFTEN.as_secs());
        for step_s in [YEAR_S, -2 * YEAR_S, YEAR_S] {
            asked.asked(&sign, &clock);
            clock.step(step_s);
            let longest = if step_s > 0 && clock.epoch_s() < stored_at_s + YOUNG_S { OFTEN } else { SELDOM };
            assert_eq!(pause(&asked), longest.as_secs(), "{step_s}");
        }
        clock.pass(YOUNG_S);
        asked.asked(&sign, &clock);
        assert_eq!(pause(&asked), SELDOM.as_secs());
    }
}
