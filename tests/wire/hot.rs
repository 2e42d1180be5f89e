//! Objects in sealed memory: whatever happens to the disk, a client gets right bytes or fewer; and memory keeps its bound.
use cvdmirror::{
    hot::{Figures, HotSet},
    http::{Aliases, Limits},
};
use cvdmirror_store::ObjectId;
use futures_util::future::join_all;
use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use support::{
    http_fixture::{Answer, Server, fill, noise},
    wait_for,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MIB: usize = 1 << 20;

/// A server of these files, each in a pack of its own, with so much memory.
async fn server(files: &[(&str, Vec<u8>)], memory: usize) -> Server {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fill(dir.path(), std::slice::from_ref(file));
    }
    Server::hot(dir, Aliases::Redirect, Limits::default(), HotSet::new(memory as u64)).await
}

fn figures(server: &Server) -> Figures {
    server.site.hot.figures()
}

/// The pack that is longest.
fn pack(dir: &Path) -> PathBuf {
    let packs = std::fs::read_dir(dir.join("store")).unwrap().map(|entry| entry.unwrap().path());
    packs.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

/// Changes bits of a byte.
fn flip(pack: &Path, at: u64, bits: u8) {
    let file = OpenOptions::new().read(true).write(true).open(pack).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ bits], at).unwrap();
}

