//! The pages that are made from the snapshot: index.json and the status page for people.
use super::{Freshness, Health};
use crate::{
    cvd::{Database, FileName},
    mirror::{Published, Snapshot},
};
use cvdmirror_store::NameRecord;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

/// index.json: every database with everything of it that is served. Fields are only ever added.
#[derive(Serialize)]
struct Index<'a> {
    confirmed_at_s: Option<u64>,
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
}

/// Writes index.json.
pub(super) fn index(snapshot: &Snapshot) -> Result<Vec<u8>, serde_json::Error> {
    let mut databases: BTreeMap<&str, DatabaseEntry> = BTreeMap::new();
    for (database, published) in &snapshot.databases {
        let entry = databases.entry(database.as_str()).or_default();
        entry.version = Some(published.version);
        entry.cvd = Some(published.cvd);
        entry.chain = published.chain.map(|(from, to)| Chain { from, to });
        entry.confirmed_at_s = published.confirmed_at_s;
    }
    for (name, record) in &snapshot.files {
        databases.entry(name.database.as_str()).or_default().files.push(FileEntry {
            name: name.to_string(),
            hash: record.object.to_string(),
            size: record.size,
            modified_s: record.modified_s,
        });
    }
    let mut json = serde_json::to_vec_pretty(&Index { confirmed_at_s: snapshot.confirmed_at_s, databases })?;
    json.push(b'\n');
    Ok(json)
}

/// Writes the answer of /health: the verdict, then what goes wrong now.
pub(super) fn health(health: &Health) -> String {
    let mut out = match &health.freshness {
        Freshness::Fresh => "fresh\n".to_owned(),
        Freshness::Stale { why } => format!("stale: {why}\n"),
    };
    for line in &health.remarks {
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Writes the status page.
pub(super) fn status(snapshot: &Snapshot, health: &Health) -> String {
    let mut page = String::from(PAGE_HEAD);
    // Writing into a String cannot fail.
    let _ = write_status(&mut page, snapshot, health);
    page
}

fn write_status(page: &mut String, snapshot: &Snapshot, health: &Health) -> fmt::Result {
    match &health.freshness {
        Freshness::Fresh => page.push_str("<p class=fresh>Fresh</p>\n"),
        Freshness::Stale { why } => writeln!(page, "<p class=stale>Stale: {}</p>", Escaped(why))?,
    }
    for remark in &health.remarks {
        writeln!(page, "<p class=stale>{}</p>", Escaped(remark))?;
    }
    match snapshot.confirmed_at_s {
        Some(s) => writeln!(page, "<p>Last confirmed at the source: {}</p>", Date(s))?,
        None => page.push_str("<p>Not yet confirmed at the source.</p>\n"),
    }
    for (database, published) in &snapshot.databases {
        write_database(page, snapshot, database, published)?;
    }
    page.push_str(
        "<p><a href=\"/index.json\">index.json</a> · <a href=\"/dns.txt\">dns.txt</a> · \
         <a href=\"/health\">health</a> · <a href=\"/metrics\">metrics</a></p>\n</body>\n</html>\n",
    );
    Ok(())
}

fn write_database(
    page: &mut String,
    snapshot: &Snapshot,
    database: &Database,
    now: &Published,
) -> fmt::Result {
    writeln!(page, "<h2>{}</h2>\n<p>Version {}", Escaped(database.as_str()), now.version)?;
    if let Some((from, to)) = now.chain {
        writeln!(page, ", patches {from} to {to}")?;
    }
    writeln!(page, ", built {}, {} signatures</p>", Date(now.stime_s), now.signatures)?;
    page.push_str("<table>\n<tr><th>File<th>Bytes<th>BLAKE3</tr>\n");
    let files = snapshot.files.iter().filter(|(name, _)| name.database == *database);
    for (name, record) in files.rev() {
        write_file(page, name, record)?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn write_file(page: &mut String, name: &FileName, record: &NameRecord) -> fmt::Result {
    let (name, object) = (name.to_string(), record.object.to_string());
    writeln!(
        page,
        "<tr><td><a href=\"/{0}\">{0}</a><td>{1}<td><code>{2}</code></tr>",
        Escaped(&name),
        record.size,
        Escaped(&object)
    )
}

const PAGE_HEAD: &str = "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n\
    <meta name=viewport content=\"width=device-width\">\n<title>cvdmirror</title>\n<style>\n\
    body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }\n\
    table { border-collapse: collapse; width: 100% }\n\
    th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #ddd; overflow-wrap: anywhere }\n\
    .fresh { color: #060 } .stale { color: #a00 }\n</style>\n</head>\n<body>\n\
    <h1>cvdmirror</h1>\n<p>A mirror of ClamAV's virus databases.</p>\n";

/// Text with what HTML gives a meaning escaped, for elements and quoted attributes.
struct Escaped<'a>(&'a str);
impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

/// Epoch seconds as a date for people.
struct Date(u64);
impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match http_date(self.0) {
            Some(date) => f.write_str(&date),
            None => write!(f, "{} s after 1970", self.0),
        }
    }
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
    fn what_html_gives_a_meaning_is_escaped() {
        assert_eq!(Escaped("<a href=\"x\">'&").to_string(), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
    }

    #[test]
    fn a_date_past_the_year_9999_is_no_http_date() {
        assert_eq!(http_date(784_111_777).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(253_402_300_799).unwrap(), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(http_date(253_402_300_800), None);
        assert_eq!(http_date(u64::MAX), None);
    }
}
