//! A video transcoder behind one `POST`: a job that takes minutes, written as an ordinary axum handler.
//!
//! The library is the job, and works the same without the layer: it reads an object from a [bucket], runs
//! [ffmpeg](Ffmpeg), writes the product back, reports progress to a [`Job`] and gives up when stopped. `main.rs` wraps
//! it in the layer. That turns a handler into a task with a queue, progress and a stop button.
//!
//! | file | what it shows |
//! |---|---|
//! | `main.rs` | the wiring: a store that outlives the app, layer, task API, graceful shutdown |
//! | `callbacks.rs` | the callback functions, which are called at the end of a job |
//! | `app.rs` | the handler, and errors that are always JSON |
//! | `job.rs` | progress and stop signal, for asynchronous and plain requests alike |
//! | `transcoder.rs` | the job step by step, and why dropping it at any step leaves nothing behind |
//! | `request.rs`, `format.rs` | what is accepted, and why |
//! | `bucket/` | streaming objects in and out, whole or not at all |
//! | `ffmpeg.rs`, `process.rs` | a child process with limits on what it opens and how long it is silent |
//! | `error.rs` | which failures are the caller's, and which deserve a retry |
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
