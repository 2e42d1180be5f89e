//! The fuzzers' targets on stable Rust: the kept corpus, fresh valid files, and mutations of both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
#[path = "fuzz/targets.rs"]
mod targets;
use cvdmirror::cvd::HEADER_BYTES;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use support::{forge::Forge, mint::Mint, mint_sign::signer};
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
        "sign" => inputs.push(signer().sign(b"the signed file")),
        "inspect" => inputs.extend([forge.seal(), release.cdiff.unwrap(), release.cvd_sign.unwrap()]),
        _ => {}
    }
    inputs
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
