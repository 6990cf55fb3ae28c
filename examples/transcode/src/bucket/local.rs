//! Buckets as the subdirectories of one directory: enough for one machine with a disk, and for trying the app.
//!
//! Links inside a bucket are followed, wherever they lead: a user who can make one there could read the target anyway.
//! Names from requests cannot lead out: see [`Key`](crate::Key).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use object_store::{ObjectStore, local::LocalFileSystem};

use crate::{bucket::Buckets, error::Error, request::BucketName};

/// The bucket `my-bucket` is the directory `my-bucket` of the root.
#[derive(Clone, Debug)]
pub struct LocalBuckets {
    root: PathBuf,
}

impl LocalBuckets {
    /// The buckets under `root`.
    #[must_use]
    pub fn new(root: impl AsRef<Path>) -> Self {
        Self {
            root: root.as_ref().to_owned(),
        }
    }
}

impl Buckets for LocalBuckets {
    fn open(&self, name: &BucketName) -> Result<Arc<dyn ObjectStore>, Error> {
        let directory = self.root.join(name.as_str());
        if !directory.is_dir() {
            return Err(Error::NoBucket(name.clone()));
        }
        let bucket = LocalFileSystem::new_with_prefix(directory).map_err(Error::bucket("opened"))?;
        // When a task is reported as succeeded, its product must be on the disk, and not in a cache.
        Ok(Arc::new(bucket.with_fsync(true)))
    }
}
