//! What is done with bytes that anybody may have sent: the bodies of the fuzz targets.
//!
//! Here, since most of what they call is private; run by `fuzz/`, and by an ordinary test over a corpus and what a few
//! thousand random changes make of it. Each takes any bytes whatever, and panics if what came of them is wrong: beside
//! never panicking, a parser has a law of its own.
//!
//! No public interface: it changes as the parsers do.

mod codec;
mod documents;
mod headers;
mod uris;

use fastrand::Rng;

/// One thing to throw bytes at.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the binary in `fuzz/`, and of the folder of its corpus.
    pub name: &'static str,
    /// What is done with the bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "request_envelope",
        run: codec::request,
    },
    Target {
        name: "response_envelope",
        run: codec::response,
    },
    Target {
        name: "record",
        run: codec::record,
    },
    Target {
        name: "log_line",
        run: codec::log_line,
    },
    Target {
        name: "prefer",
        run: headers::prefer,
    },
    Target {
        name: "fc",
        run: headers::fc,
    },
    Target {
        name: "idempotency_key",
        run: headers::idempotency_key,
    },
    Target {
        name: "strip",
        run: headers::strip_headers,
    },
    Target {
        name: "forwarded",
        run: headers::forwarded,
    },
    Target {
        name: "retry_after",
        run: headers::retry_after,
    },
    Target {
        name: "paging",
        run: uris::paging_token,
    },
    Target {
        name: "query",
        run: uris::query,
    },
    Target {
        name: "ids",
        run: uris::ids,
    },
    Target {
        name: "edits",
        run: documents::edits,
    },
    Target {
        name: "documents",
        run: documents::documents,
    },
];

/// Runs the target of this name.
///
/// # Panics
///
/// If there is none, and as the target does.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("the target is in the list").run)(data);
}

/// Another input made of these, by a few changes: bits flipped, pieces cut, doubled, crossed, words of the trade put in.
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

/// Where the changes come from. The same seed gives the same changes.
#[derive(Debug)]
pub struct Mutator(Rng);

impl Mutator {
    /// Changes by this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }
}

/// What a change of single bytes would take long to find.
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
