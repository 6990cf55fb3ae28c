//! [`Console`]: the service.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION,
        REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
    request::Parts,
};
use tower_service::Service;

use crate::{
    console::{
        address::{Address, to_root},
        assets::{self, Asset},
    },
    engine::Tasks,
    layer::ResponseBody,
    wire::host,
};

/// The web console as a service, for a router to nest or a server to call. The [module](crate::console) shows how.
///
/// It holds no tasks, no handle to them, and no secret. A visitor who can open the page sees nothing but the page.
#[derive(Clone)]
pub struct Console {
    api_base: Arc<str>,
    api: Option<Arc<str>>,
    mount: Arc<str>,
    prefix: Arc<str>,
    hosts: Arc<[Box<str>]>,
    /// Whether the task API is open to everybody. Shared with the API, which may be made later.
    is_open: Arc<AtomicBool>,
}

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// Only what the page needs from its own origin. Images may be `data:` URLs, since a payload may be an image.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

impl Console {
    /// A console at `/console`, for the task API of `tasks`, which is at the builder's `api_base`.
    ///
    /// The service expects paths without its own prefix, as a router's `nest_service` passes them on.
    #[must_use]
    pub fn new(tasks: &Tasks) -> Self {
        let address = tasks.api_address();
        Self {
            api_base: address.base.into(),
            hosts: address.hosts,
            is_open: address.is_open,
            api: None,
            mount: "/console".into(),
            prefix: "".into(),
        }
    }

    /// The path where the console is mounted, as the layer sees it, if not `/console`. The page computes the addresses
    /// of the API and the application from it.
    #[must_use]
    pub fn mounted_at(mut self, path: &str) -> Self {
        self.mount = path.into();
        self
    }

    /// Where browsers find the task API: a path, or a reference relative to the console's address, which ends with a
    /// slash. It must be on the same origin, since the page may not call another.
    ///
    /// Needed only if the console and the API are not in the same application.
    #[must_use]
    pub fn api(mut self, reference: impl Into<Arc<str>>) -> Self {
        self.api = Some(reference.into());
        self
    }

    /// Mounts the console at `prefix`, and removes `prefix` from paths, for use without a router that does so, such as
    /// a plain hyper service.
    ///
    /// Paths that do not begin with `prefix` are answered 404.
    #[must_use]
    pub fn strip_prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.trim_end_matches('/').into();
        self.mounted_at(prefix)
    }

    fn answer(&self, request: &Parts) -> Response<ResponseBody> {
        if self.is_open.load(Ordering::Relaxed)
            && let Err(problem) = host::check(request, &self.hosts)
        {
            return problem.into_response(None);
        }
        let Some(address) = Address::of(request, &self.prefix) else {
            return not_found();
        };
        let page = matches!(address.path, "" | "/");
        let asset = address.path.strip_prefix('/').and_then(Asset::find);
        if !page && asset.is_none() {
            return not_found();
        }
        match request.method {
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => return about_methods(StatusCode::NO_CONTENT),
            _ => return about_methods(StatusCode::METHOD_NOT_ALLOWED),
        }
        if let Some(asset) = asset {
            return file(&request.headers, asset.kind.clone(), asset.etag.clone(), asset.body());
        }
        if let Some(target) = address.with_slash() {
            return redirect(&target);
        }
        let page = Bytes::from(self.page());
        let kind = HeaderValue::from_static("text/html; charset=utf-8");
        file(&request.headers, kind, assets::etag(&page), page)
    }

    fn page(&self) -> String {
        let root = to_root(&self.mount);
        let api = match &self.api {
            Some(api) => api.to_string(),
            None => format!("{root}{}", self.api_base.trim_start_matches('/')),
        };
        assets::PAGE
            .replace("{{api}}", &attribute(&api))
            .replace("{{root}}", &attribute(&root))
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console")
            .field("api", self.api.as_ref().unwrap_or(&self.api_base))
            .field("mount", &self.mount)
            .finish()
    }
}

impl<B> Service<Request<B>> for Console {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Ready<Result<Response<ResponseBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, _) = request.into_parts();
        let mut response = self.answer(&parts);
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, POLICY);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        );
        if parts.method == Method::HEAD {
            *response.body_mut() = ResponseBody::empty();
        }
        ready(Ok(response))
    }
}

/// A file, or 304 if the browser's copy is current. The browser asks every time, so that files of a new version never
/// mix with those of an old one.
fn file(asked: &HeaderMap, kind: HeaderValue, etag: HeaderValue, content: Bytes) -> Response<ResponseBody> {
    let known = asked.get_all(IF_NONE_MATCH).iter().any(|known| names(known, &etag));
    let mut response = match known {
        true => Response::new(ResponseBody::empty()),
        false => Response::new(ResponseBody::from(content.clone())),
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, etag);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        headers.insert(CONTENT_TYPE, kind);
        headers.insert(CONTENT_LENGTH, content.len().into());
    }
    response
}

/// Whether `If-None-Match` names this validator (RFC 9110 §13.1.2). Compared weakly, since a proxy may have weakened
/// it.
fn names(known: &HeaderValue, etag: &HeaderValue) -> bool {
    let known = known.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    known.into_iter().any(|known| {
        let strong = known.strip_prefix(b"W/").unwrap_or(known);
        strong == b"*" || strong == etag.as_bytes()
    })
}

fn redirect(address: &str) -> Response<ResponseBody> {
    let Ok(location) = HeaderValue::try_from(address) else {
        return not_found();
    };
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    response
}

fn about_methods(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(ALLOW, METHODS);
    response
}

fn not_found() -> Response<ResponseBody> {
    let text = Bytes::from_static(b"The console has nothing at this path.\n");
    let mut response = Response::new(ResponseBody::from(text));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Escapes text for an attribute between double quotes.
fn attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_validator_is_found_in_a_list_and_when_it_was_weakened() {
        let etag = HeaderValue::from_static("\"ab\"");
        for known in ["\"ab\"", "W/\"ab\"", "\"x\", \"ab\"", "*"] {
            assert!(names(&HeaderValue::from_static(known), &etag), "{known}");
        }
        for known in ["", "ab", "\"abc\"", "\"a\",\"b\""] {
            assert!(!names(&HeaderValue::from_static(known), &etag), "{known}");
        }
    }

    #[test]
    fn a_setting_does_not_break_out_of_its_attribute() {
        assert_eq!(attribute("/a\"><script>&"), "/a&quot;>&lt;script>&amp;");
    }
}
