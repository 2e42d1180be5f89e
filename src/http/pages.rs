//! The small pages: index.json and the answer of /health.
use crate::{
    clock::ago,
    mirror::{Health, Standing},
    trouble::Told,
};
use jiff::Timestamp;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

/// What index.json is written by: packaging/index.schema.json. Fields are only ever added; where one goes or means
/// something else, this grows.
const INDEX_SCHEMA: u32 = 1;

/// What /health says at most, and in one line, bytes.
const HEALTH_BYTES: usize = 400;
const HEALTH_LINE_BYTES: usize = 160;

/// index.json: every database with everything of it that is served. Each time is given twice, in seconds since the epoch
/// and in RFC 3339 form.
#[derive(Serialize)]
struct Index<'a> {
    schema: u32,
    confirmed_at_s: Option<u64>,
    confirmed_at: Option<String>,
    databases: BTreeMap<&'a str, DatabaseEntry>,
}
#[derive(Serialize, Default)]
struct DatabaseEntry {
    /// The newest version a client can reach; none where only files without a CVD are held.
    version: Option<u32>,
    /// The version of the newest full CVD.
    cvd: Option<u32>,
    chain: Option<Chain>,
    confirmed_at_s: Option<u64>,
    confirmed_at: Option<String>,
    files: Vec<FileEntry>,
}
#[derive(Serialize)]
struct Chain {
    from: u32,
    to: u32,
}
#[derive(Serialize)]
struct FileEntry {
    name: String,
    hash: String,
    size: u64,
    modified_s: Option<u64>,
    modified: Option<String>,
}

/// Epoch seconds as RFC 3339 writes them; none past the year 9999, which it cannot say.
fn rfc_3339(epoch_s: Option<u64>) -> Option<String> {
    let at = i64::try_from(epoch_s?).ok().and_then(|s| Timestamp::from_second(s).ok());
    at.map(|at| at.to_string())
}

/// Writes index.json.
pub(super) fn index(standing: &Standing) -> Result<Vec<u8>, serde_json::Error> {
    let snapshot = &standing.snapshot;
    let mut databases: BTreeMap<&str, DatabaseEntry> = BTreeMap::new();
    for (database, published) in &snapshot.databases {
        let entry = databases.entry(database.as_str()).or_default();
        entry.version = Some(published.version);
        entry.cvd = Some(published.cvd);
        entry.chain = published.chain.map(|(from, to)| Chain { from, to });
        entry.confirmed_at_s = published.confirmed_at_s;
        entry.confirmed_at = rfc_3339(published.confirmed_at_s);
    }
    let files = snapshot
        .files
        .iter()
        .map(|(name, record)| (name, name.to_string(), record.object, record.size, record.modified_s));
    let clds = standing
        .clds()
        .map(|(cvd, record, _)| (cvd, cvd.cld(), record.object, record.size, record.modified_s));
    let signs =
        standing.cld_signs().map(|(cvd, s)| (cvd, cvd.cld_sign(), s.object, s.content.len() as u64, None));
    for (file, name, object, size, modified_s) in files.chain(clds).chain(signs) {
        databases.entry(file.database.as_str()).or_default().files.push(FileEntry {
            name,
            hash: object.to_string(),
            size,
            modified_s,
            modified: rfc_3339(modified_s),
        });
    }
    let index = Index {
        schema: INDEX_SCHEMA,
        confirmed_at_s: snapshot.confirmed_at_s,
        confirmed_at: rfc_3339(snapshot.confirmed_at_s),
        databases,
    };
    let mut json = serde_json::to_vec_pretty(&index)?;
    json.push(b'\n');
    Ok(json)
}

