//! The fuzz targets as ordinary tests: on a corpus, on every part cut out of it, and on random changes of it.

use std::{collections::BTreeSet, env, fs, panic, path::Path, path::PathBuf};

use lab::mutate::{Mutator, mutated};
use proptest::prelude::*;
use tower_respond_async::testing::fuzz::{TARGETS, Target};

/// How many changed inputs each target gets; `FUZZ_ROUNDS` sets more.
const ROUNDS: u64 = 4_000;

fn corpus_of(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/corpus").join(name);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    // Sorted, so that a round is the same everywhere.
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).expect("the file can be read"))
        .collect()
}

fn survives(target: &Target, data: &[u8]) {
    if panic::catch_unwind(|| (target.run)(data)).is_err() {
        panic!("{} does not hold for b\"{}\"", target.name, data.escape_ascii());
    }
}

#[test]
fn every_target_survives_its_corpus_and_all_that_is_cut_out_of_it() {
    for target in TARGETS {
        let corpus = corpus_of(target.name);
        assert!(corpus.len() >= 2, "{} has no corpus", target.name);
        for data in corpus {
            for at in 0..=data.len() {
                survives(target, &data[..at]);
                survives(target, &data[at..]);
            }
        }
    }
}

#[test]
fn every_target_survives_random_changes_of_its_corpus() {
    let rounds = env::var("FUZZ_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("FUZZ_ROUNDS is a number"));
    for target in TARGETS {
        let corpus = corpus_of(target.name);
        let mut mutator = Mutator::new(1);
        for _ in 0..rounds {
            survives(target, &mutated(&corpus, &mut mutator));
        }
    }
}

proptest! {
    #[test]
    fn every_target_survives_any_bytes_whatever(data in prop::collection::vec(any::<u8>(), 0..200)) {
        for target in TARGETS {
            survives(target, &data);
        }
    }
}

/// Each target has a binary in `lab/fuzz/`, and each binary has a target.
#[test]
fn every_target_can_be_fuzzed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("fuzz/ has a manifest");
    let listed: BTreeSet<_> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .collect();
    let targets: BTreeSet<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(listed, targets);
    for name in targets {
        let source = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).expect("it is there");
        assert!(
            source.contains(&format!("fuzz::run(\"{name}\", data)")),
            "{name} runs another target"
        );
    }
}
