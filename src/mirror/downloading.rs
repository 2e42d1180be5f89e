//! The run of a downloader before a round, from what the mirror holds; the round then takes what came.
use super::{
    core::{Mirror, Stopped},
    reading::{self, Reading},
};
use crate::{
    cvd::{FileKind, FileName},
    source::{
        Source,
        downloader::{Downloader, Seed},
    },
};

impl Mirror {
    /// Runs the downloader, where the source is one and there is something to run it for.
    pub(super) fn download(&mut self) -> Result<(), Stopped> {
        let source = self.source.clone();
        let Source::Downloader(downloader) = &*source else { return Ok(()) };
        let held = &self.holdings.snapshot.databases;
        let held = held.iter().map(|(database, published)| (database.clone(), published.version)).collect();
        if self.wait(downloader.is_due(held))? {
            self.seed(downloader);
            self.wait(downloader.run())?;
        }
        Ok(())
    }

    /// Has it start from the newest full CVDs.
    fn seed(&self, downloader: &Downloader) {
        let snapshot = &self.holdings.snapshot;
        let seeds = snapshot.databases.iter().filter_map(|(database, published)| {
            let name = FileName::new(database, published.cvd, FileKind::Cvd);
            // One that cannot be read is downloaded anew, and the store says itself what is wrong with it.
            let (record, bytes) = reading::open(&snapshot.view, &name.to_string()).ok()?;
            Some(Seed::<Reading> {
                database: database.clone(),
                version: published.cvd,
                size: record.size,
                bytes,
            })
        });
        downloader.prepare(seeds.collect());
    }
}
