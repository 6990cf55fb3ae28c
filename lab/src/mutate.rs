//! Random changes of the input of a parser, with words that parsers treat specially.

use fastrand::Rng;

/// Makes another input from the corpus by a few changes: flips bits, cuts, doubles and crosses pieces, inserts special
/// words.
#[must_use]
pub fn mutated(corpus: &[Vec<u8>], random: &mut Mutator) -> Vec<u8> {
    let random = &mut random.0;
    let any = |random: &mut Rng| match corpus.len() {
        0 => Vec::new(),
        count => corpus[random.usize(0..count)].clone(),
    };
    let mut data = any(random);
    for _ in 0..random.usize(1..6) {
        let at = random.usize(0..=data.len());
        let end = (at + random.usize(0..16)).min(data.len());
        match random.u32(0..7) {
            0 if at < data.len() => data[at] ^= 1 << random.u32(0..8),
            1 if at < data.len() => data[at] = random.u8(..),
            2 => drop(data.drain(at..end)),
            3 => drop(data.splice(at..at, data[at..end].to_vec())),
            4 => {
                let other = any(random);
                let from = random.usize(0..=other.len());
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            5 => {
                let word = WORDS[random.usize(0..WORDS.len())];
                drop(data.splice(at..at, word.iter().copied()));
            }
            _ => data.insert(at, random.u8(..)),
        }
    }
    data
}

/// The source of the changes. The same seed gives the same changes.
#[derive(Debug)]
pub struct Mutator(Rng);

impl Mutator {
    /// Creates a source of changes from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }
}

/// Inputs that changes of single bytes would take long to find.
const WORDS: &[&[u8]] = &[
    b"\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-1",
    b"\"",
    b"\\\"",
    b",",
    b";",
    b"=",
    b"%",
    b"%2e%2e",
    b"%00",
    b"\n",
    b"\xc3",
    b"\xe2\x82",
    b"respond-async",
    b"wait=",
    b"prefer: ",
    b"connection: ",
    b"x-fc-invocation-type: async",
    b"REDACTED",
    b"null",
];
