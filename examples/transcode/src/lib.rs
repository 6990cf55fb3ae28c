//! A video transcoder behind one `POST`: the job that takes minutes, written as an ordinary axum handler.
//!
//! The library is the job and would do the same without the layer: it reads an object from a [bucket], runs
//! [ffmpeg](Ffmpeg), writes the product back, tells a [`Job`] how far it is and gives up when told to. `main.rs` wraps
//! it in the layer, and that is all there is between a handler and a task with a queue, progress and a stop button.
//!
//! | file | what it shows |
//! |---|---|
//! | `main.rs` | the wiring: a store that outlives the app, layer, task API, graceful shutdown |
//! | `callbacks.rs` | the callback functions: where it is told how a job ended |
//! | `app.rs` | the handler, and errors that are always JSON |
//! | `job.rs` | reporting progress and hearing of a stop, for asynchronous and plain requests alike |
//! | `transcoder.rs` | the job step by step, and why leaving it at any step leaves nothing behind |
//! | `request.rs`, `format.rs` | what is accepted, argued |
//! | `bucket/` | streaming objects in and out, whole or not at all |
//! | `ffmpeg.rs`, `process.rs` | a child process with bounds: what it may open, how long it may be silent, who ends and reaps it |
//! | `error.rs` | which failure is the caller's, which deserves a retry |
//! | `settings.rs` | the environment variables |
#![forbid(unsafe_code)]

mod app;
pub mod bucket;
mod error;
mod ffmpeg;
mod format;
mod job;
mod process;
mod request;
mod settings;
mod transcoder;

pub use self::{
    app::app,
    error::Error,
    ffmpeg::{Conversion, Ffmpeg, Video},
    format::Format,
    job::Job,
    process::{Said, Workspace},
    request::{BucketName, Key, Order, TranscodeRequest},
    settings::{DatabaseUrl, Invalid, Settings, Store},
    transcoder::{Product, Transcoder},
};
