//! Request extensions that are stored with the task.

use std::sync::Arc;

use bytes::Bytes;
use http::{Extensions, Uri};
use serde::{Serialize, de::DeserializeOwned};

use crate::{error::BoxError, task::CapturedRequest};

/// The extensions that are carried by default.
#[cfg(not(feature = "axum"))]
pub(crate) fn unasked() -> Vec<Carrier> {
    Vec::new()
}

#[cfg(feature = "axum")]
pub(crate) use super::router::carriers as unasked;

/// Stores one kind of extension with the task, and restores it for a replay.
pub(crate) struct Carrier {
    name: String,
    encode: Box<Encode>,
    decode: Box<Decode>,
}

type Encode = dyn Fn(&Uri, &mut Extensions) -> Result<Packed, BoxError> + Send + Sync;
type Decode = dyn Fn(&[u8], &Uri, &mut Extensions) -> Result<(), BoxError> + Send + Sync;

/// What one carrier stores of the extensions of a request. The extensions stay unchanged.
#[derive(Default)]
pub(crate) struct Packed {
    bytes: Option<Bytes>,
    /// The number of extensions that a replay has again.
    extensions: usize,
}

impl Packed {
    pub(crate) fn new(bytes: Vec<u8>, extensions: usize) -> Self {
        Self {
            bytes: Some(bytes.into()),
            extensions,
        }
    }

    /// Stores no bytes; a replay has this many extensions all the same.
    #[cfg(feature = "axum")]
    pub(crate) fn nothing_for(extensions: usize) -> Self {
        Self {
            bytes: None,
            extensions,
        }
    }
}

/// The error of an extension that cannot be stored or restored.
#[derive(Debug, thiserror::Error)]
#[error("the request extension {name:?} cannot be {step}")]
pub(crate) struct CarryError {
    name: String,
    step: &'static str,
    source: BoxError,
}

impl Carrier {
    pub(crate) fn serde<T>(name: String) -> Self
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    {
        Self::with::<T, _, _>(
            name,
            |value| serde_json::to_vec(value).map_err(Into::into),
            |bytes| serde_json::from_slice(bytes).map_err(Into::into),
        )
    }

    pub(crate) fn with<T, E, D>(name: String, encode: E, decode: D) -> Self
    where
        T: Clone + Send + Sync + 'static,
        E: Fn(&T) -> Result<Vec<u8>, BoxError> + Send + Sync + 'static,
        D: Fn(&[u8]) -> Result<T, BoxError> + Send + Sync + 'static,
    {
        Self::new(
            name,
            move |_, extensions| match extensions.get::<T>() {
                Some(value) => encode(value).map(|bytes| Packed::new(bytes, 1)),
                None => Ok(Packed::default()),
            },
            move |bytes, _, extensions| {
                extensions.insert(decode(bytes)?);
                Ok(())
            },
        )
    }

    /// Like [`with`](Self::with), but both functions also get the target of the request and all its extensions.
    pub(crate) fn new(
        name: impl Into<String>,
        encode: impl Fn(&Uri, &mut Extensions) -> Result<Packed, BoxError> + Send + Sync + 'static,
        decode: impl Fn(&[u8], &Uri, &mut Extensions) -> Result<(), BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            encode: Box::new(encode),
            decode: Box::new(decode),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// The carried extensions of a request, and as [`CapturedRequest::LEFT_OUT`] the number of the others, if not 0.
pub(crate) fn pack(
    carriers: &[Carrier],
    uri: &Uri,
    extensions: &mut Extensions,
) -> Result<Vec<(String, Bytes)>, CarryError> {
    let (there, mut packed) = (extensions.len(), 0);
    let mut carried = Vec::new();
    for carrier in carriers {
        let found = (carrier.encode)(uri, extensions).map_err(|source| carrier.failed("stored", source))?;
        packed += found.extensions;
        carried.extend(found.bytes.map(|bytes| (carrier.name.clone(), bytes)));
    }
    let left_out = there.saturating_sub(packed);
    if left_out > 0 {
        carried.push((CapturedRequest::LEFT_OUT.into(), left_out.to_string().into()));
    }
    Ok(carried)
}

/// Restores the carried extensions for a replay to `uri`. Values without a carrier are left out.
pub(crate) fn unpack(
    carriers: &Arc<[Carrier]>,
    carried: &[(String, Bytes)],
    uri: &Uri,
    extensions: &mut Extensions,
) -> Result<(), CarryError> {
    for (name, bytes) in carried {
        if let Some(carrier) = carriers.iter().find(|carrier| carrier.name == *name) {
            (carrier.decode)(bytes, uri, extensions).map_err(|source| carrier.failed("restored", source))?;
        }
    }
    Ok(())
}

impl Carrier {
    fn failed(&self, step: &'static str, source: BoxError) -> CarryError {
        CarryError {
            name: self.name.clone(),
            step,
            source,
        }
    }
}
