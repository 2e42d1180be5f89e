//! What to fetch next: a pure function of what is held, what the source says is newest, and what was tried.
//!
//! The order spares the upstream and serves clients first: the CDIFFs from the CVD held to the newest version
//! (clients can follow those at once), then the newest CVD itself, rebuilt from its 512-byte header where the
//! CDIFFs allow it and fetched whole where not, then the CDIFFs that led to the oldest one held.
use crate::cvd::{FileKind, FileName};
use std::collections::{BTreeMap, BTreeSet};

/// More versions behind than this, the full CVD is the cheaper way: the CDN keeps CDIFFs for about 90 days.
const MAX_GAP: u32 = 90;
/// A version this far past what is held is not believed without the file itself: about three years of daily ones.
const MAX_JUMP: u32 = 1000;

/// What is held of one database.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Held {
    /// Versions of full CVDs.
    pub cvds: BTreeSet<u32>,
    /// Versions of CDIFFs, each with whether it is a patch (an empty one says: take the full CVD).
    pub cdiffs: BTreeMap<u32, bool>,
}

impl Held {
    /// Adds a file; an empty CDIFF is no patch.
    pub fn insert(&mut self, name: &FileName, is_patch: bool) {
        match name.kind {
            FileKind::Cvd => drop(self.cvds.insert(name.version)),
            FileKind::Cdiff => drop(self.cdiffs.insert(name.version, is_patch)),
            FileKind::CvdSign | FileKind::CdiffSign => {}
        }
    }

    /// The newest full CVD.
    pub fn newest_cvd(&self) -> Option<u32> {
        self.cvds.last().copied()
    }

    /// The newest version a client reaches from the newest CVD by patches held without a gap.
    pub fn reachable(&self) -> Option<u32> {
        let mut version = self.newest_cvd()?;
        while version < u32::MAX && self.cdiffs.get(&(version + 1)) == Some(&true) {
            version += 1;
        }
        Some(version)
    }

    /// First and last CDIFF of the chain without a gap that ends at `version`.
    pub fn chain_to(&self, version: u32) -> Option<(u32, u32)> {
        let mut first = version;
        while self.cdiffs.contains_key(&first) {
            first -= 1;
        }
        (first < version).then_some((first + 1, version))
    }

    /// The gaps: ranges of versions between the oldest and the newest CDIFF held that have none. Never list their
    /// versions: there may be four billion.
    pub fn gaps(&self) -> Vec<(u32, u32)> {
        let versions = self.cdiffs.keys().zip(self.cdiffs.keys().skip(1));
        versions.filter(|(one, next)| **next - **one > 1).map(|(one, next)| (one + 1, next - 1)).collect()
    }

    /// How many versions lie in the gaps.
    pub fn missing(&self) -> u64 {
        self.gaps().iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    /// Whether a CDIFF's version is absurdly far from every full CVD, or where there is none, from every other CDIFF.
    pub fn is_stray(&self, version: u32) -> bool {
        let near = version.saturating_sub(MAX_JUMP)..=version.saturating_add(MAX_JUMP);
        if !self.cvds.is_empty() {
            return self.cvds.range(near).next().is_none();
        }
        let own = self.cdiffs.contains_key(&version);
        self.cdiffs.len() > usize::from(own) && self.cdiffs.range(near).all(|(other, _)| *other == version)
    }
}

/// One thing to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// Fetch the CDIFF to this version, and its sign file.
    Cdiff(u32),
    /// Fetch the 512-byte header of the CVD, by preference of this version.
    Header(u32),
    /// Rebuild the CVD of this version from the newest one held, the CDIFFs and the header that was fetched.
    Rebuild(u32),
    /// Fetch the full CVD, by preference of this version, and its sign file.
    Cvd(u32),
    /// Fetch a CDIFF that led to what is held, for clients that are behind.
    Backfill(u32),
}

impl Step {
    /// Whether it is slow enough that what was fetched before it is to be published first.
    pub fn publish_before(self) -> bool {
        !matches!(self, Self::Cdiff(_))
    }
}

/// What is known of one round so far.
#[derive(Clone, Default, Debug)]
pub struct Answers {
    /// Every step that is done, whatever came of it: nothing is tried twice in a round.
    pub done: BTreeSet<Step>,
    /// The version in the header that the source sent.
    pub header: Option<u32>,
    /// Whether some full file is known not to be worth fetching: its header is asked first.
    pub is_wary: bool,
}

/// Whether a version that a TXT record names is too far ahead to be believed by itself.
pub fn absurd(held: &Held, newest: u32) -> bool {
    held.newest_cvd().is_some_and(|version| newest.saturating_sub(version) > MAX_JUMP)
}

