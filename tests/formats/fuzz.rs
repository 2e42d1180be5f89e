//! The fuzzers' targets on stable Rust: the kept corpus, fresh valid files, and mutations of both.
#[path = "../fuzz/targets.rs"]
mod targets;
use cvdmirror::cvd::HEADER_BYTES;
use cvdmirror_store::{NameRecord, ObjectId, Pack, Proof, Store};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use support::{forge::Forge, mint::Mint, mint_keys::keys, mint_sign::signer};
use targets::TARGETS;

/// How long each target mutates; `CVDMIRROR_FUZZ_SECONDS` makes it longer.
fn budget() -> Duration {
    let seconds = std::env::var("CVDMIRROR_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    Duration::from_millis((seconds.unwrap_or(0.7_f64) * 1000.0) as u64)
}

/// The kept inputs of a target and some made now, so that a change of the mint does not outdate the corpus.
fn inputs(target: &str) -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", corpus.display());
    let mut inputs: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let forge = Forge::proper();
    let mut lineage = Mint::new(1).database_of("test", 30, 5);
    lineage.publish();
    let release = lineage.publish();
    match target {
        "header" => inputs.push(forge.seal()[..HEADER_BYTES].to_vec()),
        "tar" => {
            inputs.push(forge.body());
            inputs.push(Forge { compressed: false, ..Forge::proper() }.body());
        }
        "info" => inputs.push(forge.signed_info()),
        "script" => inputs.push(release.script.unwrap()),
        "dsig" => inputs.push(keys().legacy.sign_legacy(&[7; 16]).into_bytes()),
        "sign" => inputs.push(signer().sign(b"the signed file")),
        "pack" => inputs.push(sealed()),
        "rows" => inputs.push(as_rows()),
        "admission" => inputs.extend([as_rows(), carried()]),
        "inspect" => inputs.extend([forge.seal(), release.cdiff.unwrap(), release.cvd_sign.unwrap()]),
        _ => {}
    }
    inputs
}

/// A pack's file, of two objects.
fn sealed() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::assemble(dir.path(), dir.path(), Vec::new()).unwrap();
    let mut batch = store.batch().unwrap();
    for (name, bytes) in [("test-1.cdiff", &[1; 100][..]), ("test-2.cdiff", &[2; 17_000])] {
        let mut object = batch.object().unwrap();
        object.append(bytes).unwrap();
        let (object, size) = object.finish().unwrap();
        let origin = "https://example.org/".to_owned();
        let record =
            NameRecord { object, size, modified_s: None, stored_at_s: 5, origin, proof: Proof::Signed };
        batch.bind(name, record).unwrap();
    }
    std::fs::read(store.commit(batch, 1_795_381_080).unwrap().path()).unwrap()
}

/// Rows of a pack of an object of three bytes, as the target "rows" takes them.
fn as_rows() -> Vec<u8> {
    let id = ObjectId::of(b"abc");
    let object = [&id.as_bytes()[..], &[0, 3, 0]].concat();
    let name = [&b"\x01n"[..], id.as_bytes(), b"\x03\x00\x05\x01o\x03"].concat();
    let format = 1u64.to_le_bytes();
    let rows = [
        (255, 255, &format[..]),
        (255, 0, b"\x05\x03\x01\x01"),
        (0, 0, b"abc"),
        (1, 0, &object),
        (2, 0, &name),
    ];
    let row = |(section, number, value): (u8, u8, &[u8])| {
        [&[section, number, value.len() as u8, 0], value].concat()
    };
    rows.into_iter().flat_map(row).collect()
}

/// Rows of a pack that is admitted: an empty CDIFF.
fn carried() -> Vec<u8> {
    let id = ObjectId::of(b"");
    let object = [&id.as_bytes()[..], &[0, 0, 0]].concat();
    let name = [&b"\x0ctest-5.cdiff"[..], id.as_bytes(), b"\x00\x00\x05\x01o\x01"].concat();
    let format = 1u64.to_le_bytes();
    let rows = [(255, 255, &format[..]), (255, 0, b"\x05\x00\x01\x01"), (1, 0, &object), (2, 0, &name)];
    let row = |(section, number, value): (u8, u8, &[u8])| {
        [&[section, number, value.len() as u8, 0], value].concat()
    };
    rows.into_iter().flat_map(row).collect()
}

#[test]
fn the_packs_that_are_mutated_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("20260101T000000Z-0123456789abcdef.redb");
    for target in ["pack", "rows"] {
        for input in inputs(target) {
            match target {
                "pack" => std::fs::write(&path, input).unwrap(),
                _ => targets::write_rows(&path, &input),
            }
            let pack = Pack::open_file(&path).unwrap();
            assert!(pack.names().len() > 0);
            for (id, size) in pack.objects() {
                assert_eq!(pack.open(&id).unwrap().unwrap().chunk_at(0).unwrap().len() as u64, size);
            }
            std::fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn no_target_falls_over_its_corpus_or_mutations_of_it() {
    for (name, run) in TARGETS {
        let inputs = inputs(name);
        inputs.iter().for_each(|input| run(input));
        let mut rng = StdRng::seed_from_u64(42);
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < budget() {
            let mut input = inputs[rng.random_range(0..inputs.len())].clone();
            for _ in 0..rng.random_range(1..5) {
                mutate(&mut input, &inputs, &mut rng);
            }
            input.truncate(1 << 16);
            let shown = input.clone();
            let result = std::panic::catch_unwind(|| run(&input));
            assert!(result.is_ok(), "{name} fell over {}", shown.escape_ascii());
            count += 1;
        }
        println!("{name}: {} kept and {count} mutated inputs", inputs.len());
    }
}

fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut StdRng) {
    let at = rng.random_range(0..=input.len());
    match rng.random_range(0..6) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 => input.insert(at, *b" \n:;0-.\0\xff".get(rng.random_range(0..9)).unwrap()),
        3 => drop(input.drain(at..(at + rng.random_range(0..20)).min(input.len()))),
        4 => {
            let end = (at + rng.random_range(0..40)).min(input.len());
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
        _ => {
            let other = &others[rng.random_range(0..others.len())];
            let from = rng.random_range(0..=other.len());
            let piece = other[from..(from + rng.random_range(0..60)).min(other.len())].to_vec();
            input.splice(at..at, piece);
        }
    }
}
