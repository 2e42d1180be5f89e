//! What the real clamscan takes to load one database of daily's size in each of its forms: the CVD, the CLD, and its
//! members as loose files; with the files out of the page cache, and in it.
//!
//! Run with `cargo bench --bench load`; a number of lines as argument makes it smaller.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cvdmirror::cvd::{Database, HEADER_BYTES, Limits, Rebuild, container::Members};
use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};
use support::{mint::Mint, peers::Peers};

/// Lines of a CVD of some 63 MiB.
const LINES: usize = 2_200_000;
const ROUNDS: usize = 3;
/// Of the figures in /proc/self/stat, on every Linux that counts here.
const TICKS_PER_S: f64 = 100.0;

/// Seconds that a load took.
#[derive(Clone, Copy)]
struct Took {
    real: f64,
    user: f64,
    system: f64,
}

fn main() {
    let lines = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(LINES);
    let Some(peers) = Peers::with_mint_keys() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mint = Mint::new(1);
    let cvd = mint.database_of("daily", lines, 10).publish().cvd;
    let forms = ["CVD", "CLD", "loose files"].map(|form| (form, directory.path().join(form)));
    for (_, form) in &forms {
        fs::create_dir(form).unwrap();
    }
    fs::write(forms[0].1.join("daily.cvd"), &cvd).unwrap();
    let scratch = tempfile::tempfile().unwrap();
    let (database, keys, limits): (Database, _, _) =
        ("daily".parse().unwrap(), mint.keys(), Limits::default());
    let rebuild = Rebuild::new(&database, cvd.as_slice(), &scratch, &keys, &limits).unwrap();
    let cld = File::create(forms[1].1.join("daily.cld")).unwrap();
    rebuild.write_cld(BufWriter::new(cld)).unwrap();
    let mut members = Members::new(&cvd[HEADER_BYTES..], &limits).unwrap();
    while let Some(member) = members.next_member().unwrap() {
        // Loose, the list of ignored signatures is loaded first, and every other one is looked up in it; in a CVD the
        // minted one comes last. It is far longer than Talos' is, and would be all that is measured.
        if member.name.ends_with(".ign2") {
            continue;
        }
        fs::write(forms[2].1.join(member.name), members.read_all().unwrap()).unwrap();
    }

    // Form by form in turn, so that what else the machine does meets all of them.
    let mut cold: [Vec<Took>; 3] = Default::default();
    let mut warm: [Vec<Took>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (place, (_, form)) in forms.iter().enumerate() {
            drop_from_cache(form);
            cold[place].push(load(&peers, form));
            warm[place].push(load(&peers, form));
        }
    }
    println!("| {} lines | size | cold: real | user | system | warm: real | user | system |", lines);
    println!("|---|---|---|---|---|---|---|---|");
    for (place, (name, form)) in forms.iter().enumerate() {
        let bytes: u64 = files(form).iter().map(|path| path.metadata().unwrap().len()).sum();
        let (cold, warm) = (median(&cold[place]), median(&warm[place]));
        println!(
            "| {name} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            cvdmirror::units::size(bytes),
            cold.real,
            cold.user,
            cold.system,
            warm.real,
            warm.user,
            warm.system
        );
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Has the next reader find them on the disk alone.
fn drop_from_cache(directory: &Path) {
    for path in files(directory) {
        let file = File::open(path).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

/// Loads a directory, to scan a file of no account.
fn load(peers: &Peers, directory: &Path) -> Took {
    let (user, system) = children_s();
    let began = Instant::now();
    let mut command: Command = peers.command("clamscan");
    let status = command
        .args(["--no-summary", "-d"])
        .arg(directory)
        .arg("/etc/hostname")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let real = began.elapsed().as_secs_f64();
    let (user_after, system_after) = children_s();
    Took { real, user: user_after - user, system: system_after - system }
}

/// The CPU time of every child that has ended, user and system (proc(5), cutime and cstime).
fn children_s() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let figures: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let seconds = |at: usize| figures[at].parse::<f64>().unwrap() / TICKS_PER_S;
    (seconds(13), seconds(14))
}

fn median(took: &[Took]) -> Took {
    let middle = |figure: fn(&Took) -> f64| {
        let mut figures: Vec<f64> = took.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Took {
        real: middle(|took| took.real),
        user: middle(|took| took.user),
        system: middle(|took| took.system),
    }
}
