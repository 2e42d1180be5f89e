//! Side by side at daily's real size: a rebuild against the bare zlib deflate of the same tar, and verifying a CVD
//! against `sigtool --info`; and what it takes to prove that a CDIFF leads to its version. Every measured step is a
//! process of its own, so that its peak memory is its own.
//!
//! Run with `cargo bench --bench rebuild`; a number of lines as argument makes it smaller.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cvdmirror::cvd::{
    CvdVerifier, HEADER_BYTES, Header, Limits, Rebuild, TrustKeys, container::Members, verify_cdiff,
};
use libz_sys as z;
use std::{
    fs::{self, File},
    io::{BufWriter, Read, Write},
    path::Path,
    process::Command,
    time::Instant,
};
use support::{mint::Mint, peers::Peers};

/// Lines of a tar of some 200 MB.
const LINES: usize = 2_200_000;
const EDITS: usize = 2_000;
const ROUNDS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["deflate", directory] => deflate(Path::new(directory)),
        ["rebuild", directory] => rebuild(Path::new(directory), true),
        ["check", directory] => rebuild(Path::new(directory), false),
        ["verify", directory] => verify(Path::new(directory)),
        [] => compare(LINES),
        [lines] => compare(lines.parse().expect("a number of lines")),
        other => panic!("unknown arguments {other:?}"),
    }
}

fn compare(lines: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mint = Mint::new(1);
    let mut lineage = mint.database_of("daily", lines, EDITS);
    fs::write(path("old.cvd"), lineage.publish().cvd).unwrap();
    let new = lineage.publish();
    fs::write(path("new.cvd"), &new.cvd).unwrap();
    fs::write(path("daily.cvd"), &new.cvd).unwrap();
    fs::write(path("new.cdiff"), new.cdiff.unwrap()).unwrap();
    fs::write(path("keys.toml"), mint.keys_toml()).unwrap();
    let mut members = Members::new(&new.cvd[HEADER_BYTES..], &Limits::default()).unwrap();
    let mut tar = File::create(path("tar")).unwrap();
    let (mut tar_bytes, mut largest) = (0, 0);
    while let Some(entry) = members.next_member().unwrap() {
        // As in the CVD, but for the headers, which are next to nothing.
        tar.write_all(&members.read_all().unwrap()).unwrap();
        tar_bytes += entry.size;
        largest = largest.max(entry.size);
    }
    drop(tar);
    println!("CVD {} bytes, tar {tar_bytes} bytes, largest member {largest} bytes", new.cvd.len());

    let (mut bare, mut ours, mut checks, mut theirs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut bare_cpu, mut ours_cpu, mut proofs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut peak, mut proof_peak) = (0.0_f64, 0.0_f64);
    let peers = Peers::with_mint_keys();
    for _ in 0..ROUNDS {
        let [seconds, cpu] = child("deflate", directory.path())[..] else { panic!("two figures") };
        bare.push(seconds);
        bare_cpu.push(cpu);
        let [seconds, cpu, megabytes] = child("rebuild", directory.path())[..] else {
            panic!("three figures")
        };
        ours.push(seconds);
        ours_cpu.push(cpu);
        peak = peak.max(megabytes);
        let [seconds, _, megabytes] = child("check", directory.path())[..] else { panic!("three figures") };
        proofs.push(seconds);
        proof_peak = proof_peak.max(megabytes);
        checks.push(child("verify", directory.path())[0]);
        if let Some(peers) = &peers {
            let start = Instant::now();
            let output = peers.command("sigtool").arg("--info").arg(path("daily.cvd")).output().unwrap();
            theirs.push(start.elapsed().as_secs_f64());
            assert!(String::from_utf8_lossy(&output.stdout).contains("Verification OK"), "{output:?}");
        }
    }
    let least = |figures: &[f64]| figures.iter().copied().fold(f64::INFINITY, f64::min);
    let (bare, ours, checks) = (least(&bare), least(&ours), least(&checks));
    println!("bare deflate {bare:.2} s, rebuild {ours:.2} s: {:.3} times", ours / bare);
    // On a busy machine the processor's time tells more than the clock.
    let (bare, ours) = (least(&bare_cpu), least(&ours_cpu));
    println!("CPU: bare deflate {bare:.2} s, rebuild {ours:.2} s: {:.3} times", ours / bare);
    let allowed = 1.5 * largest as f64 / 1e6 + 64.0;
    println!("rebuild's peak memory {peak:.1} MB (allowed {allowed:.1} MB)");
    println!("CDIFF proved in {:.2} s, peak memory {proof_peak:.1} MB", least(&proofs));
    match theirs.as_slice() {
        [] => println!("verify {checks:.3} s; sigtool is not installed"),
        theirs => {
            let theirs = least(theirs);
            println!("sigtool --info {theirs:.3} s, verify {checks:.3} s: {:.3} times", checks / theirs);
        }
    }
}

