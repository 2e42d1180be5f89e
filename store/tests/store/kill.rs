//! A process killed at any moment of ingest, merging and dropping: the store opens clean and has what was acknowledged.
use crate::support::{Home, NOW_S, noise, read_name, record};
use cvdmirror_store::{Finding, ObjectId, Severity, Store, check_view, merges};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const CHILD: &str = "CVDMIRROR_STORE_TEST_CHILD";
/// The last so many names are kept.
const KEPT: u64 = 40;

fn content(n: u64) -> Vec<u8> {
    let len = match n % 7 {
        0 => 1_500_000,
        1 => 0,
        _ => 4_000 * (n % 50) as usize,
    };
    noise(n, len)
}

fn name(n: u64) -> String {
    format!("daily-{n:06}.cdiff")
}

/// Commits, merges and drops until it is killed, and says each name once it is committed.
#[test]
fn child() {
    let Some(root) = std::env::var_os(CHILD) else {
        return;
    };
    let root = std::path::PathBuf::from(root);
    let (store_dir, tmp_dir) = (root.join("store"), root.join("tmp"));
    Store::empty_tmp(&tmp_dir).unwrap();
    let scan = Store::scan(&store_dir).unwrap();
    let (store, _) = Store::assemble(&store_dir, &tmp_dir, scan.packs).unwrap();
    let last = store.view().names().last().map(|(n, _)| n[6..12].parse::<u64>().unwrap());
    let mut out = std::io::stdout();
    for n in last.unwrap_or(0) + 1.. {
        let mut batch = store.batch().unwrap();
        let bytes = content(n);
        batch.put(ObjectId::of(&bytes), bytes.len() as u64, &mut &bytes[..]).unwrap();
        batch.bind(&name(n), record(&bytes)).unwrap();
        store.commit(batch, NOW_S + n).unwrap();
        writeln!(out, "ack {n}").unwrap();
        out.flush().unwrap();
        let keep = |candidate: &str| candidate > name(n.saturating_sub(KEPT)).as_str();
        for group in merges(&store.view().sizes(&keep)) {
            let merged = store.merge(&group, &keep, NOW_S + n).unwrap();
            store.remove_retired(&merged.retired).unwrap();
        }
    }
}

#[test]
fn killed_at_random_points_it_has_what_it_acknowledged() {
    let home = Home::new();
    let root = home.store_dir().parent().unwrap().to_owned();
    let mut acknowledged = 0;
    let kills = std::env::var("KILLS").map_or(25, |n| n.parse().unwrap());
    for round in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--nocapture"])
            .env(CHILD, &root)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acks = lines.filter_map(|line| line.unwrap().strip_prefix("ack ")?.parse::<u64>().ok());
        // Some commits, then a moment that falls anywhere in the next.
        for _ in 0..round % 4 {
            acknowledged = acks.next().unwrap();
        }
        let moment = u64::from(noise(round, 1)[0]) * 150;
        let from = Instant::now();
        while from.elapsed() < Duration::from_micros(moment) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = acks.last().unwrap_or(acknowledged);

        Store::empty_tmp(&home.tmp_dir()).unwrap();
        assert!(crate::support::file_names(&home.tmp_dir()).is_empty());
        let (store, findings) = home.open();
        assert_eq!(findings, []);
        for n in acknowledged.saturating_sub(KEPT - 1).max(1)..=acknowledged {
            assert_eq!(read_name(&store, &name(n)), content(n), "{n}");
        }
        if round % 8 == 0 {
            let mut worst = None;
            let mut report = |f: Finding| worst = worst.max(Some(f.severity()));
            check_view(&store.view(), &|_| false, &|_| {}, &mut report);
            assert!(worst <= Some(Severity::Note));
        }
    }
    println!("{acknowledged} commits over {kills} kills");
    assert!(acknowledged > 10);
}