/// Whether an answer has no wrong byte; true in the second place if it is whole.
fn right(answer: &Answer, whole: &[u8]) -> (bool, bool) {
    match answer.status {
        200 if answer.complete => (answer.body == whole, true),
        200 => (whole.starts_with(&answer.body), false),
        status => (status == 503, false),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_ask_at_once_get_all_of_what_is_loaded_once() {
    let whole = noise(9 * MIB + 7, 1);
    let server = server(&[("test-5.cvd", whole.clone())], 64 * MIB).await;
    let answers = join_all((0..24).map(|_| server.get("/test-5.cvd", ""))).await;
    assert!(answers.iter().all(|answer| answer.complete && answer.body == whole));
    let range = server.get("/test-5.cvd", "Range: bytes=5-8388608\r\n").await;
    assert!(range.status == 206 && range.body == whole[5..=8 * MIB]);
    let Figures { bytes, hits, loads, evictions, .. } = figures(&server);
    assert_eq!((bytes, hits, loads, evictions), (whole.len() as u64, 24, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_range_loads_nothing_until_many_were_asked_for() {
    let whole = noise(4 * MIB, 2);
    let server = server(&[("test-5.cvd", whole.clone()), ("test-5.cdiff", noise(3000, 3))], 64 * MIB).await;
    for asked in 1..=17 {
        let answer = server.get("/test-5.cvd", "Range: bytes=0-511\r\n").await;
        assert!(answer.status == 206 && answer.body == whole[..512]);
        // The store reads 256 KiB for each: sixteen have cost what loading does.
        assert_eq!(figures(&server).loads, u64::from(asked >= 16), "{asked}");
    }
    assert_eq!(figures(&server).hits, 1);
    server.get("/test-5.cdiff", "").await;
    assert_eq!(figures(&server).loads, 2, "a small file");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coldest_gives_way_and_the_budget_holds() {
    let names: Vec<String> = (1..=5).map(|n| format!("test-{n}.cvd")).collect();
    let files: Vec<(&str, Vec<u8>)> =
        names.iter().zip(1..).map(|(name, seed)| (name.as_str(), noise(2 * MIB, seed))).collect();
    let server = server(&files, 5 * MIB).await;
    let idle = async |place: usize| {
        let (name, whole) = &files[place];
        let answer = server.get(&format!("/{name}"), "").await;
        assert!(answer.complete && answer.body == *whole, "{name}");
    };
    for (place, loads, evictions) in
        [(0, 1, 0), (1, 2, 0), (0, 2, 0), (2, 3, 1), (0, 3, 1), (1, 4, 2), (3, 5, 3), (4, 6, 4)]
    {
        wait_idle(&server, &files).await;
        idle(place).await;
        let now = figures(&server);
        assert_eq!((now.loads, now.evictions), (loads, evictions), "after {place}: {now}");
        assert!(now.bytes <= now.budget, "{now}");
    }
}

/// Waits until nothing is being loaded or sent: until then nothing gives way.
async fn wait_idle(server: &Server, files: &[(&str, Vec<u8>)]) {
    let snapshot = &server.site.mirror.standing().snapshot;
    for (_, bytes) in files {
        let reader = snapshot.view.open(&ObjectId::of(bytes)).unwrap().unwrap();
        let set = server.site.hot.clone();
        wait_for("an idle set", || set.is_idle(&reader.id()).then_some(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_sent_does_not_give_way() {
    let files = [("test-4.cvd", noise(20 * MIB, 4)), ("test-5.cvd", noise(15 * MIB, 5))];
    let server = server(&files, 30 * MIB).await;
    let mut slow = server.connect().await;
    slow.0.write_all(b"GET /test-4.cvd HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut head = [0; 100];
    slow.0.read_exact(&mut head).await.unwrap();
    // There is no room for the other: it comes from the store.
    assert!(server.get("/test-5.cvd", "").await.body == files[1].1);
    let now = figures(&server);
    assert_eq!((now.loads, now.evictions, now.bytes), (1, 0, 20 * MIB as u64));
    let mut rest = Vec::new();
    slow.0.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(&files[0].1));
    drop(slow);
    wait_idle(&server, &files[..1]).await;
    assert!(server.get("/test-5.cvd", "").await.body == files[1].1);
    assert_eq!((figures(&server).loads, figures(&server).evictions), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_everything_comes_from_the_store() {
    let whole = noise(3 * MIB, 6);
    let server = server(&[("test-5.cvd", whole.clone())], 0).await;
    for _ in 0..2 {
        assert!(server.get("/test-5.cvd", "").await.body == whole);
    }
    assert_eq!(figures(&server), Figures::default());
}

/// Bits change under an object that is hot, while it is loaded, and after it gave way. FLIPS=2000 for the full number.
#[tokio::test(flavor = "multi_thread")]
async fn no_changed_bit_of_the_disk_is_ever_sent() {
    let flips: u64 = std::env::var("FLIPS").map_or(40, |n| n.parse().unwrap());
    let files = [("test-5.cvd", noise(2 * MIB + 9, 7)), ("test-4.cvd", noise(MIB, 8))];
    let whole = &files[0].1;
    // Room for one of the two.
    let server = server(&files, whole.len()).await;
    let pack = pack(server.dir.path());
    let length = std::fs::metadata(&pack).unwrap().len();
    let other = async || {
        wait_idle(&server, &files).await;
        assert!(server.get("/test-4.cvd", "").await.body == files[1].1);
        wait_idle(&server, &files).await;
    };
    let (mut kept, mut broken) = (0, 0);
    for turn in 0..flips {
        // Spread over the file, the tables as well as the bytes.
        let (at, bits) = ((turn * 2 + 1) * length / (flips * 2), 1 << (turn % 8));
        // Hot: nothing of the disk shows.
        other().await;
        assert!(server.get("/test-5.cvd", "").await.body == *whole);
        flip(&pack, at, bits);
        let answer = server.get("/test-5.cvd", "").await;
        assert_eq!(right(&answer, whole), (true, true), "byte {at}, hot");
        // It gave way, and is loaded with the change.
        other().await;
        let answers = join_all((0..3).map(|_| server.get("/test-5.cvd", ""))).await;
        for answer in &answers {
            let (right, complete) = right(answer, whole);
            assert!(right, "byte {at}, loaded anew: {}", answer.status);
            *(if complete { &mut kept } else { &mut broken }) += 1;
        }
        flip(&pack, at, bits);
        // It changes while it is loaded.
        other().await;
        let stop = Arc::new(AtomicBool::new(false));
        let flipper = std::thread::spawn({
            let (stop, pack) = (stop.clone(), pack.clone());
            move || {
                while !stop.load(Relaxed) {
                    flip(&pack, at, bits);
                    flip(&pack, at, bits);
                }
            }
        });
        let answers = join_all((0..3).map(|_| server.get("/test-5.cvd", ""))).await;
        stop.store(true, Relaxed);
        flipper.join().unwrap();
        assert!(answers.iter().all(|answer| right(answer, whole).0), "byte {at}, while it is loaded");
    }
    eprintln!("{flips} changes: {kept} answers whole, {broken} broken off");
    assert!(broken > 0, "changes are found");
    assert!(!server.corrupt.lock().unwrap().is_empty());
    assert!(figures(&server).bytes <= figures(&server).budget);
}
