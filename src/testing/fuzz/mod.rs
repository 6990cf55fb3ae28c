//! The bodies of the fuzz targets: functions that run on any bytes that a client may send.
//!
//! They are here because most of what they call is private. `lab/fuzz/` runs them, and so does an ordinary test, over a
//! corpus and a few thousand random changes of it. Each function accepts any bytes, and panics if the result is wrong:
//! a parser must never panic, and must also keep a rule of its own.
//!
//! This is not a public interface. It changes with the parsers.

mod codec;
mod documents;
mod headers;
mod uris;

/// A function to fuzz.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of the binary in `lab/fuzz/`, and of the folder of its corpus.
    pub name: &'static str,
    /// The function, which takes the bytes.
    pub run: fn(&[u8]),
}

/// All targets.
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
/// If there is no such target, or if the target panics.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("the target is in the list").run)(data);
}
