//! Stores the extensions that an axum router outside of the layer adds to a request.
//!
//! Only axum can make these values. So the layer stores the pattern under which it is mounted, and makes the extensions
//! for a replay with a router that has this one pattern.

use std::{
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use axum::{
    RequestExt, Router,
    body::Body,
    extract::{DefaultBodyLimit, MatchedPath, NestedPath, OriginalUri, Request},
    response::Response,
    routing::any,
};
use bytes::Bytes;
use http::{Extensions, Uri, uri::PathAndQuery};
use http_body::Frame;
use serde::{Deserialize, Serialize};
use tower_service::Service;

use crate::{
    error::BoxError,
    layer::carry::{Carrier, Packed},
    task::target,
};

/// The carriers that are there by default.
pub(crate) fn carriers() -> Vec<Carrier> {
    vec![
        Carrier::new("axum.mount", pack_mount, |bytes, uri, extensions| {
            serde_json::from_slice::<Mount>(bytes)?.restore(uri, extensions)
        }),
        Carrier::new("axum.body-limit", pack_limit, |bytes, _, extensions| {
            restore_limit(serde_json::from_slice(bytes)?, extensions);
            Ok(())
        }),
    ]
}

/// The route that a router outside chose for a request.
#[derive(Serialize, Deserialize)]
struct Mount {
    original: Original,
    /// The pattern of the prefix that was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nested: Option<String>,
    /// The pattern of the route, if the router set one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    matched: Option<String>,
}

/// The target that the router outside got.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Original {
    /// A prefix of the path: the rest is the target that the layer got, so that an edited target keeps the prefix.
    After(String),
    /// The scheme, the authority, and the path with query.
    Whole([String; 3]),
}

fn pack_mount(uri: &Uri, extensions: &mut Extensions) -> Result<Packed, BoxError> {
    let Some(OriginalUri(original)) = extensions.get() else {
        return Ok(Packed::default());
    };
    let nested = extensions.get().map(|path: &NestedPath| path.as_str().to_owned());
    let matched = extensions.get().map(|path: &MatchedPath| path.as_str().to_owned());
    // Counts the original target and the path parameters, the prefix, and the matched route.
    let came = 2 + usize::from(nested.is_some()) + usize::from(nested.is_some() || matched.is_some());
    if nested.is_none() && matched.is_none() && original == uri {
        // A replay without a router outside has the same values.
        return Ok(Packed::nothing_for(came));
    }
    let mount = Mount {
        original: Original::of(original, uri),
        nested,
        matched,
    };
    Ok(Packed::new(serde_json::to_vec(&mount)?, came))
}

impl Original {
    fn of(original: &Uri, uri: &Uri) -> Self {
        let [scheme, authority, path] = target::parts(original);
        match path.strip_suffix(target::parts(uri)[2]) {
            Some(before) if scheme == target::parts(uri)[0] && authority == target::parts(uri)[1] => {
                Self::After(before.to_owned())
            }
            _ => Self::Whole([scheme, authority, path].map(str::to_owned)),
        }
    }

    /// The original target for the layer's target `uri`.
    fn read(&self, uri: &Uri) -> Option<Uri> {
        match self {
            Self::After(before) => {
                let [scheme, authority, path] = target::parts(uri);
                let path: PathAndQuery = format!("{before}{path}").try_into().ok()?;
                target::from_parts([scheme.as_bytes(), authority.as_bytes(), path.as_str().as_bytes()])
            }
            Self::Whole(parts) => target::from_parts([0, 1, 2].map(|part| parts[part].as_bytes())),
        }
    }
}

impl Mount {
    fn restore(&self, uri: &Uri, extensions: &mut Extensions) -> Result<(), BoxError> {
        let original = self.original.read(uri).ok_or("its original target is invalid")?;
        extensions.extend(self.led_to(&original).unwrap_or_default());
        extensions.insert(OriginalUri(original));
        Ok(())
    }

    /// The extensions that a router with these patterns gives a request for `uri`. `None` if no route matches, which
    /// can happen after an edit of the target.
    fn led_to(&self, uri: &Uri) -> Option<Extensions> {
        let here = any(async |request: Request| {
            let mut response = Response::new(Body::empty());
            *response.extensions_mut() = request.into_parts().0.extensions;
            response
        });
        let mut router = match (&self.nested, &self.matched) {
            (Some(nested), matched) => {
                let rest = matched
                    .as_ref()
                    .and_then(|matched| matched.strip_prefix(nested.as_str()));
                // The root of a nested service is a separate route, with or without a slash after the prefix.
                match rest.filter(|rest| rest.len() > 1 && rest.starts_with('/')) {
                    Some(rest) => Router::new().nest(nested, Router::new().route(rest, here)),
                    None => Router::new().nest_service(nested, here),
                }
            }
            (None, Some(matched)) => Router::new().route(matched, here),
            (None, None) => return None,
        };
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.clone();
        // The router never waits, so one poll is enough.
        let answer = pin!(router.call(request)).poll(&mut Context::from_waker(Waker::noop()));
        match answer {
            Poll::Ready(Ok(mut response)) if response.status().is_success() => {
                Some(mem::take(response.extensions_mut()))
            }
            _ => None,
        }
    }
}

/// The default limit of axum's extractors.
const DEFAULT_LIMIT: u64 = 2 * 1024 * 1024;

/// The limit of a `DefaultBodyLimit` outside, unless it is the default; `null` for no limit.
fn pack_limit(_: &Uri, extensions: &mut Extensions) -> Result<Packed, BoxError> {
    if extensions.is_empty() {
        return Ok(Packed::default());
    }
    // axum has no accessor for the limit, but `with_limited_body` applies it to a body.
    let mut request = Request::new(Body::new(OfNoLength));
    mem::swap(request.extensions_mut(), extensions);
    let mut request = request.with_limited_body();
    mem::swap(request.extensions_mut(), extensions);
    let limit = http_body::Body::size_hint(request.body()).upper();
    match limit {
        Some(DEFAULT_LIMIT) => Ok(Packed::default()),
        _ => Ok(Packed::new(serde_json::to_vec(&limit)?, 1)),
    }
}

fn restore_limit(limit: Option<u64>, extensions: &mut Extensions) {
    let limit = match limit.map(usize::try_from) {
        Some(Ok(limit)) => DefaultBodyLimit::max(limit),
        _ => DefaultBodyLimit::disable(),
    };
    let mut request = http::Request::new(());
    mem::swap(request.extensions_mut(), extensions);
    limit.apply(&mut request);
    mem::swap(request.extensions_mut(), extensions);
}

/// A body without a length.
struct OfNoLength;

impl http_body::Body for OfNoLength {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(None)
    }
}
