//! Objects in and out of a bucket: as streams, and whole or not at all.
//!
//! A product appears under its name only when its last byte is in the store: by a rename in a directory, by completing
//! a multipart upload on S3. An error, or dropping the future, aborts the upload.

mod local;
#[cfg(feature = "s3")]
mod s3;

use std::{path::PathBuf, sync::Arc};

use axum::body::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use object_store::{GetResult, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt, BufWriter},
};

use crate::{
    error::Error,
    request::{BucketName, Key},
};

pub use self::local::LocalBuckets;
#[cfg(feature = "s3")]
pub use self::s3::S3Buckets;

/// Finds buckets by name.
pub trait Buckets: Send + Sync + 'static {
    /// The bucket of this name.
    ///
    /// # Errors
    ///
    /// [`Error::NoBucket`] if it is missing. A store that cannot tell yet returns that error when an object is read.
    fn open(&self, name: &BucketName) -> Result<Arc<dyn ObjectStore>, Error>;
}

/// An object to read, with the names that the caller sent.
pub(crate) struct Source<'a> {
    pub(crate) store: &'a dyn ObjectStore,
    pub(crate) bucket: &'a BucketName,
    pub(crate) object: &'a Key,
}

impl Source<'_> {
    /// Copies the object into a new file at `path`, unless it is larger than `limit`. Reports `(bytes so far, all)`.
    pub(crate) async fn copy_to(
        &self,
        path: PathBuf,
        limit: u64,
        mut on_progress: impl FnMut(u64, u64),
    ) -> Result<(), Error> {
        let found = self.store.get(self.object.as_path()).await;
        let found = found.map_err(|error| self.failure(error))?;
        let size = found.meta.size;
        if size > limit {
            return Err(Error::ObjectTooLarge {
                object: self.object.clone(),
                size,
                limit,
            });
        }

        let io = || Error::io("make the working copy");
        let mut file = BufWriter::with_capacity(BUFFER, File::create_new(path).await.map_err(io())?);
        let mut pieces = Pieces::of(found);
        let mut copied = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| self.failure(error))?;
            file.write_all(&piece).await.map_err(io())?;
            copied += piece.len() as u64;
            on_progress(copied, size);
        }
        file.flush().await.map_err(io())
    }

    fn failure(&self, error: object_store::Error) -> Error {
        match error {
            // S3 tells a missing bucket from a missing object only in the text of its answer.
            object_store::Error::NotFound { source, .. } if source.to_string().contains("NoSuchBucket") => {
                Error::NoBucket(self.bucket.clone())
            }
            object_store::Error::NotFound { .. } => Error::NoObject {
                bucket: self.bucket.clone(),
                object: self.object.clone(),
            },
            // `480P.mp4/x`, where `480P.mp4` is a file of a directory bucket.
            source if is_not_a_directory(&source) => Error::NoObject {
                bucket: self.bucket.clone(),
                object: self.object.clone(),
            },
            error => Error::bucket("read")(error),
        }
    }
}

/// An object in pieces. The stream of a directory bucket has pieces of 8 KiB, each read on another thread, which is
/// slow for a film: so its files are read here in larger pieces.
enum Pieces {
    File(File),
    Stream(BoxStream<'static, object_store::Result<Bytes>>),
}

impl Pieces {
    fn of(found: GetResult) -> Self {
        match found.payload {
            GetResultPayload::File(file, _) => Self::File(File::from_std(file)),
            GetResultPayload::Stream(pieces) => Self::Stream(pieces),
        }
    }

    async fn next(&mut self) -> Option<object_store::Result<Bytes>> {
        match self {
            Self::Stream(pieces) => pieces.next().await,
            Self::File(file) => {
                let mut piece = Vec::with_capacity(BUFFER);
                match file.take(BUFFER as u64).read_to_end(&mut piece).await {
                    Ok(0) => None,
                    Ok(_) => Some(Ok(piece.into())),
                    Err(source) => Some(Err(object_store::Error::Generic {
                        store: "file",
                        source: source.into(),
                    })),
                }
            }
        }
    }
}

fn is_not_a_directory(error: &object_store::Error) -> bool {
    let chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    chain
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::NotADirectory)
}

