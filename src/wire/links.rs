//! [`ApiLinks`]: where the task API is, and where a task is in it.

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

/// What the links of every answer begin with, as far as the settings say, and what else the request decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkBase {
    known: ApiLinks,
    path: Box<str>,
    /// The forwarding headers of a request are believed.
    forwarded: bool,
    /// The host that a request names is the one that clients reach.
    from_host: bool,
}

impl LinkBase {
    /// The base of links into the API at this address. A public URL leaves nothing for the request to decide.
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

    /// The links of every answer for which [`of`](Self::of) finds no others.
    pub(crate) const fn known(&self) -> &ApiLinks {
        &self.known
    }

    /// The links of the answer to a request with this head, where it makes a difference.
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

/// Where the task API is served, if it is: every header and link that names it comes from here.
///
/// The default names nothing, as is right where no task API was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApiLinks(Option<Box<str>>);

/// The address of a task's operation, for clients that follow Azure's guidelines.
pub(crate) const OPERATION_LOCATION: HeaderName = HeaderName::from_static("operation-location");

/// Where the result of a task is, below the task.
const RESULT: &str = "/result";

impl ApiLinks {
    /// What the headers take together under a short base, in bytes.
    pub(crate) const ROOM: usize = 256;

    /// There is no API.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    fn new(base: String) -> Self {
        Self(Some(base.into()))
    }

    /// What every link begins with: the path of the API as clients see it or its whole URL, without a slash at its end.
    pub(crate) fn base(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Puts on an answer where the result of the task will be, and the operation. Does nothing where there is no API.
    pub(crate) fn put_on(&self, headers: &mut HeaderMap, task: &TaskRecord) {
        let (_, values) = self.values(task, Vec::new());
        for (name, value) in NAMES.into_iter().zip(values).skip(2) {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }

    /// The same, and the ids of the task. Answers the `document` that the headers are to stand above.
    pub(crate) fn put_on_with_ids(&self, headers: &mut HeaderMap, task: &TaskRecord, document: Vec<u8>) -> Bytes {
        let (document, values) = self.values(task, document);
        for (name, value) in NAMES.into_iter().zip(values) {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        document
    }

    /// Puts on an answer where the result of the task with this id will be, and its ids, without a look at the task: the
    /// name is what the client has said.
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

    /// The values of [`NAMES`], where there is one. They and the document are parts of one text.
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

/// What the ids of a task and its addresses are sent in.
///
/// `Content-Location` is `Location` too: while the task has not ended, `/result` answers the document that an accepted
/// request is answered with (RFC 9110 §8.7), and clients of FHIR poll there.
const NAMES: [HeaderName; 5] = [
    X_FC_REQUEST_ID,
    X_FC_ASYNC_TASK_ID,
    header::LOCATION,
    header::CONTENT_LOCATION,
    OPERATION_LOCATION,
];

/// The part of `path` that is below `prefix`: empty, or from the slash on.
pub(crate) fn below<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A task id as it stands in documents and paths, without a copy. Needs no escaping in either.
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

    /// What links begin with in the answer to a request for this target with these headers.
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
