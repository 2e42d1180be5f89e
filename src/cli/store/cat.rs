//! `cvdmirror store cat NAME|HASH`
use super::super::{Failure, Outcome};
use crate::{
    cvd::{Database, FileKind, FileName},
    mirror::reading::Reading,
};
use cvdmirror_store::{NameRecord, ObjectId, View};
use std::io::{self, Write as _};

pub(super) fn run(view: &View, what: &str) -> Outcome {
    let id = match (view.lookup(what), what.parse::<ObjectId>()) {
        (Some(record), _) => record.object,
        (None, Ok(id)) => id,
        (None, Err(_)) => match newest_cvd(view, what) {
            Some(record) => record.object,
            None => by_prefix(view, what)?,
        },
    };
    let reader = view.open(&id)?.ok_or_else(|| Failure::Failed(format!("{what}: no such object")))?;
    match io::copy(&mut Reading::new(reader), &mut io::stdout().lock()).and_then(|_| io::stdout().flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Failed(format!("{what}: {e}"))),
        _ => Ok(()),
    }
}

/// The target of an alias (`daily.cvd`): the newest full CVD held.
fn newest_cvd<'a>(view: &'a View, alias: &str) -> Option<&'a NameRecord> {
    let database: Database = alias.strip_suffix(".cvd")?.parse().ok()?;
    let cvds = view.names().filter_map(|(name, record)| {
        let name: FileName = name.parse().ok()?;
        (name.database == database && name.kind == FileKind::Cvd).then_some((name.version, record))
    });
    cvds.max_by_key(|(version, _)| *version).map(|(_, record)| record)
}

fn by_prefix(view: &View, what: &str) -> Result<ObjectId, Failure> {
    let hex = what.len() >= 6 && what.bytes().all(|b| b.is_ascii_hexdigit());
    let found = if hex { view.find_prefix(&what.to_ascii_lowercase(), 2) } else { Vec::new() };
    match found[..] {
        [id] => Ok(id),
        [] => Err(Failure::Failed(format!("{what}: no such name or object; `store ls` lists the names"))),
        _ => Err(Failure::Failed(format!("{what}: several objects begin so; give more digits"))),
    }
}
