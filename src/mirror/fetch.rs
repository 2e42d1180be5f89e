//! Asking the source for a file, and for the sign file that goes with it.
use super::{
    report::{Detail, Outcome},
    take::Taken,
    verify::Proof,
    work::{Round, RoundError},
};
use crate::{
    cvd::{FileKind, FileName},
    source::Wanted,
};
use cvdmirror_store::{ObjectId, Proof as Level};

impl Round<'_> {
    /// Fetches a file, and its sign file with it, so that both become visible together.
    pub(super) fn fetch(&mut self, wanted: &Wanted) -> Result<(), RoundError> {
        let mut taken = self.ask(wanted, None)?;
        if matches!(taken, Taken::Refused) && self.mirror.source.has_another(wanted) {
            taken = self.ask(wanted, None)?;
        }
        match taken {
            Taken::Stored(name, object) => self.fetch_sign(&name, object),
            Taken::Unknown(name, origin) => self.vouch(&name, &origin),
            Taken::Refused | Taken::Nothing => Ok(()),
        }
    }

    /// Takes an empty CDIFF at once where a sign file that leads to a known certificate says that it is empty.
    fn vouch(&mut self, name: &FileName, origin: &str) -> Result<(), RoundError> {
        let row = self.report.files.len().saturating_sub(1);
        let Some(sign) = name.sign().filter(|_| self.mirror.holdings.trust.verifier.anchors.is_some()) else {
            return Ok(());
        };
        if matches!(self.ask(&Wanted::Named(sign), Some(ObjectId::of(b"")))?, Taken::Stored(..)) {
            self.keep(name, b"", origin, &Proof { modified_s: None, level: Level::Empty })?;
            if let Some(row) = self.report.files.get_mut(row) {
                (row.outcome, row.detail) = (Outcome::Stored, Detail::None);
            }
        }
        Ok(())
    }

    /// Fetches the sign file of a file that is in the batch.
    pub(super) fn fetch_sign(&mut self, of: &FileName, object: ObjectId) -> Result<(), RoundError> {
        let Some(sign) = of.sign() else { return Ok(()) };
        self.mirror.signs.asked(&sign, &self.mirror.holdings.clock);
        self.ask(&Wanted::Named(sign), Some(object)).map(drop)
    }

    /// Asks for the sign files that the newest CVD and the newest CDIFF lack and for those that were withdrawn, and for
    /// what may have come in place of an empty CDIFF.
    pub(super) fn fetch_late(&mut self) -> Result<(), RoundError> {
        let clock = self.mirror.holdings.clock.clone();
        let (empty, wanted) = (self.held.cdiffs.iter().rev(), self.mirror.backfill as usize);
        let empty: Vec<u32> =
            empty.take(wanted).filter(|(_, is_patch)| !**is_patch).map(|(version, _)| *version).collect();
        for version in empty {
            let name = FileName::new(&self.database, version, FileKind::Cdiff);
            let stored_at_s = self.mirror.holdings.snapshot.files.get(&name).map(|record| record.stored_at_s);
            if stored_at_s.is_some_and(|stored_at_s| self.mirror.signs.is_due(&name, stored_at_s, &clock)) {
                self.mirror.signs.asked(&name, &clock);
                self.fetch(&Wanted::Named(name))?;
            }
        }
        let newest = [
            (FileKind::Cvd, self.held.newest_cvd()),
            (FileKind::Cdiff, self.held.cdiffs.last_key_value().map(|(version, _)| *version)),
        ];
        let newest = newest.map(|(kind, version)| Some(FileName::new(&self.database, version?, kind)));
        let withdrawn = self.mirror.holdings.without_sign(&self.database);
        for file in newest.into_iter().flatten().chain(withdrawn) {
            let Some(sign) = file.sign() else { continue };
            let view = self.mirror.holdings.store.view();
            let Some(record) = view.lookup(&file.to_string()) else { continue };
            if view.lookup(&sign.to_string()).is_none()
                && self.mirror.signs.is_due(&sign, record.stored_at_s, &clock)
            {
                self.mirror.signs.asked(&sign, &clock);
                self.ask(&Wanted::Named(sign), Some(record.object))?;
            }
        }
        Ok(())
    }
}
