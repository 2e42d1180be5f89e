//! What is counted, kept and forgotten.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;

const DAY_S: u64 = 86_400;
const NOW_S: u64 = 1_795_381_080;

struct Fixture {
    dir: tempfile::TempDir,
    state: State,
    clients: Clients,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state.redb")).unwrap();
        let clients = Clients::open(&state, 14 * DAY_S).unwrap();
        Self { dir, state, clients }
    }
    fn saw(&self, agent: &str, fetched: Option<Fetched>, now_s: u64) {
        self.clients.saw_at(&Installation::from_agent(agent.as_bytes()), fetched, now_s);
    }
    fn report(&self) -> Report {
        self.clients.report_at(&published(7), NOW_S)
    }
}

fn published(version: u32) -> BTreeMap<Database, u32> {
    [("test".parse().unwrap(), version)].into()
}

fn agent(number: u64) -> String {
    format!("ClamAV/1.4.6 (UUID: 6f1c2f0e-8a44-4c1a-9b1e-{number:012x})")
}

fn now(version: u32) -> Option<Fetched> {
    Some(Fetched::Now("test".parse().unwrap(), version))
}

fn before(version: u32) -> Option<Fetched> {
    Some(Fetched::Before("test".parse().unwrap(), version))
}

#[test]
fn installations_are_told_apart_and_others_only_by_their_engine() {
    let fixture = Fixture::new();
    for (number, fetched) in [(1, now(7)), (1, None), (2, now(6)), (3, None), (4, now(1)), (5, now(5))] {
        fixture.saw(&agent(number), fetched, NOW_S);
    }
    fixture.saw("curl/8.0", now(7), NOW_S);
    fixture.saw("curl/8.0", None, NOW_S);
    let report = fixture.report();
    assert_eq!(report.installations, 5);
    assert_eq!(report.engines, [("ClamAV/1.4.6".to_owned(), 5)].into());
    assert_eq!(report.nameless, [("curl/8.0".to_owned(), NOW_S)].into());
    let test = &report.databases["test"];
    assert_eq!(test.versions, [(1, 1), (5, 1), (6, 1), (7, 1)].into());
    assert_eq!(test.lags, Lags { current: 1, one_behind: 1, up_to_seven_behind: 2, older: 0, unknown: 1 });
}

#[test]
fn what_was_fetched_last_counts_and_a_304_never_lowers_it() {
    let fixture = Fixture::new();
    for (fetched, has) in
        [(before(4), 4), (now(6), 6), (before(5), 6), (before(7), 7), (now(3), 3), (None, 3)]
    {
        fixture.saw(&agent(1), fetched, NOW_S);
        assert_eq!(fixture.report().databases["test"].versions, [(has, 1)].into());
    }
}

#[test]
fn a_restart_knows_them_and_no_uuid_is_in_the_file() {
    let fixture = Fixture::new();
    fixture.saw(&agent(1), now(7), NOW_S);
    fixture.saw(&agent(2), now(6), NOW_S);
    fixture.clients.save_at(&fixture.state, NOW_S).unwrap();
    let before = fixture.report();
    drop((fixture.state, fixture.clients));
    let path = fixture.dir.path().join("state.redb");
    let bytes = std::fs::read(&path).unwrap();
    let uuid = b"6f1c2f0e-8a44-4c1a-9b1e-000000000001";
    assert!(memchr::memmem::find(&bytes, uuid).is_none());
    let raw = uuid::Uuid::try_parse_ascii(uuid).unwrap();
    assert!(memchr::memmem::find(&bytes, raw.as_bytes()).is_none());

    let state = State::open(&path).unwrap();
    let clients = Clients::open(&state, 14 * DAY_S).unwrap();
    assert_eq!(clients.report_at(&published(7), NOW_S), before);
    // The same installation, by the same key.
    clients.saw_at(&Installation::from_agent(agent(1).as_bytes()), None, NOW_S);
    assert_eq!(clients.report_at(&published(7), NOW_S).installations, 2);
    state.forget_clients().unwrap();
    let anew = Clients::open(&state, 14 * DAY_S).unwrap();
    assert_eq!(anew.report_at(&published(7), NOW_S).installations, 0);
    assert_ne!(anew.key, clients.key);
}

#[test]
fn who_has_not_asked_for_too_long_is_forgotten_here_and_in_the_file() {
    let fixture = Fixture::new();
    fixture.saw(&agent(1), now(7), NOW_S - 14 * DAY_S - 1);
    fixture.saw(&agent(2), now(7), NOW_S - 14 * DAY_S);
    // Not shown, even before it is gone.
    assert_eq!(fixture.report().installations, 1);
    fixture.clients.save_at(&fixture.state, NOW_S - 14 * DAY_S).unwrap();
    assert_eq!(fixture.state.clients().unwrap().len(), 2);
    fixture.clients.save_at(&fixture.state, NOW_S).unwrap();
    assert_eq!(fixture.state.clients().unwrap().len(), 1);
    assert_eq!(fixture.clients.lock().known.len(), 1);
    // A clock that goes back forgets nobody.
    fixture.clients.save_at(&fixture.state, 0).unwrap();
    assert_eq!(fixture.state.clients().unwrap().len(), 1);
}