/// Says what to do next; `None` when nothing is left. `newest` is the version the source speaks of; `backfill`
/// how many CDIFFs are wanted that led to the newest CVD.
pub fn next(held: &Held, newest: u32, answers: &Answers, backfill: u32) -> Option<Step> {
    let untried = |step: Step| (!answers.done.contains(&step)).then_some(step);
    let Some(base) = held.newest_cvd() else {
        let wary = answers.is_wary && answers.header.is_none();
        return untried(if wary { Step::Header(newest) } else { Step::Cvd(newest) });
    };
    // The file may be ahead of the record that speaks of it.
    let newest = newest.max(answers.header.unwrap_or(0));
    let mut patched = base;
    if newest.saturating_sub(base) <= MAX_GAP {
        while patched < newest {
            match held.cdiffs.get(&(patched + 1)) {
                Some(true) => patched += 1,
                // A chain is worth nothing past its first gap: an empty CDIFF or one not to be had ends it.
                Some(false) => break,
                None => match untried(Step::Cdiff(patched + 1)) {
                    Some(step) => return Some(step),
                    None => break,
                },
            }
        }
    }
    let step = match answers.header {
        _ if base >= newest => None,
        None => untried(Step::Header(newest)),
        // The source has nothing newer than what is held, whatever its record says: the full file is the same.
        Some(version) if version <= base => None,
        Some(version) if version <= patched => {
            untried(Step::Rebuild(version)).or_else(|| untried(Step::Cvd(version)))
        }
        Some(version) => untried(Step::Cvd(version)),
    };
    step.or_else(|| backfill_step(held, base, answers, backfill))
}

