//! Fuzzing on stable Rust: well-formed inputs are cut, spliced and garbled, and a check says what must hold of each.
//!
//! Taken into each crate that reads foreign bytes (`#[path]` in its `lib.rs`), because the targets stand beside the
//! code that they try. A target runs for two seconds in `make test` and for two minutes in `make test-long`. Its seed
//! is new each time and printed; `FIRM_FUZZ_SEED` repeats a run. proptest shrinks what fails. What is found becomes a
//! test of its own beside the code: nothing here remembers it.

#![allow(dead_code, reason = "each crate uses its part")]
#![allow(clippy::print_stderr, reason = "a seed that isn't printed repeats nothing")]

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};

const TIME: Duration = Duration::from_secs(2);
const TIME_LONG: Duration = Duration::from_mins(2);
/// What finding a small example of a failure may take.
const SHRINK_MS_MAX: u32 = 20_000;
/// Edits of one input: many, and nothing of its form is left.
const EDITS_MAX: usize = 8;
/// Bytes that one edit repeats: beyond every bound of one line or header.
const REPEATS_MAX: usize = 70_000;

/// Tries `check` on inputs of `inputs` until the time is over, and panics with a small one that fails.
#[track_caller]
pub(crate) fn fuzz<S: Strategy>(name: &str, inputs: &S, check: impl Fn(S::Value) -> TestCaseResult) {
    let seed = match std::env::var("FIRM_FUZZ_SEED") {
        Ok(seed) => seed.parse().expect("FIRM_FUZZ_SEED is a number"),
        Err(_) => RandomState::new().hash_one(name),
    };
    let time = if std::env::var_os("FIRM_TEST_LONG").is_some() { TIME_LONG } else { TIME };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&u64::to_be_bytes(seed));
    let config = Config {
        failure_persistence: None,
        max_shrink_time: SHRINK_MS_MAX,
        max_shrink_iters: u32::MAX,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let deadline = Instant::now() + time;
    let mut tried = 0_u64;
    while Instant::now() < deadline {
        let input = inputs.new_tree(&mut runner).expect("no input is filtered away");
        if let Err(failure) = runner.run_one(input, &check) {
            panic!("{name}: input {tried} of FIRM_FUZZ_SEED={seed}: {failure}");
        }
        tried += 1;
    }
    eprintln!("{name}: {tried} inputs, FIRM_FUZZ_SEED={seed}");
}

/// Bytes that a failure shows as text.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Input(pub(crate) Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

impl std::ops::Deref for Input {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// One change of an input.
#[derive(Clone, Debug)]
enum Edit {
    Flip(Index, u8),
    Put(Index, Vec<u8>),
    Cut(Index, Index),
    End(Index),
    Repeat(Index, usize),
    Double(Index, Index),
    /// A word of the format, where it doesn't belong.
    Word(Index, Index),
    /// A part of another seed.
    Splice(Index, Index, Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(at, bits)| Edit::Flip(at, bits)),
        3 => (at(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Edit::Put(at, bytes)),
        2 => (at(), at()).prop_map(|(from, to)| Edit::Cut(from, to)),
        1 => at().prop_map(Edit::End),
        1 => (at(), 1..REPEATS_MAX).prop_map(|(at, times)| Edit::Repeat(at, times)),
        1 => (at(), at()).prop_map(|(from, to)| Edit::Double(from, to)),
        6 => (at(), at()).prop_map(|(at, word)| Edit::Word(at, word)),
        2 => (at(), at(), at(), at()).prop_map(|(at, seed, from, to)| Edit::Splice(at, seed, from, to)),
    ]
}

/// Inputs that were one of `seeds` before some edits. `words` are what the format's grammar is made of.
pub(crate) fn mutated(seeds: Vec<Vec<u8>>, words: &'static [&'static str]) -> impl Strategy<Value = Input> {
    (any::<Index>(), vec(edit(), 0..=EDITS_MAX)).prop_map(move |(seed, edits)| {
        let mut input = seeds[seed.index(seeds.len())].clone();
        for edit in edits {
            apply(&mut input, edit, &seeds, words);
        }
        Input(input)
    })
}

/// The same as text. What is no UTF-8 becomes the sign for that, as it does in most that read text.
pub(crate) fn mutated_text(seeds: &[&str], words: &'static [&'static str]) -> impl Strategy<Value = String> + use<> {
    let seeds = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    mutated(seeds, words).prop_map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
}

/// `file` as a bad disk gives it back: bits flipped, runs of other bytes in place of its own, its end lost.
pub(crate) fn damaged(file: Vec<u8>) -> impl Strategy<Value = Input> {
    let run = (any::<Index>(), prop_oneof![vec(any::<u8>(), 1..16), (1..5_000_usize).prop_map(|size| vec![0; size])]);
    let flip = (any::<Index>(), 0..8_u32);
    let end = proptest::option::weighted(0.1, any::<Index>());
    (vec(flip, 0..=EDITS_MAX), vec(run, 0..=2), end).prop_map(move |(flips, runs, end)| {
        let mut file = file.clone();
        for (at, bit) in flips {
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
        }
        for (at, run) in runs {
            let at = at.index(file.len());
            file.iter_mut().skip(at).zip(run).for_each(|(byte, other)| *byte = other);
        }
        if let Some(end) = end {
            file.truncate(end.index(file.len()));
        }
        Input(file)
    })
}

fn apply(input: &mut Vec<u8>, edit: Edit, seeds: &[Vec<u8>], words: &[&str]) {
    // A place between two bytes, the ends included.
    let place = |input: &[u8], at: Index| at.index(input.len() + 1);
    let range = |input: &[u8], from: Index, to: Index| {
        let (from, to) = (place(input, from), place(input, to));
        from.min(to)..from.max(to)
    };
    let put = |input: &mut Vec<u8>, at: Index, bytes: &[u8]| {
        let at = place(input, at);
        drop(input.splice(at..at, bytes.iter().copied()));
    };
    match edit {
        Edit::Flip(at, bits) if !input.is_empty() => {
            let at = at.index(input.len());
            input[at] ^= bits.max(1);
        }
        Edit::Put(at, bytes) => put(input, at, &bytes),
        Edit::Cut(from, to) => drop(input.drain(range(input, from, to))),
        Edit::End(at) => input.truncate(place(input, at)),
        Edit::Repeat(at, times) => {
            let at = place(input, at);
            let byte = input.get(at).copied().unwrap_or(b'a');
            drop(input.splice(at..at, std::iter::repeat_n(byte, times)));
        }
        Edit::Double(from, to) => {
            let part = input[range(input, from, to)].to_vec();
            put(input, to, &part);
        }
        Edit::Word(at, word) if !words.is_empty() => put(input, at, words[word.index(words.len())].as_bytes()),
        // There is nothing to flip, or no word to put.
        Edit::Flip(..) | Edit::Word(..) => {}
        Edit::Splice(at, seed, from, to) => {
            let other = &seeds[seed.index(seeds.len())];
            put(input, at, &other[range(other, from, to)]);
        }
    }
}
