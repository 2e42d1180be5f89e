//! What following a mirror costs it: pull beside freshclam with CDIFFs, and beside a PrivateMirror client, in one run.
use super::client::Client;
use support::{
    clients::Freshclam,
    mint::Mint,
    peers::Peers,
    program::{Program, Serving},
    upstream::Upstream,
    wait_for,
};

/// Bytes of the bodies that the mirror has sent, by its access log.
fn sent(server: &Serving) -> u64 {
    let bytes = |line: &str| line.split("\" ").nth(1)?.split(' ').nth(1)?.parse::<u64>().ok();
    server.stdout.so_far().iter().filter(|line| line.contains("HTTP/1.")).filter_map(|line| bytes(line)).sum()
}

/// What a client's run had the mirror send; the log is written a moment after an answer is sent.
fn cost(server: &Serving, run: impl FnOnce()) -> u64 {
    let settled = || {
        let mut last = (sent(server), 0);
        wait_for("the log to be written", || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            last = if sent(server) == last.0 { (last.0, last.1 + 1) } else { (sent(server), 0) };
            (last.1 == 5).then_some(last.0)
        })
    };
    let before = settled();
    run();
    settled() - before
}

#[test]
fn thirty_versions_cost_no_more_than_with_freshclam_and_a_hundredth_of_a_private_mirror() {
    let Some(peers) = Peers::with_mint_keys() else { return };
    let mint = Mint::new(61);
    let mut lineage = mint.database_of("test", 20_000, 10);
    let upstream = Upstream::start();
    upstream.release("test", &lineage.publish());
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    program.sync().exits(0);
    let server = program.serve();
    server.publishes(1);
    let client = Client::of(&server.url()).trusting(&mint.keys_toml());
    let Some(freshclam) = Freshclam::of(&server.url()) else { return };
    let freshclam = freshclam.following("test", &peers);
    let private = Freshclam::with(&format!("PrivateMirror {}\n", server.url())).unwrap();
    let private = private.following("test", &peers);
    client.pull(&[]).exits(0);
    freshclam.update(&["--no-dns"]).exits(0);
    private.update(&[]).exits(0);

    let (mut pull, mut cdiffs, mut full) = (0, 0, 0);
    for version in 2..=31 {
        upstream.release("test", &lineage.publish());
        program.sync().exits(0);
        server.publishes(version.into());
        pull += cost(&server, || drop(client.pull(&[]).exits(0)));
        cdiffs += cost(&server, || drop(freshclam.update(&["--no-dns"]).exits(0)));
        full += cost(&server, || drop(private.update(&[]).exits(0)));
        assert_eq!([freshclam.version(), private.version()], [Some(version); 2]);
    }
    let [pulled] = client.names().try_into().unwrap_or_else(|names| panic!("{names:?}"));
    assert_eq!(pulled, "test.cvd");
    client.pull(&[]).exits(0).says(["test: 31 is the newest"]);
    println!(
        "bytes of 30 versions: pull {pull}, freshclam with CDIFFs {cdiffs}, PrivateMirror {full}: \
         {:.2} of the one, 1/{} of the other",
        pull as f64 / cdiffs as f64,
        full / pull
    );
    assert!(pull * 10 <= cdiffs * 11, "{pull} and {cdiffs}");
    assert!(pull * 100 <= full, "{pull} and {full}");
}
