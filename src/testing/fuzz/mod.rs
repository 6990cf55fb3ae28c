//! What is done with bytes that anybody may have sent: the bodies of the fuzz targets.
//!
//! Here, since most of what they call is private; run by `lab/fuzz/`, and by an ordinary test over a corpus and what a few
//! thousand random changes make of it. Each takes any bytes whatever, and panics if what came of them is wrong: beside
//! never panicking, a parser has a law of its own.
//!
//! No public interface: it changes as the parsers do.

mod codec;
mod documents;
mod headers;
mod uris;

/// One thing to throw bytes at.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the binary in `lab/fuzz/`, and of the folder of its corpus.
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
