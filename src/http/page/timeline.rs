//! A database's versions over time, as three lanes: announced upstream, held here, held here as a full CVD.
//!
//! Pure. Positions are percents of the width, so that one drawing fits a phone and a desk; texts keep their size.
use super::words::{When, said};
use crate::{clock::ago, mirror::history::Milestones};
use std::collections::BTreeMap;

const HOUR_S: u64 = 3600;
const DAY_S: u64 = 24 * HOUR_S;
/// Windows that are shown: length and distance of the marks, each in seconds, and how a mark is said.
const WINDOWS: [(u64, u64, &str); 4] = [
    (DAY_S, 6 * HOUR_S, "%H:%M"),
    (3 * DAY_S, DAY_S, "%-d %b"),
    (7 * DAY_S, 2 * DAY_S, "%-d %b"),
    (14 * DAY_S, 4 * DAY_S, "%-d %b"),
];
/// Percents of the width that a version's number needs on a desk and on a phone.
const LABEL_DESK: f64 = 5.4;
const LABEL_PHONE: f64 = 16.0;
/// Percents of the width that can be seen on a desk.
const VISIBLE: f64 = 0.5;
/// Rows of the table that says the same.
const ROWS: usize = 15;

/// The stretch of time that every timeline of the page shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    from_s: u64,
    now_s: u64,
    step_s: u64,
    format: &'static str,
}

/// A database's timeline.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) title: String,
    pub(super) summary: String,
    pub(super) lanes: Vec<Lane>,
    pub(super) marks: Vec<Mark>,
    pub(super) rows: Vec<Row>,
}

/// One lane of it.
#[derive(Debug)]
pub(super) struct Lane {
    /// Top of the lane, pixels.
    pub(super) y: usize,
    pub(super) spans: Vec<Span>,
}

/// A version in a lane.
#[derive(Debug, PartialEq)]
pub(super) struct Span {
    pub(super) version: u32,
    /// Where it begins, percent.
    pub(super) x: f64,
    /// How long it is, percent.
    pub(super) width: f64,
    /// Whether upstream had a newer one.
    pub(super) behind: bool,
    pub(super) title: String,
    /// The class of its number, where there is room for one.
    pub(super) label: Option<&'static str>,
}

impl Span {
    pub(super) fn middle(&self) -> f64 {
        self.x + self.width / 2.0
    }
}

/// A mark of the time axis.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) x: f64,
    pub(super) text: String,
}

/// One version in words.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) version: u32,
    pub(super) announced: Option<When>,
    pub(super) held: Option<(When, Option<String>)>,
    pub(super) full: Option<(When, Option<String>)>,
}

impl Window {
    /// The shortest that shows everything, or the last days of it.
    pub(super) fn over<'a>(versions: impl Iterator<Item = &'a Milestones>, now_s: u64) -> Self {
        let first_s = versions.flat_map(|v| [v.announced_at_s, v.held_at_s, v.full_at_s]).flatten().min();
        let age_s = now_s.saturating_sub(first_s.unwrap_or(now_s));
        let [.., last] = WINDOWS;
        let (len_s, step_s, format) = WINDOWS.into_iter().find(|(len_s, ..)| age_s <= *len_s).unwrap_or(last);
        Self { from_s: now_s.saturating_sub(len_s), now_s, step_s, format }
    }

    fn x(&self, at_s: u64) -> f64 {
        let len_s = (self.now_s - self.from_s).max(1);
        at_s.clamp(self.from_s, self.now_s).saturating_sub(self.from_s) as f64 * 100.0 / len_s as f64
    }

    fn marks(&self) -> Vec<Mark> {
        let first_s = self.from_s.next_multiple_of(self.step_s);
        let times = (first_s..self.now_s).step_by(self.step_s as usize);
        let marks = times.map(|at_s| Mark { x: self.x(at_s), text: said(at_s, self.format) });
        // One at the very edge would be cut off.
        marks.filter(|mark| (4.0..96.0).contains(&mark.x)).collect()
    }
}

