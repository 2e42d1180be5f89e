//! Mirrors as the status page meets them: a fresh one, one in trouble with hostile texts, an empty one.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub, missing_docs)]
use super::http_fixture::fill;
use arc_swap::ArcSwap;
use cvdmirror::{
    clients::{DatabaseClients, Lags, Report},
    cvd::{FileKind, FileName},
    http::{Aliases, Freshness, Health, Limits, Metrics, Overview, Site, serve},
    mirror::{
        History, Published, Snapshot,
        history::{Event, Milestones, What},
        status::{DatabaseStatus, Status},
    },
    source::budget::{Book, Count},
};
use cvdmirror_store::Store;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::net::TcpListener;

const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 3600;
const DAY_S: u64 = 24 * HOUR_S;
/// What a source might say to whoever reads the page.
pub const HOSTILE: &str =
    "http://evil.example/\"onload='alert(1)'/<script>document.title='owned'</script>&amp;";

/// What a page is made of.
pub struct Scene {
    pub name: &'static str,
    snapshot: Snapshot,
    health: Health,
    overview: Overview,
}

/// A site of three hundred, two of them left behind.
fn clients(now_s: u64) -> Report {
    let lags = |current, one_behind, older| Lags { current, one_behind, older, ..Lags::default() };
    let of = |published, lags| DatabaseClients { published, lags, ..DatabaseClients::default() };
    Report {
        retention_s: 14 * DAY_S,
        installations: 312,
        engines: [("ClamAV/1.4.6".into(), 290), ("ClamAV/1.0.9".into(), 20), ("CVDUPDATE/1.1".into(), 2)]
            .into(),
        databases: [("daily".into(), of(28_110, lags(270, 40, 2))), ("main".into(), of(63, lags(312, 0, 0)))]
            .into(),
        nameless: [("curl/8.5.0".into(), now_s)].into(),
        turned_away: 0,
    }
}

pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A database as it is published: newest version, full CVD, first CDIFF, length of the CVD.
struct Held(&'static str, u32, u32, Option<u32>, u64, u32);
const HELD: [Held; 3] = [
    Held("bytecode", 339, 339, Some(335), 285_401, 80),
    Held("daily", 28_110, 28_109, Some(28_052), 62_412_345, 2_078_412),
    Held("main", 63, 63, None, 88_412_006, 6_647_427),
];

fn snapshot(dir: &Path, now_s: u64) -> Snapshot {
    let mut files = Vec::new();
    for Held(name, version, cvd, first, ..) in &HELD {
        files.push(format!("{name}-{cvd}.cvd"));
        for version in first.iter().flat_map(|first| *first..=*version) {
            files.push(format!("{name}-{version}.cdiff"));
        }
    }
    let files = files.into_iter().flat_map(|name| [format!("{name}.sign"), name]).collect::<Vec<_>>();
    let files: Vec<_> = files.iter().map(|name| (name.as_str(), name.clone().into_bytes())).collect();
    fill(dir, &files);
    let scan = Store::scan(&dir.join("store")).unwrap();
    let (store, _) = Store::assemble(&dir.join("store"), &dir.join("tmp"), scan.packs).unwrap();
    let view = store.view();
    let mut names: BTreeMap<FileName, _> =
        view.names().map(|(name, record)| (name.parse().unwrap(), record.clone())).collect();
    let mut databases = BTreeMap::new();
    for Held(name, version, cvd, first, bytes, signatures) in &HELD {
        let database: cvdmirror::cvd::Database = name.parse().unwrap();
        names.get_mut(&FileName::new(&database, *cvd, FileKind::Cvd)).unwrap().size = *bytes;
        let published = Published {
            version: *version,
            cvd: *cvd,
            chain: first.map(|first| (first, *version)),
            stime_s: if *name == "daily" { now_s - 9 * HOUR_S } else { now_s - 200 * DAY_S },
            signatures: *signatures,
            functionality_level: 90,
            confirmed_at_s: Some(now_s - 4 * MINUTE_S),
        };
        databases.insert(database, published);
    }
    Snapshot { files: names, databases, confirmed_at_s: Some(now_s - 4 * MINUTE_S), view }
}

fn history(now_s: u64) -> History {
    let mut history = History::default();
    let daily = history.versions.entry("daily".into()).or_default();
    for back in 0..40u64 {
        let version = 28_110 - back as u32;
        // About one a day, at no fixed hour.
        let announced_s = now_s - 8 * HOUR_S - back * DAY_S + (back * 7919) % (5 * HOUR_S);
        // Once the source was away, once its edge lagged.
        let late_s = if back == 4 { 31 * HOUR_S } else { (back * 17 % 14 + 1) * MINUTE_S };
        let lag_s = if back == 9 { 9 * HOUR_S } else { MINUTE_S };
        daily.insert(
            version,
            Milestones {
                announced_at_s: Some(announced_s),
                held_at_s: Some(announced_s + late_s),
                full_at_s: (back > 0).then_some(announced_s + late_s + lag_s),
            },
        );
    }
    let all = |at_s| Milestones { announced_at_s: Some(at_s), held_at_s: Some(at_s), full_at_s: Some(at_s) };
    history.versions.entry("main".into()).or_default().insert(63, all(now_s - 40 * DAY_S));
    let bytecode = history.versions.entry("bytecode".into()).or_default();
    bytecode.insert(338, all(now_s - 40 * DAY_S));
    bytecode.insert(339, all(now_s - 6 * DAY_S));
    let event = |age_s: u64, database: Option<&str>, what| Event {
        at_s: now_s - age_s,
        first_at_s: now_s - age_s,
        times: 1,
        database: database.map(str::to_owned),
        what,
    };
    for back in (0..12u64).rev() {
        let (version, age_s) = (28_110 - back as u32, 8 * HOUR_S + back * DAY_S);
        history.events.push(event(age_s, Some("daily"), What::Announced(version)));
        history.events.push(event(age_s, Some("daily"), What::Patched(version)));
        if back > 0 {
            let what = What::Rebuilt { version, bytes: 62_400_000 + u64::from(version) };
            history.events.push(event(age_s - 1, Some("daily"), what));
        }
    }
    let lagged = What::Lagged("asked for 28110, got 28109".into());
    history.events.push(Event {
        times: 12,
        first_at_s: now_s - 8 * HOUR_S,
        ..event(4 * MINUTE_S, Some("daily"), lagged)
    });
    for back in 0..40 {
        let day = cvd_day(now_s - back * DAY_S);
        history.rebuilt.insert(day, Count { requests: 1, bytes: 62_400_000 });
    }
    history
}

fn cvd_day(at_s: u64) -> String {
    jiff::Timestamp::from_second(at_s as i64).unwrap().strftime("%Y-%m-%d").to_string()
}

fn book(now_s: u64) -> Book {
    let mut days = serde_json::Map::new();
    for back in 0..40 {
        let full = if back == 39 { 3 } else { 0 };
        let day = serde_json::json!({
            "cvd": { "requests": full, "bytes": full * 50_000_000 },
            "header": { "requests": 96, "bytes": 1024 },
            "cdiff": { "requests": 1, "bytes": 21_400 },
            "sign": { "requests": 2, "bytes": 18_400 },
        });
        days.insert(cvd_day(now_s - back * DAY_S), day);
    }
    serde_json::from_value(serde_json::json!({ "cool_down": null, "days": days, "full": {} })).unwrap()
}

fn status(now_s: u64) -> Status {
    let databases = HELD.iter().map(|Held(name, version, cvd, first, bytes, _)| DatabaseStatus {
        database: (*name).into(),
        version: Some(*version),
        cvd: Some(*cvd),
        chain: first.map(|first| (first, *version)),
        built_at_s: Some(now_s - 9 * HOUR_S),
        files: 4 + 2 * u64::from(version - first.unwrap_or(*version)),
        bytes: *bytes,
        newest: Some(*version),
        checked_at_s: Some(now_s - 4 * MINUTE_S),
        confirmed_at_s: Some(now_s - 4 * MINUTE_S),
        ..DatabaseStatus::default()
    });
    Status {
        serving: true,
        fresh: true,
        databases: databases.collect(),
        ledger: Some(book(now_s)),
        packs: 14,
        store_bytes: 384_512_000,
        ..Status::default()
    }
}

impl Scene {
    /// Everything is as it should be.
    pub fn fresh(dir: &Path) -> Self {
        let now_s = now_s();
        let overview = Overview {
            status: status(now_s),
            history: Arc::new(history(now_s)),
            clients: Some(clients(now_s)),
        };
        let health = Health { freshness: Freshness::Fresh, remarks: Vec::new() };
        Self { name: "fresh", snapshot: snapshot(dir, now_s), health, overview }
    }

    /// Everything goes wrong, and the texts are written by an enemy.
    pub fn troubled(dir: &Path) -> Self {
        let mut scene = Self::fresh(dir);
        let now_s = now_s();
        let status = &mut scene.overview.status;
        let daily = status.databases.iter_mut().find(|d| d.database == "daily").unwrap();
        let error = format!("{HOSTILE}daily.cvd: connection refused; is the proxy up?");
        daily.last_error = Some(error.clone());
        daily.stale = Some("last confirmed by the source 31 h ago".into());
        daily.newest = Some(28_112);
        daily.confirmed_at_s = Some(now_s - 31 * HOUR_S);
        let clients = scene.overview.clients.as_mut().unwrap();
        clients.engines.insert(HOSTILE.into(), 1);
        status.findings = vec![format!("pack <b>20261122</b>: {HOSTILE}")];
        let events = &mut Arc::make_mut(&mut scene.overview.history).events;
        events.push(Event {
            at_s: now_s - MINUTE_S,
            first_at_s: now_s - 31 * HOUR_S,
            times: 214,
            database: Some("daily".into()),
            what: What::Failed(error.clone()),
        });
        events.push(Event { database: None, what: What::Found(HOSTILE.into()), ..events[0].clone() });
        let versions = &mut Arc::make_mut(&mut scene.overview.history).versions;
        let announced = Milestones { announced_at_s: Some(now_s - 30 * HOUR_S), ..Milestones::default() };
        versions.get_mut("daily").unwrap().insert(28_112, announced);
        let why = format!("daily: last confirmed by the source 31 h ago: {error}");
        let remarks = vec![
            format!("daily: the last check failed: {error}"),
            format!("the disk of /var/lib/cvdmirror is full; free some of it {HOSTILE}"),
            status.findings[0].clone(),
        ];
        scene.health = Health { freshness: Freshness::Stale { why }, remarks };
        Self { name: "troubled", ..scene }
    }

    /// Nothing was ever had.
    pub fn empty(dir: &Path) -> Self {
        let (store, _) = Store::assemble(&dir.join("store"), &dir.join("tmp"), Vec::new()).unwrap();
        let error = "https://database.clamav.net/main.cvd: error sending request: connection refused";
        let databases = ["bytecode", "daily", "main"].map(|name| DatabaseStatus {
            database: name.into(),
            stale: Some("nothing is held yet".into()),
            last_error: Some(error.into()),
            ..DatabaseStatus::default()
        });
        let why = format!("main: nothing is held yet: {error}");
        Self {
            name: "empty",
            snapshot: Snapshot {
                files: BTreeMap::new(),
                databases: BTreeMap::new(),
                confirmed_at_s: None,
                view: store.view(),
            },
            health: Health { freshness: Freshness::Stale { why }, remarks: Vec::new() },
            overview: Overview {
                status: Status { databases: databases.into(), ..Status::default() },
                ..Overview::default()
            },
        }
    }

    /// Serves it until the runtime ends.
    pub async fn serve(self) -> SocketAddr {
        let Self { snapshot, health, overview, .. } = self;
        let site = Arc::new(Site {
            published: Arc::new(ArcSwap::from_pointee(snapshot)),
            aliases: Aliases::Redirect,
            metrics: Arc::new(Metrics::default()),
            access_log: None,
            clients: None,
            health: Box::new(move |_| health.clone()),
            overview: Box::new(move |_| overview.clone()),
            unreadable: Box::new(|_| {}),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { drain: Duration::ZERO, ..Limits::default() };
        tokio::spawn(serve(vec![listener], site, limits, std::future::pending()));
        address
    }
}
