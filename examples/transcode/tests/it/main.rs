//! The transcoder as its callers see it: requests in, JSON out, with real files and a real ffmpeg.
//!
//! Linux only, since the tests search for leftover processes in `/proc`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "what cannot go on fails the test")]

mod giving_up;
mod killed;
mod place;
mod product;
mod refusals;
mod running;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
mod s3_server;
mod the_app;
