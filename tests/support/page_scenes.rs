//! Mirrors as the status page meets them: a fresh one, one in trouble with hostile texts, an empty one.
use super::http_fixture::fill;
use cvdmirror::{
    clients::{Clients, Fetched, Installation},
    cvd::{FileKind, FileName},
    hot::HotSet,
    http::{Aliases, Limits, Metrics, Site, serve},
    mirror::{
        Handle, History, Published, Snapshot, Standing,
        history::{Event, Milestones, What},
        memory::DatabaseState,
    },
    source::{
        Activity, Progress,
        budget::{Book, Count},
    },
    state::State,
    trouble::{Told, Trouble, TroubleKind},
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
/// What a source might say to a reader of the page.
pub const HOSTILE: &str =
    "http://evil.example/\"onload='alert(1)'/<script>document.title='owned'</script>&amp;";

/// What a page is made of.
pub struct Scene {
    pub name: &'static str,
    standing: Standing,
    clients: Option<Clients>,
}

/// A site of three hundred, two of them left behind.
fn clients(dir: &Path) -> Clients {
    let state = State::open(&dir.join("clients.redb")).unwrap();
    let clients = Clients::open(&state, 14 * DAY_S).unwrap();
    for number in 0..312_u64 {
        let agent = match number {
            0..290 => "ClamAV/1.4.6",
            290..310 => "ClamAV/1.0.9",
            _ => "CVDUPDATE/1.1",
        };
        let agent = format!("{agent} (UUID: 6f1c2f0e-8a44-4c1a-9b1e-{number:012x})");
        let behind = if number < 270 {
            0
        } else if number < 310 {
            1
        } else {
            20
        };
        for (database, version) in [("daily", 28_110 - behind), ("main", 63)] {
            let fetched = Fetched::Now(database.parse().unwrap(), version);
            clients.saw(&Installation::from_agent(agent.as_bytes()), Some(fetched));
        }
    }
    clients.saw(&Installation::from_agent(b"curl/8.5.0"), None);
    clients
}

pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A database as it is published: newest version, full CVD, first CDIFF, length of the CVD.
#[derive(Clone, Copy)]
struct Held(&'static str, u32, u32, Option<u32>, u64, u32);
const HELD: &[Held] = &[
    Held("bytecode", 339, 339, Some(335), 285_401, 80),
    Held("daily", 28_110, 28_109, Some(28_052), 62_412_345, 2_078_412),
    Held("main", 63, 63, None, 88_412_006, 6_647_427),
];

fn snapshot(dir: &Path, now_s: u64, held: &[Held]) -> Snapshot {
    let mut files = Vec::new();
    for Held(name, version, cvd, first, ..) in held {
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
    for Held(name, version, cvd, first, bytes, signatures) in held {
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

fn standing(dir: &Path, now_s: u64, held: &[Held]) -> Standing {
    let databases = held.iter().map(|Held(name, version, ..)| {
        let state = DatabaseState {
            newest: Some(*version),
            checked_at_s: Some(now_s - 4 * MINUTE_S),
            confirmed_at_s: Some(now_s - 4 * MINUTE_S),
            ..DatabaseState::default()
        };
        (name.parse().unwrap(), state)
    });
    Standing {
        databases: databases.collect(),
        book: Some(Arc::new(book(now_s))),
        history: Arc::new(history(now_s)),
        ..looked_at(snapshot(dir, now_s, held), dir)
    }
}

/// A mirror that looks again in eleven minutes, and has room.
fn looked_at(snapshot: Snapshot, dir: &Path) -> Standing {
    let standing = Standing::new(Arc::new(snapshot), dir.into(), DAY_S / 2);
    let due = standing.clock.monotonic() + Duration::from_secs(11 * MINUTE_S);
    let (book, disk_free_bytes) = (Some(Arc::default()), Some(212 << 30));
    Standing { due: Some(due), book, disk_free_bytes, ..standing }
}

impl Scene {
    /// Everything is as it should be. packaging/page.png is fresh-1000-light.png of
    /// `CVDMIRROR_SCREENSHOTS=DIR cargo test --test wire page_browser`, cut to 1080 lines and 256 colours.
    pub fn fresh(dir: &Path) -> Self {
        Self { name: "fresh", standing: standing(dir, now_s(), HELD), clients: Some(clients(dir)) }
    }

    /// The source is away for longer than is allowed.
    pub fn stale(dir: &Path) -> Self {
        let mut scene = Self::fresh(dir);
        let error = Trouble::new(TroubleKind::Unreachable, "https://database.clamav.net/main.cvd")
            .because("error sending request: connection refused");
        for database in scene.standing.databases.values_mut() {
            database.confirmed_at_s = Some(now_s() - 31 * HOUR_S);
            database.last_error = Some(error.clone());
        }
        Self { name: "stale", ..scene }
    }

    /// Two dozen small databases beside the three.
    pub fn many(dir: &Path) -> Self {
        const NAMES: [&str; 24] = [
            "badmacro",
            "blurl",
            "bofhland",
            "crdfam",
            "doppelstern",
            "foxhole",
            "hackingteam",
            "interserver",
            "javascript",
            "jurlbl",
            "junk",
            "lott",
            "malware",
            "phish",
            "phishtank",
            "porcupine",
            "rogue",
            "sanesecurity_signatures_of_spam",
            "scam",
            "shelter",
            "spamattach",
            "spear",
            "urlhaus",
            "winnow",
        ];
        let more = NAMES.iter().zip(1..).map(|(name, at)| Held(name, at, at, None, 40_000, 900));
        let held: Vec<Held> = HELD.iter().copied().chain(more).collect();
        Self { name: "many", standing: standing(dir, now_s(), &held), clients: None }
    }

    /// The first fill is under way.
    pub fn filling(dir: &Path) -> Self {
        let (store, _) = Store::assemble(&dir.join("store"), &dir.join("tmp"), Vec::new()).unwrap();
        let databases = HELD.iter().map(|Held(name, version, ..)| {
            let newest = Some(*version);
            (
                name.parse().unwrap(),
                DatabaseState { newest, checked_at_s: Some(now_s()), ..DatabaseState::default() },
            )
        });
        let (snapshot, activity) = (Snapshot::empty(store.view()), Activity::default());
        activity.begin("daily-28109.cvd", Some(62_412_345));
        activity.advance(23_000_000);
        let standing = Standing {
            databases: databases.collect(),
            activity: Arc::new(activity),
            due: None,
            ..looked_at(snapshot, dir)
        };
        Self { name: "filling", standing, clients: None }
    }

    /// Everything goes wrong, and the texts are written by an enemy.
    pub fn troubled(dir: &Path) -> Self {
        let mut scene = Self::fresh(dir);
        let now_s = now_s();
        let standing = &mut scene.standing;
        let daily = standing.databases.get_mut(&"daily".parse().unwrap()).unwrap();
        let error = Trouble::new(TroubleKind::Unreachable, format!("{HOSTILE}daily.cvd"))
            .because("connection refused; is the proxy up?");
        daily.last_error = Some(error.clone());
        daily.newest = Some(28_112);
        daily.confirmed_at_s = Some(now_s - 31 * HOUR_S);
        standing.findings = vec![format!("pack <b>20261122</b>: {HOSTILE}").into()];
        let full = format!("the disk of /var/lib/cvdmirror is full; free some of it {HOSTILE}");
        standing.remarks = vec![Told::of_all(full.into())];
        let history = Arc::make_mut(&mut standing.history);
        history.events.push(Event {
            at_s: now_s - MINUTE_S,
            first_at_s: now_s - 31 * HOUR_S,
            times: 214,
            database: Some("daily".into()),
            what: What::Failed(error),
        });
        let found = Event { database: None, what: What::Found(HOSTILE.into()), ..history.events[0].clone() };
        history.events.push(found);
        let announced = Milestones { announced_at_s: Some(now_s - 30 * HOUR_S), ..Milestones::default() };
        history.versions.get_mut("daily").unwrap().insert(28_112, announced);
        Self { name: "troubled", ..scene }
    }

    /// Nothing was ever had.
    pub fn empty(dir: &Path) -> Self {
        let (store, _) = Store::assemble(&dir.join("store"), &dir.join("tmp"), Vec::new()).unwrap();
        let error = Trouble::new(TroubleKind::Unreachable, "https://database.clamav.net/main.cvd")
            .because("error sending request: connection refused");
        let snapshot = Snapshot::empty(store.view());
        let state = DatabaseState { last_error: Some(error), ..DatabaseState::default() };
        let databases = ["bytecode", "daily", "main"].map(|name| (name.parse().unwrap(), state.clone()));
        let standing = Standing { databases: databases.into(), ..looked_at(snapshot, dir) };
        Self { name: "empty", standing, clients: None }
    }

    /// Serves it until the runtime ends.
    pub async fn serve(self) -> SocketAddr {
        let site = Arc::new(Site {
            mirror: Handle::new(self.standing).0,
            aliases: Aliases::Redirect,
            hot: HotSet::new(1 << 30),
            metrics: Arc::new(Metrics::default()),
            access_log: None,
            clients: self.clients.map(Arc::new),
            source: "https://database.clamav.net".into(),
            url: "http://mirror.example.lan:8080".into(),
            proxy: None,
            demands: None,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { drain: Duration::ZERO, ..Limits::default() };
        tokio::spawn(serve(vec![listener], site, limits, std::future::pending()));
        address
    }
}