impl Timeline {
    /// Whether nothing is known that could be drawn.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether there is a stretch of time to be seen: not right after a first fill.
    pub(super) fn is_drawn(&self) -> bool {
        self.lanes.iter().flat_map(|lane| &lane.spans).any(|span| span.width >= VISIBLE)
    }

    /// Draws what is known of a database's versions.
    pub(super) fn new(database: &str, versions: &BTreeMap<u32, Milestones>, window: Window) -> Self {
        let upstream = steps(versions, |when| when.announced_at_s);
        let held = steps(versions, |when| when.held_at_s);
        let full = steps(versions, |when| when.full_at_s);
        let lanes = [(&upstream, false), (&held, true), (&full, true)].into_iter().enumerate();
        let lanes = lanes.map(|(at, (steps, judged))| Lane {
            y: at * LANE_PX,
            spans: spans(steps, if judged { &upstream } else { &[] }, window),
        });
        let last = |steps: &[(u64, u32)]| {
            steps.last().map_or("nothing known".to_owned(), |(_, version)| version.to_string())
        };
        let rows = versions.iter().rev().take(ROWS).map(|(version, when)| Row::new(*version, when));
        Self {
            title: format!("Versions of {database} over time"),
            summary: format!(
                "From {} to {}. Now: upstream {}, held here {}, full CVD here {}. The table below says the same.",
                said(window.from_s, "%-d %b %Y"),
                said(window.now_s, "%-d %b %Y, %H:%M UTC"),
                last(&upstream),
                last(&held),
                last(&full)
            ),
            lanes: lanes.collect(),
            marks: window.marks(),
            rows: rows.collect(),
        }
    }
}

/// Height of a lane with the gap under it, pixels; the style knows it too.
const LANE_PX: usize = 24;

impl Row {
    fn new(version: u32, when: &Milestones) -> Self {
        let after = |at_s: Option<u64>| {
            let at_s = at_s?;
            let since = |announced_s: u64| at_s.checked_sub(announced_s).map(|s| format!("+{}", ago(s)));
            Some((When::lately(at_s), when.announced_at_s.and_then(since)))
        };
        Self {
            version,
            announced: when.announced_at_s.map(When::lately),
            held: after(when.held_at_s),
            full: after(when.full_at_s),
        }
    }
}

/// The moments at which a lane went on to a newer version, in order.
fn steps(versions: &BTreeMap<u32, Milestones>, when: impl Fn(&Milestones) -> Option<u64>) -> Vec<(u64, u32)> {
    let mut times: Vec<_> =
        versions.iter().filter_map(|(v, milestones)| Some((when(milestones)?, *v))).collect();
    times.sort_unstable();
    let mut newest = 0;
    times.retain(|(_, version)| {
        let newer = *version > newest;
        newest = newest.max(*version);
        newer
    });
    times
}

