//! Buckets on S3, or on any server with its API. `AWS_ACCESS_KEY_ID`, `AWS_REGION`, `AWS_ENDPOINT` and so on are read
//! from the environment, as object_store documents them.
//!
//! Only the app has the credentials: ffmpeg is started without them. They need `s3:GetObject`, `s3:PutObject` and
//! `s3:AbortMultipartUpload`, and also `s3:ListBucket`: without it, S3 answers "access denied" for a missing object.
//!
//! A process that is killed during an upload leaves parts behind, which no reader sees and which cost money. Let a
//! lifecycle rule of the bucket abort incomplete uploads after a day.

use std::sync::Arc;

use object_store::{
    ClientConfigKey, ObjectStore,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
};

use crate::{bucket::Buckets, error::Error, request::BucketName};

/// The buckets that the credentials in the environment can reach.
#[derive(Clone, Copy, Debug)]
pub struct S3Buckets;

impl Buckets for S3Buckets {
    // A client per job: it costs a handshake, and a job takes minutes.
    fn open(&self, name: &BucketName) -> Result<Arc<dyn ObjectStore>, Error> {
        let builder = patient(AmazonS3Builder::from_env(), |name| std::env::var_os(name).is_some());
        let bucket = builder.with_bucket_name(name.as_str()).build();
        Ok(Arc::new(bucket.map_err(Error::bucket("opened"))?))
    }
}

/// object_store ends a request 30 s after its start, and retries the rest of its body for 3 minutes. A film takes
/// longer on a slow line. So an object may take as long as an attempt may, and 30 s is the longest time without a byte,
/// unless the environment sets these limits.
fn patient(builder: AmazonS3Builder, is_set: impl Fn(&str) -> bool) -> AmazonS3Builder {
    let limits = [
        ("AWS_TIMEOUT", ClientConfigKey::Timeout, "1h"),
        ("AWS_READ_TIMEOUT", ClientConfigKey::ReadTimeout, "30s"),
    ];
    let open = limits.into_iter().filter(|(name, ..)| !is_set(name));
    open.fold(builder, |builder, (_, key, limit)| {
        builder.with_config(AmazonS3ConfigKey::Client(key), limit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_may_take_long_as_long_as_it_comes_and_the_environment_has_the_last_word() {
        let limits = |builder: AmazonS3Builder| {
            [ClientConfigKey::Timeout, ClientConfigKey::ReadTimeout]
                .map(|key| builder.get_config_value(&AmazonS3ConfigKey::Client(key)))
        };
        let text = |limit: &str| Some(limit.to_owned());
        let open = patient(AmazonS3Builder::new(), |_| false);
        assert_eq!(limits(open), [text("1h"), text("30s")]);
        let set = AmazonS3Builder::new().with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), "5s");
        let set = patient(set, |name| name == "AWS_TIMEOUT");
        assert_eq!(limits(set), [text("5s"), text("30s")]);
    }
}
