//! Buckets on S3, or on anything that speaks its API: `AWS_ACCESS_KEY_ID`, `AWS_REGION`, `AWS_ENDPOINT` and the like are
//! read from the environment, as object_store documents them.
//!
//! Credentials are the app's alone: ffmpeg is started without them.
//!
//! A process killed in the middle of an upload leaves parts behind, which no reader sees and which cost money: let a
//! lifecycle rule of the bucket abort incomplete uploads after a day.

use std::sync::Arc;

use object_store::{ObjectStore, aws::AmazonS3Builder};

use crate::{bucket::Buckets, error::Error, request::BucketName};

/// The buckets that the credentials in the environment can reach.
#[derive(Clone, Copy, Debug)]
pub struct S3Buckets;

impl Buckets for S3Buckets {
    // A client per job: it costs a handshake, and a job takes minutes.
    fn open(&self, name: &BucketName) -> Result<Arc<dyn ObjectStore>, Error> {
        let bucket = AmazonS3Builder::from_env().with_bucket_name(name.as_str()).build();
        let bucket = bucket.map_err(|source| Error::BucketUnavailable {
            doing: "opened",
            source,
        })?;
        Ok(Arc::new(bucket))
    }
}