/// A lane's versions within the window, cut where upstream went on.
fn spans(steps: &[(u64, u32)], upstream: &[(u64, u32)], window: Window) -> Vec<Span> {
    let mut spans = Vec::new();
    for (at, (begins_s, version)) in steps.iter().enumerate() {
        let ends_s = steps.get(at + 1).map_or(window.now_s, |(next_s, _)| *next_s);
        let newer_s = upstream.iter().find(|(_, theirs)| theirs > version).map_or(u64::MAX, |(s, _)| *s);
        let turn_s = newer_s.clamp(*begins_s, ends_s.max(*begins_s));
        for (from_s, to_s, behind) in [(*begins_s, turn_s, false), (turn_s, ends_s, true)] {
            let (x, end) = (window.x(from_s), window.x(to_s));
            if to_s <= from_s || end <= x {
                continue;
            }
            let width = end - x;
            let label = match width {
                _ if behind => None,
                LABEL_PHONE.. => Some("n"),
                LABEL_DESK.. => Some("n desk"),
                _ => None,
            };
            let until = match to_s {
                to_s if to_s >= window.now_s => "now".into(),
                to_s => said(to_s, "%-d %b %H:%M"),
            };
            let late = if behind { ", behind upstream" } else { "" };
            let title = format!("{version}: {} to {until}{late}", said(from_s, "%-d %b %H:%M"));
            spans.push(Span { version: *version, x, width, behind, title, label });
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn when(announced: u64, held: u64, full: u64) -> Milestones {
        let known = |at_s| (at_s > 0).then_some(at_s);
        Milestones { announced_at_s: known(announced), held_at_s: known(held), full_at_s: known(full) }
    }

    /// A window of a hundred seconds: a second is a percent.
    const WINDOW: Window = Window { from_s: 1000, now_s: 1100, step_s: 10, format: "%H:%M" };

    fn drawn(lane: &Lane) -> Vec<(u32, f64, f64, bool)> {
        lane.spans.iter().map(|span| (span.version, span.x, span.width, span.behind)).collect()
    }

    #[test]
    fn a_lane_is_behind_from_the_announcement_until_it_follows() {
        let versions = [(7, when(900, 910, 910)), (8, when(1010, 1030, 1050)), (9, when(1080, 0, 0))];
        let timeline = Timeline::new("daily", &versions.into(), WINDOW);
        let [upstream, held, full] = &timeline.lanes[..] else { panic!("three lanes") };
        assert_eq!(drawn(upstream), [(7, 0.0, 10.0, false), (8, 10.0, 70.0, false), (9, 80.0, 20.0, false)]);
        let late = [(8, 80.0, 20.0, true)];
        assert_eq!(drawn(held)[..3], [(7, 0.0, 10.0, false), (7, 10.0, 20.0, true), (8, 30.0, 50.0, false)]);
        assert_eq!(drawn(held)[3..], late);
        assert_eq!(drawn(full)[..3], [(7, 0.0, 10.0, false), (7, 10.0, 40.0, true), (8, 50.0, 30.0, false)]);
        assert_eq!(drawn(full)[3..], late);
        assert!(
            timeline.summary.contains("upstream 9, held here 8, full CVD here 8"),
            "{}",
            timeline.summary
        );
    }

    #[test]
    fn a_first_fill_a_moment_ago_is_no_figure() {
        let drawn = |at_s| Timeline::new("daily", &[(7, when(at_s, at_s, at_s))].into(), WINDOW).is_drawn();
        assert!(!drawn(WINDOW.now_s));
        assert!(drawn(WINDOW.now_s - 1));
    }

    #[test]
    fn an_older_version_that_comes_later_takes_nothing_back() {
        let versions = [(7, when(0, 1050, 0)), (8, when(0, 1020, 0))];
        let timeline = Timeline::new("daily", &versions.into(), WINDOW);
        assert_eq!(drawn(&timeline.lanes[1]), [(8, 20.0, 80.0, false)]);
        assert_eq!(drawn(&timeline.lanes[0]), []);
    }

    #[test]
    fn times_to_come_and_times_long_past_stay_within() {
        let versions = [(7, when(1, 1, 1)), (8, when(u64::MAX, u64::MAX, u64::MAX))];
        for lane in Timeline::new("daily", &versions.into(), WINDOW).lanes {
            assert_eq!(drawn(&lane), [(7, 0.0, 100.0, false)]);
        }
    }

    #[test]
    fn the_window_holds_everything_or_two_weeks() {
        let now_s = 100 * DAY_S;
        for (age_s, len_s) in [(0, DAY_S), (DAY_S, DAY_S), (DAY_S + 1, 3 * DAY_S), (90 * DAY_S, 14 * DAY_S)] {
            let known = [when(now_s - age_s, 0, 0)];
            let window = Window::over(known.iter(), now_s);
            assert_eq!(window.now_s - window.from_s, len_s, "{age_s}");
            assert!(window.marks().len() >= 2 && window.marks().len() <= 5, "{age_s}");
        }
        assert_eq!(Window::over([].iter(), 5).from_s, 0);
    }
}
