//! Request extensions that survive being stored.

use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::BoxError;

/// One kind of extension that is carried.
pub(crate) struct Carrier {
    name: String,
    encode: Box<Encode>,
    decode: Box<Decode>,
}

type Encode = dyn Fn(&Extensions) -> Result<Option<Bytes>, BoxError> + Send + Sync;
type Decode = dyn Fn(&[u8], &mut Extensions) -> Result<(), BoxError> + Send + Sync;

/// An extension could not be carried.
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
        Self {
            name,
            encode: Box::new(move |extensions| {
                let value = extensions.get::<T>();
                value.map(|value| encode(value).map(Bytes::from)).transpose()
            }),
            decode: Box::new(move |bytes, extensions| {
                extensions.insert(decode(bytes)?);
                Ok(())
            }),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Takes what is carried out of a request's extensions.
pub(crate) fn pack(carriers: &[Carrier], extensions: &Extensions) -> Result<Vec<(String, Bytes)>, CarryError> {
    let mut carried = Vec::new();
    for carrier in carriers {
        let encoded = (carrier.encode)(extensions).map_err(|source| carrier.failed("stored", source))?;
        carried.extend(encoded.map(|bytes| (carrier.name.clone(), bytes)));
    }
    Ok(carried)
}

/// Puts what was carried into the extensions of a replay. What no carrier knows any longer is left out.
pub(crate) fn unpack(
    carriers: &Arc<[Carrier]>,
    carried: &[(String, Bytes)],
    extensions: &mut Extensions,
) -> Result<(), CarryError> {
    for (name, bytes) in carried {
        if let Some(carrier) = carriers.iter().find(|carrier| carrier.name == *name) {
            (carrier.decode)(bytes, extensions).map_err(|source| carrier.failed("restored", source))?;
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
