//! The job, step by step: fetch, probe, convert, probe again, store.
//!
//! Everything that a step makes belongs to a value that undoes it when dropped: the working directory, the running
//! ffmpeg, the open upload. So there is one way to give up: drop the future. An error, a stop, a timeout and a client
//! that hung up all leave no partial object in the bucket and no process on the machine.

use std::{path::PathBuf, sync::Arc};

use serde::Serialize;

use crate::{
    bucket::{self, Buckets},
    error::Error,
    ffmpeg::{Failure, Ffmpeg, Video},
    job::{Job, Meter, Stage},
    process::Workspace,
    request::{Key, Order},
};

/// Everything a job needs; cheap to clone.
#[derive(Clone)]
pub struct Transcoder {
    /// The buckets with the objects.
    pub buckets: Arc<dyn Buckets>,
    /// The programs.
    pub ffmpeg: Ffmpeg,
    /// The directory for working files: room for the source and the product of each job.
    pub work_dir: PathBuf,
    /// The largest object that is accepted, in bytes.
    pub max_object: u64,
}

/// The product: the answer to the request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Product {
    /// The bucket it is in.
    pub bucket: String,
    /// Its name there: `a/480P.mov`.
    pub object: String,
    /// In bytes.
    pub size: u64,
    /// In seconds.
    pub duration: f64,
    /// The codec of the picture: `h264`.
    pub codec: String,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

impl Transcoder {
    /// Carries out the order, and reports progress to `job`.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; [`Error::Stopped`] when `job` was stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills ffmpeg, aborts the upload and removes the working files. Only the last step cannot be
    /// undone: once the store was asked to complete the upload, the product may appear.
    pub async fn run<J: Job>(&self, order: &Order, job: &J) -> Result<Product, Error> {
        tokio::select! {
            biased;
            () = job.stopped() => Err(Error::Stopped),
            product = self.work(order, job) => product,
        }
    }

    async fn work<J: Job>(&self, order: &Order, job: &J) -> Result<Product, Error> {
        let mut meter = Meter::start(job, "fetching");
        let bucket = self.buckets.open(&order.bucket)?;
        let workspace = Workspace::create(&self.work_dir).map_err(Error::io("make a working directory"))?;

        let source = bucket::Source {
            store: &*bucket,
            bucket: &order.bucket,
            object: &order.object,
        };
        let fetched = source.copy_to(workspace.file(SOURCE), self.max_object, |done, all| {
            meter.advance(Stage::Fetching, done as f64, all as f64, || {
                format!("fetching, {:.1} of {:.1} MB", megabytes(done), megabytes(all))
            });
        });
        fetched.await?;

        let blame = |failure| blame(failure, &order.object);
        let video = self.ffmpeg.probe(&workspace, SOURCE).await.map_err(blame)?;
        let length = video.duration.unwrap_or(0.0);
        let product = format!("product.{}", order.format.name());
        let converted = self
            .ffmpeg
            .convert(&workspace, (SOURCE, &product), order.format, |now| {
                let speed = now
                    .speed
                    .as_ref()
                    .map(|speed| format!(" at {speed}"))
                    .unwrap_or_default();
                meter.advance(Stage::Transcoding, now.seconds, length, || {
                    format!("transcoding, {:.1} of {length:.1} s{speed}", now.seconds)
                });
            });
        let said = converted.await.map_err(blame)?;

        // ffmpeg takes the end of a truncated file for the end of the video, and reports no error.
        let made = match self.ffmpeg.probe(&workspace, &product).await {
            Ok(made) if made.duration.unwrap_or(0.0) >= length * SHORTEST - SLACK => made,
            Err(Failure::Machine(error)) => return Err(error),
            Ok(_) | Err(Failure::Damaged(_) | Failure::NoVideo) => {
                return Err(blame(Failure::Damaged(said)));
            }
        };

        let stored = bucket::store(&*bucket, &order.product, workspace.file(&product), |done, all| {
            meter.advance(Stage::Storing, done as f64, all as f64, || {
                format!("storing, {:.1} of {:.1} MB", megabytes(done), megabytes(all))
            });
        });
        let size = stored.await?;
        meter.finish("done");
        Ok(Product::new(order, size, made))
    }
}

impl Product {
    fn new(order: &Order, size: u64, video: Video) -> Self {
        Self {
            bucket: order.bucket.to_string(),
            object: order.product.to_string(),
            size,
            duration: video.duration.unwrap_or(0.0),
            codec: video.codec,
            width: video.width,
            height: video.height,
        }
    }
}

fn blame(failure: Failure, object: &Key) -> Error {
    let object = object.clone();
    match failure {
        Failure::Damaged(said) => Error::CorruptVideo { object, said },
        Failure::NoVideo => Error::NoVideo { object },
        Failure::Machine(error) => error,
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The source's name in the working directory: ours, and without an extension, since ffmpeg detects the format.
const SOURCE: &str = "source";
/// A product may be a little shorter than its source claimed: the last sound and the last picture seldom end together,
/// and the length in a container is an estimate.
const SHORTEST: f64 = 0.9;
/// In seconds: for clips so short that a tenth is less than a frame.
const SLACK: f64 = 0.5;
