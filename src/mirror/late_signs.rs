//! Sign files that come later than what they sign: the source is asked again, while the file is the newest.
use super::{
    Mirror, SyncError,
    sync::{Signed, Work},
    verify::Reading,
};
use crate::{
    clock::epoch_s,
    cvd::{FileKind, FileName},
    source::Wanted,
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// A source that has none with a new file mostly has it within the day.
const YOUNG_S: u64 = 2 * 86_400;
/// How often it is asked for the sign file of a young file, and of an older one, seconds.
const OFTEN_S: u64 = 3600;
const SELDOM_S: u64 = 86_400;

/// When each sign file was asked for last.
#[derive(Debug, Default)]
pub(super) struct Asked(Mutex<BTreeMap<FileName, u64>>);

impl Asked {
    pub(super) fn asked(&self, sign: &FileName, now_s: u64) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing older is ever asked for again, which bounds it.
        asked.retain(|_, at_s| *at_s + SELDOM_S > now_s);
        asked.insert(sign.clone(), now_s);
    }

    /// Whether it is time to ask for a sign file whose file was stored `stored_at_s`.
    fn is_due(&self, sign: &FileName, stored_at_s: u64, now_s: u64) -> bool {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pause_s = if now_s.saturating_sub(stored_at_s) < YOUNG_S { OFTEN_S } else { SELDOM_S };
        asked.get(sign).is_none_or(|at_s| now_s.saturating_sub(*at_s) >= pause_s)
    }
}

impl Mirror {
    /// Asks for the sign files that the newest CVD and the newest CDIFF lack.
    pub(super) async fn fetch_late_signs(&self, work: &mut Work<'_>) -> Result<(), SyncError> {
        let now_s = epoch_s();
        let newest = [
            (FileKind::Cvd, work.held.newest_cvd()),
            (FileKind::Cdiff, work.held.cdiffs.last_key_value().map(|(version, _)| *version)),
        ];
        for (kind, version) in newest {
            let Some(file) = version.map(|version| FileName::new(work.database, version, kind)) else {
                continue;
            };
            let Some(sign) = file.sign() else { continue };
            let view = self.store.view();
            let Some(record) = view.lookup(&file.to_string()) else { continue };
            if view.lookup(&sign.to_string()).is_some()
                || !self.signs.is_due(&sign, record.stored_at_s, now_s)
            {
                continue;
            }
            let Some(object) = view.open(&record.object)? else { continue };
            self.signs.asked(&sign, now_s);
            let wanted = Wanted::Named(sign);
            let result = self.source.fetch(&wanted).await;
            self.take(work, &wanted, result, Some(Signed::Held(Reading::new(object))))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_pauses_grow_with_the_files_age() {
        let (asked, sign) = (Asked::default(), "test-5.cvd.sign".parse::<FileName>().unwrap());
        assert!(asked.is_due(&sign, 0, 10));
        asked.asked(&sign, 10);
        assert!(!asked.is_due(&sign, 0, 9 + OFTEN_S));
        assert!(asked.is_due(&sign, 0, 10 + OFTEN_S));
        let old = YOUNG_S + 10;
        asked.asked(&sign, old);
        assert!(!asked.is_due(&sign, 0, old + OFTEN_S));
        assert!(asked.is_due(&sign, 0, old + SELDOM_S));
    }
}