#[test]
fn whoever_invents_uuids_finds_no_room_and_displaces_nobody() {
    let mut fixture = Fixture::new();
    fixture.clients.most = 100;
    fixture.saw(&agent(1), now(7), NOW_S);
    for number in 2..10_000 {
        fixture.saw(&agent(number), now(1), NOW_S);
    }
    fixture.saw(&agent(1), now(6), NOW_S);
    let report = fixture.report();
    assert_eq!((report.installations, report.turned_away), (100, 9_899));
    assert_eq!(report.databases["test"].versions, [(1, 99), (6, 1)].into());
    fixture.clients.save_at(&fixture.state, NOW_S).unwrap();
    assert_eq!(fixture.state.clients().unwrap().len(), 100);
    assert!(fixture.clients.lock().changed.is_empty());
}

#[test]
fn whoever_invents_engines_is_unknown() {
    let fixture = Fixture::new();
    for number in 0..1000_u64 {
        fixture.saw(&format!("engine/{number}"), None, NOW_S);
        fixture.saw(&agent(number).replace("1.4.6", &format!("0.{number}")), None, NOW_S);
    }
    let report = fixture.report();
    assert_eq!(report.installations, 1000);
    assert!(report.engines.len() <= MOST_ENGINES + 1 && report.nameless.len() <= MOST_ENGINES + 1);
    assert!(report.engines[installation::UNKNOWN] > 900, "{report:?}");
}
fn tells(fixture: &Fixture, host: &str, installed: u32, loaded: u32, now_s: u64) {
    let versions = |version| [("test".to_owned(), version), ("other".to_owned(), 1)].into();
    let (installed, loaded) = (versions(installed), versions(loaded));
    let engine = Some("ClamAV/1.4.6".to_owned());
    let sighting = Sighting { host: host.to_owned(), engine, installed, loaded };
    fixture.clients.heard_at(&sighting, &published(7), now_s);
}

fn taking() -> Fixture {
    let Fixture { dir, state, clients } = Fixture::new();
    Fixture { dir, state, clients: clients.taking_reports(true) }
}

#[test]
fn who_tells_of_itself_is_one_client_and_named_where_it_lags() {
    let fixture = taking();
    fixture.saw(&agent(1), now(7), NOW_S);
    // The last word counts, also a lower one; a version from the future is no lag.
    for (host, installed, loaded) in
        [("a", 7, 7), ("b", 3, 3), ("b", 7, 6), ("c", 7, 7), ("c", 5, 5), ("d", u32::MAX, u32::MAX)]
    {
        tells(&fixture, host, installed, loaded, NOW_S);
    }
    let report = fixture.report();
    assert_eq!((report.installations, report.engines["ClamAV/1.4.6"]), (5, 5));
    assert_eq!(report.databases.len(), 1, "what is not published is not kept");
    let test = &report.databases["test"];
    assert_eq!(test.versions, [(5, 1), (7, 3), (u32::MAX, 1)].into());
    assert_eq!(test.loaded, [(5, 1), (6, 1), (7, 1), (u32::MAX, 1)].into());
    assert_eq!((test.lags.current, test.lags.up_to_seven_behind), (4, 1));
    let lagging = |lagging: &Lagging| (lagging.host.clone(), lagging.installed, lagging.loaded);
    let lagging: Vec<_> = report.lagging.iter().map(lagging).collect();
    assert_eq!(lagging, [("b".into(), Some(7), Some(6)), ("c".into(), Some(5), Some(5))]);
    let text = report.to_string();
    assert!(text.contains("b lags: test 7 installed, 6 loaded, 7 is published"), "{text}");
}

#[test]
fn who_invents_labels_finds_no_room_and_takes_none_from_installations() {
    let mut fixture = taking();
    fixture.clients.most_hosts = 500;
    for number in 0..2000_u64 {
        tells(&fixture, &format!("host-{number}"), 1, 1, NOW_S);
    }
    fixture.saw(&agent(1), now(7), NOW_S);
    let report = fixture.report();
    assert_eq!((report.installations, report.turned_away), (501, 1500));
    assert_eq!((report.lagging.len(), report.lagging_more), (report::MOST_LAGGING, 400));
    // Room comes back when they are forgotten.
    tells(&fixture, "host-1", 7, 7, NOW_S + 14 * DAY_S);
    fixture.clients.save_at(&fixture.state, NOW_S + 14 * DAY_S + 1).unwrap();
    tells(&fixture, "new", 7, 7, NOW_S + 14 * DAY_S + 1);
    assert_eq!(fixture.clients.lock().hosts, 2);
}

#[test]
fn what_was_told_lives_over_a_restart_and_goes_when_it_is_switched_off() {
    let fixture = taking();
    tells(&fixture, "web-1", 5, 5, NOW_S);
    fixture.saw(&agent(1), now(7), NOW_S);
    fixture.clients.save_at(&fixture.state, NOW_S).unwrap();
    let before = fixture.report();
    let again = Clients::open(&fixture.state, 14 * DAY_S).unwrap().taking_reports(true);
    assert_eq!(again.report_at(&published(7), NOW_S), before);
    assert_eq!(again.lock().hosts, 1);

    let off = Clients::open(&fixture.state, 14 * DAY_S).unwrap();
    let report = off.report_at(&published(7), NOW_S);
    assert_eq!((report.installations, report.lagging.len()), (1, 0));
    off.save_at(&fixture.state, NOW_S).unwrap();
    assert_eq!(fixture.state.clients().unwrap().len(), 1);
}