/// The next CDIFF below the oldest of the chain that leads to `base`; one that is not to be had ends it.
fn backfill_step(held: &Held, base: u32, answers: &Answers, backfill: u32) -> Option<Step> {
    // Version 1 is the first there is, so no CDIFF leads to it.
    for version in (2..=base).rev().take(backfill as usize) {
        if held.cdiffs.contains_key(&version) {
            continue;
        }
        let step = Step::Backfill(version);
        let failed = answers.done.contains(&step) || answers.done.contains(&Step::Cdiff(version));
        return (!failed).then_some(step);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(cvds: &[u32], cdiffs: &[(u32, bool)]) -> Held {
        Held { cvds: cvds.iter().copied().collect(), cdiffs: cdiffs.iter().copied().collect() }
    }

    #[test]
    fn next_step_table() {
        use Step::*;
        type Case = (&'static str, Held, u32, &'static [Step], Option<u32>, u32, Option<Step>);
        let cases: &[Case] = &[
            ("nothing held: the full CVD", held(&[], &[]), 5, &[], None, 30, Some(Cvd(5))),
            ("nothing held, not to be had: done", held(&[], &[]), 5, &[Cvd(5)], None, 30, None),
            ("behind: the first CDIFF", held(&[3], &[]), 5, &[], None, 0, Some(Cdiff(4))),
            ("then the second", held(&[3], &[(4, true)]), 5, &[Cdiff(4)], None, 0, Some(Cdiff(5))),
            ("patched: the header", held(&[4], &[(5, true)]), 5, &[], None, 0, Some(Header(5))),
            ("no header: done", held(&[4], &[(5, true)]), 5, &[Header(5)], None, 0, None),
            ("header: rebuild", held(&[4], &[(5, true)]), 5, &[Header(5)], Some(5), 0, Some(Rebuild(5))),
            ("rebuild failed: full", held(&[4], &[(5, true)]), 5, &[Rebuild(5)], Some(5), 0, Some(Cvd(5))),
            ("edge stale, as old as held: done", held(&[4], &[(5, true)]), 5, &[], Some(4), 0, None),
            (
                "edge half stale: rebuild that",
                held(&[3], &[(4, true), (5, true)]),
                5,
                &[],
                Some(4),
                0,
                Some(Rebuild(4)),
            ),
            ("then no further", held(&[4], &[(4, true), (5, true)]), 5, &[Rebuild(4)], Some(4), 0, None),
            ("CDIFF missing: the header first", held(&[3], &[]), 5, &[Cdiff(4)], None, 0, Some(Header(5))),
            ("CDIFF missing, edge stale: no full", held(&[3], &[]), 5, &[Cdiff(4)], Some(3), 0, None),
            ("CDIFF missing, header there: full", held(&[3], &[]), 5, &[Cdiff(4)], Some(5), 0, Some(Cvd(5))),
            ("CDIFF empty: full", held(&[3], &[(4, false)]), 5, &[], Some(5), 0, Some(Cvd(5))),
            ("too far behind: full", held(&[3], &[]), 200, &[], Some(200), 0, Some(Cvd(200))),
            ("file ahead of its record", held(&[3], &[(4, true)]), 4, &[], Some(5), 0, Some(Cdiff(5))),
            (
                "full came older than asked: its CDIFFs",
                held(&[4], &[]),
                5,
                &[Cvd(5)],
                None,
                0,
                Some(Cdiff(5)),
            ),
            ("newest held: back-fill downwards", held(&[5], &[]), 5, &[], None, 30, Some(Backfill(5))),
            ("back-fill goes on", held(&[5], &[(5, true)]), 5, &[Backfill(5)], None, 30, Some(Backfill(4))),
            ("an absent one ends it", held(&[5], &[(5, true)]), 5, &[Backfill(4)], None, 30, None),
            ("back-fill bound", held(&[50], &[(50, true), (49, true)]), 50, &[], None, 2, None),
            ("version 1 has no CDIFF", held(&[2], &[(2, true)]), 2, &[], None, 30, None),
            (
                "a gap is back-filled",
                held(&[5], &[(5, true), (3, true)]),
                5,
                &[],
                None,
                30,
                Some(Backfill(4)),
            ),
            ("source older than held: nothing", held(&[5], &[]), 4, &[], None, 0, None),
            ("end of u32", held(&[u32::MAX], &[]), u32::MAX, &[], None, 0, None),
        ];
        for (what, held, newest, done, header, backfill, expected) in cases {
            let answers = Answers { done: done.iter().copied().collect(), header: *header, is_wary: false };
            assert_eq!(next(held, *newest, &answers, *backfill), *expected, "{what}");
        }
    }

    /// Whatever the source answers, a round ends.
    #[test]
    fn a_round_ends() {
        for newest in [0, 1, 5, 89, 90, 91, 92, u32::MAX] {
            for header in [None, Some(1), Some(4), Some(u32::MAX)] {
                let held = held(&[1], &[(3, true)]);
                let mut answers = Answers::default();
                let mut steps = 0;
                while let Some(step) = next(&held, newest, &answers, 30) {
                    answers.done.insert(step);
                    if matches!(step, Step::Header(_)) {
                        answers.header = header;
                    }
                    steps += 1;
                    assert!(steps < 200);
                }
            }
        }
    }

    #[test]
    fn reachable_stops_at_a_gap_and_at_an_empty_cdiff() {
        assert_eq!(held(&[3], &[(4, true), (6, true)]).reachable(), Some(4));
        assert_eq!(held(&[3], &[(4, false), (5, true)]).reachable(), Some(3));
        assert_eq!(held(&[], &[(4, true)]).reachable(), None);
        assert_eq!(held(&[u32::MAX], &[]).reachable(), Some(u32::MAX));
    }

    #[test]
    fn chain_and_gaps() {
        let held = held(&[5], &[(2, true), (4, false), (5, true)]);
        assert_eq!(held.chain_to(5), Some((4, 5)));
        assert_eq!(held.chain_to(6), None);
        assert_eq!((held.gaps(), held.missing()), (vec![(3, 3)], 1));
    }

    /// A pack may bind any version: what it makes of the gaps is counted, not listed.
    #[test]
    fn a_version_at_the_end_of_u32_costs_nothing() {
        let held = held(&[5], &[(5, true), (u32::MAX, false)]);
        assert_eq!((held.gaps(), held.missing()), (vec![(6, u32::MAX - 1)], u64::from(u32::MAX) - 6));
        assert_eq!((held.reachable(), held.chain_to(u32::MAX)), (Some(5), Some((u32::MAX, u32::MAX))));
        assert!(held.is_stray(u32::MAX));
    }

    #[test]
    fn a_stray_is_far_from_every_cvd_or_else_from_every_cdiff() {
        for (cvds, cdiffs, version, stray) in [
            (&[5][..], &[][..], 1005, false),
            (&[5], &[(1005, true)], 1006, true),
            (&[5, 2000], &[], 1006, false),
            (&[], &[], 9, false),
            (&[], &[(9, true)], 5000, true),
            (&[], &[(9, true)], 1009, false),
        ] {
            assert_eq!(held(cvds, cdiffs).is_stray(version), stray, "{cvds:?} {cdiffs:?} {version}");
        }
    }

    #[test]
    fn a_jump_past_years_is_absurd() {
        let held = held(&[5], &[]);
        assert!(absurd(&held, 1 << 31));
        assert!(!absurd(&held, 30));
        assert!(!absurd(&Held::default(), 28_110));
    }
}
