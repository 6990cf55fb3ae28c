//! [`ApiLinks`]: the address of the task API, and of a task in it.

use std::fmt::Display;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use serde::Serialize;

use crate::{
    engine::ApiAddress,
    task::{
        RequestId, TaskName, TaskRecord,
        own::{X_FC_ASYNC_TASK_ID, X_FC_REQUEST_ID},
    },
    wire::{Values, forwarded::Front},
};

/// The beginning of all links, as far as the settings determine it, and which headers of a request determine the rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkBase {
    known: ApiLinks,
    path: Box<str>,
    /// Whether the forwarding headers of a request are used.
    forwarded: bool,
    /// Whether the host that a request names is used.
    from_host: bool,
}

impl LinkBase {
    /// The base of links into the API at this address. With a public URL, requests determine nothing.
    pub(crate) fn new(address: &ApiAddress) -> Self {
        let path = address.base.trim_end_matches('/');
        let public_url = address.public_url.as_deref().map(|url| url.trim_end_matches('/'));
        Self {
            known: ApiLinks::new([public_url.unwrap_or_default(), path].concat()),
            path: path.into(),
            forwarded: address.trust_forwarding && public_url.is_none(),
            from_host: address.from_host && public_url.is_none(),
        }
    }

    /// The links of answers for which [`of`](Self::of) returns `None`.
    pub(crate) const fn known(&self) -> &ApiLinks {
        &self.known
    }

    /// The links of the answer to a request with this head, if the request determines any part of them.
    pub(crate) fn of(&self, uri: &Uri, headers: &HeaderMap) -> Option<ApiLinks> {
        if !self.forwarded && !self.from_host {
            return None;
        }
        let front = match self.forwarded {
            true => Front::of(headers),
            false => Front::default(),
        };
        let own_scheme = || match uri.scheme_str() {
            Some("https") => "https",
            _ => "http",
        };
        let scheme = front.scheme.or_else(|| self.from_host.then(own_scheme));
        let origin = scheme.and_then(|scheme| Some([scheme, "://", front.host(uri, headers)?]));
        match (origin, front.prefix) {
            (None, "") => None,
            (origin, prefix) => Some(ApiLinks::new(
                [&origin.unwrap_or_default().concat(), prefix, &self.path].concat(),
            )),
        }
    }
}

/// The address of the task API, if there is one. All headers and links that contain it are made here.
///
/// The default is that there is no task API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApiLinks(Option<Box<str>>);

/// The header for the address of a task's operation, for clients that follow Azure's guidelines.
pub(crate) const OPERATION_LOCATION: HeaderName = HeaderName::from_static("operation-location");

/// The path of a task's result, below the task.
const RESULT: &str = "/result";

impl ApiLinks {
    /// How many bytes the header values take together, if the base is short.
    pub(crate) const ROOM: usize = 256;