/// Writes the file at `path` to the bucket as `key`. Reports `(bytes so far, all)`, and returns its size.
pub(crate) async fn store(
    store: &dyn ObjectStore,
    key: &Key,
    path: PathBuf,
    mut on_progress: impl FnMut(u64, u64),
) -> Result<u64, Error> {
    let read = || Error::io("read the product");
    let unwritable = || Error::bucket("written");
    let mut file = File::open(path).await.map_err(read())?;
    let size = file.metadata().await.map_err(read())?.len();

    let mut upload = Upload(Some(store.put_multipart(key.as_path()).await.map_err(unwritable())?));
    let mut sent = 0;
    loop {
        let mut part = Vec::with_capacity(PART.min(size.saturating_sub(sent)) as usize);
        (&mut file).take(PART).read_to_end(&mut part).await.map_err(read())?;
        if part.is_empty() {
            break;
        }
        sent += part.len() as u64;
        upload.part(part).await.map_err(unwritable())?;
        on_progress(sent, size);
    }
    upload.complete().await.map_err(unwritable())?;
    Ok(sent)
}

/// An upload that is aborted unless it is completed.
struct Upload(Option<Box<dyn MultipartUpload>>);

impl Upload {
    async fn part(&mut self, bytes: Vec<u8>) -> object_store::Result<()> {
        match &mut self.0 {
            Some(upload) => upload.put_part(bytes.into()).await,
            None => Ok(()),
        }
    }

    async fn complete(mut self) -> object_store::Result<()> {
        if let Some(upload) = &mut self.0 {
            upload.complete().await?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // A directory's upload removes its file when dropped; on S3 the parts would stay, and cost money.
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                let _ = upload.abort().await;
            });
        }
    }
}

/// Pieces of an object can be small, and each write to a file goes to another thread.
const BUFFER: usize = 1 << 20;
/// S3 requires parts of at least 5 MiB, and at most 10,000 of them: this allows 80 GB, and fits into memory.
const PART: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> (tempfile::TempDir, Arc<dyn ObjectStore>) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("b")).unwrap();
        let store = LocalBuckets::new(root.path())
            .open(&BucketName::parse("b").unwrap())
            .unwrap();
        (root, store)
    }

    #[tokio::test]
    async fn several_parts_arrive_as_one_object() {
        let (root, bucket) = bucket();
        let bytes: Vec<u8> = (0..PART as usize * 2 + 7).map(|i| (i % 251) as u8).collect();
        let file = root.path().join("product");
        std::fs::write(&file, &bytes).unwrap();
        let key = Key::parse("object", "a/deep/product.mov").unwrap();
        let mut told = Vec::new();

        let size = store(&*bucket, &key, file, |sent, all| told.push((sent, all)))
            .await
            .unwrap();

        let all = bytes.len() as u64;
        assert_eq!(size, all);
        assert_eq!(told, [(PART, all), (2 * PART, all), (all, all)]);
        assert_eq!(std::fs::read(root.path().join("b/a/deep/product.mov")).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(root.path().join("b/a/deep")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn an_upload_that_is_given_up_leaves_nothing() {
        let (root, bucket) = bucket();
        let key = Key::parse("object", "product.mov").unwrap();
        let mut upload = Upload(Some(bucket.put_multipart(key.as_path()).await.unwrap()));
        upload.part(vec![7; 100]).await.unwrap();
        assert!(bucket.get(key.as_path()).await.is_err());

        drop(upload);

        let gone = async {
            while std::fs::read_dir(root.path().join("b")).unwrap().count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), gone)
            .await
            .unwrap();
    }
}
