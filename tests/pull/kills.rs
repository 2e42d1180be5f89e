//! A pull that is killed at any moment leaves a directory that loads, one version and no mixture; the next one completes.
use super::client::{Client, offer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    process::Stdio,
    time::{Duration, Instant},
};
use support::{
    mint::{Mint, Release},
    peers::Peers,
    process,
    upstream::Upstream,
};

/// The form that is wished, and the file to start from.
type Course<'a> = (&'a str, Option<(&'a str, &'a [u8])>);

/// How many pulls are killed.
fn kills() -> usize {
    std::env::var("KILLS").map_or(24, |text| text.parse().unwrap())
}

/// Versions 1 to 4, of a size at which each step takes a while.
fn releases(mint: &Mint) -> Vec<Release> {
    let mut lineage = mint.database_of("test", 4000, 60);
    let mut releases = Vec::new();
    for version in 1..=4 {
        lineage.mark(&format!("Marker-{version}"), format!("marker {version}\n").as_bytes());
        releases.push(lineage.publish());
    }
    releases
}

/// The versions that clamscan finds the markers of.
fn found(peers: &Peers, client: &Client) -> Vec<u32> {
    let markers = client.dir.path().join("markers");
    std::fs::create_dir_all(&markers).unwrap();
    for version in 1..=4 {
        std::fs::write(markers.join(version.to_string()), format!("marker {version}\n")).unwrap();
    }
    let mut scan = peers.command("clamscan");
    let ran = process::run(scan.arg("-d").arg(client.db()).arg("--no-summary").arg("-r").arg(&markers));
    let ran = ran.exits(1).never_says("WARNING").never_says("ERROR");
    (1..=4).filter(|version| ran.stdout.contains(&format!("Marker-{version}"))).collect()
}

fn version_of(bytes: &[u8]) -> u32 {
    String::from_utf8_lossy(&bytes[..64]).split(':').nth(2).unwrap().parse().unwrap()
}

#[test]
fn a_pull_killed_at_any_moment_leaves_one_version_and_the_next_one_completes() {
    let Some(peers) = Peers::with_mint_keys() else { return };
    let mint = Mint::new(51);
    let releases = releases(&mint);
    let mirror = Upstream::start();
    let client = || Client::of(&mirror.url()).trusting(&mint.keys_toml());
    releases.iter().for_each(|release| offer(&mirror, release));

    // A CLD of version 2, to be built upon like a CVD.
    offer(&mirror, &releases[1]);
    let maker = client().set("as", "cld");
    maker.pull(&[]).exits(0);
    let cld = maker.read("test.cld");
    offer(&mirror, &releases[3]);

    let courses: [Course<'_>; 5] = [
        ("cvd", None),
        ("cvd", Some(("test.cvd", &releases[1].cvd))),
        ("cvd", Some(("test.cld", &cld))),
        ("cld", Some(("test.cvd", &releases[1].cvd))),
        ("cld", Some(("test.cld", &cld))),
    ];
    let mut rng = StdRng::seed_from_u64(51);
    let mut states: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    let (mut killed, mut tried) = (0, 0);
    while killed < kills() {
        tried += 1;
        assert!(tried < 6 * kills() + 60, "too many pulls ended before they were killed: {states:?}");
        let (form, start) = courses[tried % courses.len()];
        let fresh = || {
            let client = client().set("as", form);
            match start {
                Some((name, bytes)) => client.holding(name, bytes),
                None => client,
            }
        };
        let whole = fresh();
        let began = Instant::now();
        whole.pull(&[]).exits(0);
        let took = began.elapsed();

        let client = fresh();
        let mut command = client.command(&[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let watched = rng.random_range(0..3);
        if watched == 0 {
            std::thread::sleep(took.mul_f64(rng.random()));
        } else {
            // As soon as the directory changes: between the renames.
            let before = client.names();
            let deadline = Instant::now() + Duration::from_secs(60);
            while client.names() == before && child.try_wait().unwrap().is_none() && Instant::now() < deadline
            {
            }
            std::thread::sleep(Duration::from_micros(rng.random_range(0..400)));
        }
        let _ = child.kill();
        if child.wait().unwrap().signal().is_none() {
            continue;
        }
        killed += 1;

        // What is under libclamav's names is whole and right, byte for byte what it was or is to be.
        let names = client.names();
        *states.entry(names.clone()).or_default() += 1;
        let old = start.map(|(name, _)| name.to_owned());
        for name in &names {
            client.verifies(name);
            let version = version_of(&client.read(name));
            assert!(version == 4 || version == 2 && Some(name) == old.as_ref(), "{name} {version}");
        }
        if !names.is_empty() {
            let newest = names.iter().map(|name| version_of(&client.read(name))).max().unwrap();
            let mut scan = peers.command("clamscan");
            let eicar = client.dir.path().join("keys.toml");
            let ran = process::run(scan.arg("-d").arg(client.db()).arg(eicar)).exits(0).never_says("ERROR");
            assert!(names.len() == 1 || ran.stderr.contains("is older and will not be loaded"), "{ran}");
            if names.len() == 1 {
                assert_eq!(found(&peers, &client), (1..=newest).collect::<Vec<_>>());
            }
        } else {
            assert!(start.is_none(), "nothing is left");
        }

        client.pull(&[]).exits(0).says(["test: "]);
        let name = format!("test.{form}");
        assert_eq!(client.names(), [name.as_str()], "after {names:?}");
        if form == "cvd" {
            assert!(client.read(&name) == releases[3].cvd);
        }
        client.verifies(&name);
        assert_eq!(found(&peers, &client), [1, 2, 3, 4]);
        let left = std::fs::read_dir(client.db().join(".cvdmirror/new")).unwrap().count();
        assert_eq!(left, 0, "half made files are left");
    }
    println!("{killed} kills of {tried}; what stood there after them: {states:?}");
}