/// Runs one step in a process of its own and reads its figures.
fn child(step: &str, directory: &Path) -> Vec<f64> {
    let output = Command::new(std::env::current_exe().unwrap()).arg(step).arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().map(|figure| figure.parse().unwrap()).collect()
}

/// zlib alone with sigtool's parameters, the whole tar at once, the output thrown away.
fn deflate(directory: &Path) {
    let tar = fs::read(directory.join("tar")).unwrap();
    let mut out = vec![0; 64 << 10];
    let (start, cpu) = (Instant::now(), cpu_seconds());
    // SAFETY: a zeroed z_stream is what deflateInit2 asks for; the buffers outlive every call, and `stream` stays put.
    unsafe {
        let mut stream = Box::new(std::mem::MaybeUninit::<z::z_stream>::zeroed());
        let stream = stream.as_mut_ptr();
        let size = size_of::<z::z_stream>() as i32;
        assert_eq!(
            z::deflateInit2_(stream, 9, z::Z_DEFLATED, 31, 8, z::Z_FILTERED, z::zlibVersion(), size),
            z::Z_OK
        );
        (*stream).next_in = tar.as_ptr().cast_mut();
        (*stream).avail_in = tar.len() as u32;
        loop {
            (*stream).next_out = out.as_mut_ptr();
            (*stream).avail_out = out.len() as u32;
            if z::deflate(stream, z::Z_FINISH) == z::Z_STREAM_END {
                break;
            }
        }
        z::deflateEnd(stream);
    }
    println!("{} {}", start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
}

/// User and system time of this process and its threads, in steps of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // Fields 14 and 15, counted behind the command's name (proc(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

fn keys(directory: &Path) -> TrustKeys {
    toml::from_str(&fs::read_to_string(directory.join("keys.toml")).unwrap()).unwrap()
}

/// Applies the CDIFF and checks what comes of it; `whole` goes on to the packed file.
fn rebuild(directory: &Path, whole: bool) {
    let (keys, limits) = (keys(directory), Limits::default());
    let mut header = [0; HEADER_BYTES];
    File::open(directory.join("new.cvd")).unwrap().read_exact(&mut header).unwrap();
    let database = "daily".parse().unwrap();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let cdiff = File::open(directory.join("new.cdiff")).unwrap();
    let name = format!("daily-{}.cdiff", Header::parse(&header).unwrap().version).parse().unwrap();
    let cdiff = verify_cdiff(&name, cdiff, &keys, &limits).unwrap();
    let scratch = tempfile::tempfile_in(directory).unwrap();
    let old = File::open(directory.join("old.cvd")).unwrap();
    let rebuild = Rebuild::new(&database, old, &scratch, &keys, &limits).unwrap().apply(&cdiff).unwrap();
    if whole {
        let out = BufWriter::new(File::create(directory.join("rebuilt.cvd")).unwrap());
        rebuild.write(&header, out).unwrap();
    } else {
        rebuild.check().unwrap();
    }
    println!("{} {} {}", start.elapsed().as_secs_f64(), cpu_seconds() - cpu, peak_megabytes());
    if whole {
        let bytes = |name| fs::read(directory.join(name)).unwrap();
        assert!(bytes("rebuilt.cvd") == bytes("new.cvd"), "the rebuilt file differs");
    }
}

fn verify(directory: &Path) {
    let (keys, limits) = (keys(directory), Limits::default());
    let start = Instant::now();
    let file = File::open(directory.join("new.cvd")).unwrap();
    CvdVerifier::new(file, &limits).unwrap().verify(&"daily".parse().unwrap(), &keys).unwrap();
    println!("{}", start.elapsed().as_secs_f64());
}

fn peak_megabytes() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
}