/// Writes the answer of /health: the verdict, what goes wrong now, and when the source is asked again. It is for probes
/// and their logs: however much is wrong, it stays below [`HEALTH_BYTES`], and `status` says the rest.
pub(super) fn health(health: &Health) -> String {
    let verdict = match health.is_fresh() {
        true => "fresh".to_owned(),
        false => format!("stale: {}", health.stale.iter().map(Told::said).collect::<Vec<_>>().join("; ")),
    };
    let next = health.next_s.filter(|_| !health.is_fresh() || !health.troubles.is_empty());
    let next = next.map_or(String::new(), |next_s| format!("next check in {}\n", ago(next_s)));
    let more = |left: usize| match left {
        0 => String::new(),
        left => format!("and {left} more: see `cvdmirror status`\n"),
    };
    let short = |lines: String| lines.lines().map(cut).collect::<String>();
    // Each with what mends it; what makes the verdict is not said again.
    let others = health.troubles.iter().filter(|told| !health.stale.contains(told));
    let said = others.map(|told| {
        let trouble = told.trouble.clone().mend("");
        (short(Told { trouble, ..told.clone() }.lines("")), &*told.trouble.fix)
    });
    let said: Vec<(String, &str)> = said.collect();
    let fix = health.stale.iter().map(|told| &*told.trouble.fix).find(|fix| !fix.is_empty());
    let verdict = (cut(&verdict), fix.unwrap_or_default());
    let len = |shown: usize| {
        let lines: usize = said.iter().take(shown).map(|(said, _)| said.len()).sum();
        verdict.0.len() + lines + more(said.len() - shown).len() + next.len()
    };
    let shown = (0..=said.len()).rev().find(|shown| len(*shown) < HEALTH_BYTES).unwrap_or_default();
    let mut room = HEALTH_BYTES.saturating_sub(len(shown) + 1);
    let mut out = String::new();
    for (line, fix) in std::iter::once(&verdict).chain(said.iter().take(shown)) {
        out += line;
        let mended = short(format!("  fix: {}", fix.replace('\n', "\n       ")));
        if !fix.is_empty() && mended.len() <= room {
            room -= mended.len();
            out += &mended;
        }
    }
    out + &more(said.len() - shown) + &next
}

/// A line of /health, as long as it may be, with its end.
fn cut(line: &str) -> String {
    let line = line.replace('\n', " ");
    if line.len() < HEALTH_LINE_BYTES {
        return line + "\n";
    }
    let most = HEALTH_LINE_BYTES - " …\n".len();
    let end = (0..=most).rev().find(|at| line.is_char_boundary(*at)).unwrap_or_default();
    format!("{} …\n", &line[..end])
}

/// Epoch seconds as an HTTP date (RFC 9110, 5.6.7); none past the year 9999, which the form cannot say.
pub(super) fn http_date(epoch_s: u64) -> Option<String> {
    const YEAR_10000_S: u64 = 253_402_300_800;
    let date = UNIX_EPOCH + Duration::from_secs(Some(epoch_s).filter(|s| *s < YEAR_10000_S)?);
    Some(httpdate::fmt_http_date(date))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339_does() {
        let json = |s| serde_json::to_string(&rfc_3339(s)).unwrap();
        assert_eq!(json(Some(784_111_777)), "\"1994-11-06T08:49:37Z\"");
        assert_eq!(json(Some(253_402_207_200)), "\"9999-12-30T22:00:00Z\"");
        for none in [None, Some(253_402_300_800), Some(u64::MAX)] {
            assert_eq!(json(none), "null");
        }
    }

    #[test]
    fn health_is_bounded_however_much_is_wrong() {
        let told = |text: &str| Told::of_all(text.into());
        let long = told(&"ä".repeat(1000));
        for (stale, troubles) in [(1, 0), (0, 1), (1, 2), (9, 9), (1, 100)] {
            let all = Health {
                stale: vec![long.clone(); stale],
                troubles: vec![long.clone(); troubles],
                next_s: Some(90),
            };
            let text = health(&all);
            assert!(text.len() < HEALTH_BYTES && text.ends_with("next check in 90 s\n"), "{text}");
            assert!(text.lines().all(|line| line.len() < HEALTH_LINE_BYTES), "{text}");
            assert_eq!(text.starts_with("stale: "), stale > 0);
        }
        let troubles = vec![told("a"), told("b"), long.clone(), long.clone(), long.clone(), told("c")];
        let text = health(&Health { stale: Vec::new(), troubles, next_s: None });
        let ends = text.ends_with("and 2 more: see `cvdmirror status`\n");
        assert!(text.starts_with("fresh\na\nb\nää") && ends, "{text}");
        let well = Health { stale: Vec::new(), troubles: Vec::new(), next_s: Some(1) };
        assert_eq!(health(&well), "fresh\n");
    }

    #[test]
    fn a_date_past_the_year_9999_is_no_http_date() {
        assert_eq!(http_date(784_111_777).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(253_402_300_799).unwrap(), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(http_date(253_402_300_800), None);
        assert_eq!(http_date(u64::MAX), None);
    }
}