    /// No task API.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    fn new(base: String) -> Self {
        Self(Some(base.into()))
    }

    /// The beginning of all links: the path or the whole URL of the API as clients see it, without a slash at its end.
    pub(crate) fn base(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Sets the headers with the addresses of the task's result and operation. Does nothing without a task API.
    pub(crate) fn put_on(&self, headers: &mut HeaderMap, task: &TaskRecord) {
        let (_, values) = self.values(task, Vec::new());
        for (name, value) in NAMES.into_iter().zip(values).skip(2) {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }

    /// As [`put_on`](Self::put_on), and sets the headers with the task's ids. The header values share the allocation of
    /// `document`, which is returned.
    pub(crate) fn put_on_with_ids(&self, headers: &mut HeaderMap, task: &TaskRecord, document: Vec<u8>) -> Bytes {
        let (document, values) = self.values(task, document);
        for (name, value) in NAMES.into_iter().zip(values) {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        document
    }

    /// Sets the headers with the address of the task's result and with its ids, given the id and the client's name for
    /// the task instead of the task.
    pub(crate) fn put_location_on_with_ids(&self, headers: &mut HeaderMap, id: RequestId, name: Option<&TaskName>) {
        let id = id.to_string();
        let value = |text: &str| HeaderValue::try_from(text).ok();
        let values = [
            (X_FC_REQUEST_ID, value(&id)),
            (X_FC_ASYNC_TASK_ID, value(name.map_or(&id, TaskName::as_str))),
            (
                header::LOCATION,
                self.base().and_then(|base| value(&format!("{base}/{id}{RESULT}"))),
            ),
        ];
        for (name, value) in values {
            value.map(|value| headers.insert(name, value));
        }
    }

    /// The values for [`NAMES`], and the document. All are parts of one text.
    fn values(&self, task: &TaskRecord, document: Vec<u8>) -> (Bytes, [Option<HeaderValue>; 5]) {
        let mut buffer = RequestId::BUFFER;
        let request_id = task.id.encode(&mut buffer);
        let task_id = TaskId::of(task);
        let task_id = task_id.as_str(request_id);
        let mut values = Values::of(document);
        values.reserve(Self::ROOM);
        let request = values.add(&[request_id]);
        let name = task.name.as_ref().map(|name| values.add(&[name.as_str()]));
        let result = self.base().map(|base| values.add(&[base, "/", task_id, RESULT]));
        let operation = self.base().map(|base| values.add(&[base, "/", task_id, "/operation"]));
        let (document, value) = values.finish();
        let request = value(request);
        let task = match name {
            Some(name) => value(name),
            None => request.clone(),
        };
        let result = result.and_then(&value);
        let operation = operation.and_then(&value);
        (document, [request, task, result.clone(), result, operation])
    }
}

/// The headers for the ids of a task and for its addresses.
///
/// `Content-Location` equals `Location`: until the task has ended, `/result` answers with the same document as the 202
/// (RFC 9110 §8.7), and FHIR clients poll there.
const NAMES: [HeaderName; 5] = [
    X_FC_REQUEST_ID,
    X_FC_ASYNC_TASK_ID,
    header::LOCATION,
    header::CONTENT_LOCATION,
    OPERATION_LOCATION,
];

/// The part of `path` below `prefix`: empty, or from a slash on.
pub(crate) fn below<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A task id in documents and paths, without a copy. It needs no escaping in either.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum TaskId<'a> {
    Id(RequestId),
    Name(&'a str),
}

impl<'a> TaskId<'a> {
    pub(crate) fn of(task: &'a TaskRecord) -> Self {
        task.name
            .as_ref()
            .map(TaskName::as_str)
            .map_or(Self::Id(task.id), Self::Name)
    }

    /// The task id, given the request id as text.
    pub(crate) const fn as_str(&self, request_id: &'a str) -> &'a str {
        match self {
            Self::Id(_) => request_id,
            Self::Name(name) => name,
        }
    }
}

impl Display for TaskId<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
pub(in crate::wire) mod tests {
    use super::*;
    use crate::wire::document::tests::{id, record};

    /// Links into an API at this path.
    pub(in crate::wire) fn links(path: &str) -> ApiLinks {
        ApiLinks::new(path.to_owned())
    }

    fn base(public_url: Option<&str>, trust_forwarding: bool, from_host: bool) -> LinkBase {
        LinkBase::new(&ApiAddress {
            base: "/tasks".into(),
            public_url: public_url.map(str::to_owned),
            trust_forwarding,
            from_host,
            ..ApiAddress::default()
        })
    }

    /// The beginning of the links in the answer to a request for this target with these headers.
    fn begun(base: &LinkBase, target: &'static str, lines: &[(&'static str, &'static str)]) -> String {
        let headers: HeaderMap = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let links = base.of(&Uri::from_static(target), &headers);
        links.as_ref().unwrap_or(base.known()).base().unwrap().to_owned()
    }

    #[test]
    fn headers_name_the_task_under_the_base() {
        let mut headers = HeaderMap::new();
        links("/tasks").put_on(&mut headers, &record());
        assert_eq!(headers["location"], format!("/tasks/{}/result", id()));
        assert_eq!(headers["content-location"], headers["location"]);
        assert_eq!(headers["operation-location"], format!("/tasks/{}/operation", id()));
        assert!(!headers.contains_key("x-fc-request-id"));
        links("https://example.org/app/tasks").put_on_with_ids(&mut headers, &record(), Vec::new());
        for (name, end) in [("location", "result"), ("operation-location", "operation")] {
            assert_eq!(headers[name], format!("https://example.org/app/tasks/{}/{end}", id()));
        }
        assert_eq!(headers["x-fc-request-id"], id().to_string());
        assert_eq!(headers["x-fc-async-task-id"], id().to_string());
    }

    #[test]
    fn a_public_url_goes_before_whatever_a_request_says() {
        let base = base(Some("https://example.org/app/"), true, true);
        let front = [
            ("host", "a"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-prefix", "/b"),
        ];
        assert_eq!(begun(&base, "/", &front), "https://example.org/app/tasks");
    }

    #[test]
    fn by_default_links_are_paths_whatever_a_request_says() {
        let front = [
            ("host", "a"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-prefix", "/b"),
        ];
        assert_eq!(begun(&base(None, false, false), "http://a/", &front), "/tasks");
    }

    #[test]
    fn the_host_that_a_request_names_makes_links_absolute() {
        let base = base(None, false, true);
        for (target, host, expected) in [
            ("/", "example.org:8080", "http://example.org:8080/tasks"),
            ("/", "[::1]:80", "http://[::1]:80/tasks"),
            ("https://h2.example/x", "ignored.example", "https://h2.example/tasks"),
            ("ftp://h2.example/x", "ignored.example", "http://h2.example/tasks"),
        ] {
            let lines = [
                ("host", host),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-prefix", "/p"),
            ];
            assert_eq!(begun(&base, target, &lines), expected);
        }
        for host in [
            "",
            "user@host",
            "a/b",
            "a b",
            "a?x",
            "a#x",
            "a:1:2",
            "a:port",
            "a\\b",
            "[::1",
        ] {
            assert_eq!(begun(&base, "/", &[("host", host)]), "/tasks", "{host}");
        }
        assert_eq!(begun(&base, "/", &[]), "/tasks");
        assert_eq!(begun(&base, "http://user@host/", &[]), "/tasks");
    }

    #[test]
    fn a_front_that_is_believed_says_where_it_is_reached_and_what_it_takes_off() {
        let only = base(None, true, false);
        let with_host = base(None, true, true);
        let proto = ("x-forwarded-proto", "https");
        let (prefix, host) = (("x-forwarded-prefix", "/app/, /inner"), ("host", "a.example"));
        assert_eq!(begun(&only, "/", &[proto, host, prefix]), "https://a.example/app/tasks");
        assert_eq!(begun(&only, "/", &[host, prefix]), "/app/tasks", "no scheme is known");
        assert_eq!(begun(&with_host, "/", &[host, prefix]), "http://a.example/app/tasks");
        let front = ("forwarded", "proto=https;host=\"front.example\"");
        assert_eq!(begun(&with_host, "/", &[front, host]), "https://front.example/tasks");
        for bad in [
            "//evil.example",
            "app",
            "/a\\b",
            "/a?b",
            "/a#b",
            "/a b",
            "/../b",
            "/a/./b",
            "/\"",
            "/<",
            "https://e/",
        ] {
            assert_eq!(begun(&only, "/", &[("x-forwarded-prefix", bad)]), "/tasks", "{bad}");
        }
        assert_eq!(begun(&only, "/", &[("x-forwarded-prefix", "/")]), "/tasks");
    }

    #[test]
    fn without_an_api_nothing_names_it() {
        let mut headers = HeaderMap::new();
        ApiLinks::default().put_on(&mut headers, &record());
        assert!(headers.is_empty());
    }

    #[test]
    fn a_prefix_ends_at_a_slash() {
        assert_eq!(below("/tasks", "/tasks"), Some(""));
        assert_eq!(below("/tasks", "/tasks/x"), Some("/x"));
        assert_eq!(below("/tasks", "/tasksx"), None);
        assert_eq!(below("", "/x"), Some("/x"));
    }
}
