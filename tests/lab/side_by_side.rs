//! The lab in small: what people run today shows The Delays, and a mirror behind the very same cache does not.
use lab::Settings;
use support::namespace;

#[test]
fn behind_the_cache_that_delays_others_every_advertised_version_is_there() {
    if !namespace::inside("behind_the_cache_that_delays_others_every_advertised_version_is_there") {
        return;
    }
    let settings = Settings { versions: 5, pace: 3, lines: 500, edits: 10, fresh_every: 2, clients: true };
    let began = std::time::Instant::now();
    let Some(outcomes) = lab::run(&settings) else { return };
    let table = lab::table(&outcomes, &settings, began);
    eprintln!("{table}");
    let plot = lab::svg(&outcomes);
    assert!(outcomes.iter().all(|outcome| plot.contains(outcome.name)), "{plot}");
    let [today, cached, mirrored] = &outcomes[..] else { panic!("three LANs") };
    assert_eq!((mirrored.failed(), mirrored.unobtainable()), (0, 0), "{table}");
    assert!(mirrored.delays().iter().all(Option::is_some), "{table}");
    for delayed in [today, cached] {
        assert!(delayed.failed() > 0 && delayed.unobtainable() > 0, "{}\n{table}", delayed.name);
    }
}
