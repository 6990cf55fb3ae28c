//! [`ApiLinks`]: where the task API is, and where a task is in it.

use std::fmt::Display;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Serialize;

use crate::{
    task::{RequestId, TaskName, TaskRecord},
    wire::Values,
};

/// Where the task API is served, if it is: every header and link that names it comes from here.
///
/// The default names nothing, as is right where no task API was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApiLinks {
    path: Option<Box<str>>,
    absolute: Option<Box<str>>,
}

/// The request id, for a client and for a handler.
pub(crate) const X_FC_REQUEST_ID: HeaderName = HeaderName::from_static("x-fc-request-id");
/// The task id, for a client.
pub(crate) const X_FC_ASYNC_TASK_ID: HeaderName = HeaderName::from_static("x-fc-async-task-id");
/// An absolute or path-absolute address of a task, also for clients that follow Azure's guidelines.
const OPERATION_LOCATION: HeaderName = HeaderName::from_static("operation-location");

/// Where the result of a task is, below the task.
const RESULT: &str = "/result";

impl ApiLinks {
    /// What the headers take together under a short base, without a public URL, in bytes.
    pub(crate) const ROOM: usize = 256;

    /// There is no API.
    pub(crate) const fn none() -> Self {
        Self {
            path: None,
            absolute: None,
        }
    }

    /// The API under the path `base` of the server that the world knows as `public_url`, where that is known.
    ///
    /// A path in `public_url` is what a front takes off before the application sees the request: links begin with it.
    pub(crate) fn new(base: &str, public_url: Option<&str>) -> Self {
        let base = base.trim_end_matches('/');
        let Some(public_url) = public_url.map(|url| url.trim_end_matches('/')) else {
            return Self {
                path: Some(base.into()),
                absolute: None,
            };
        };
        let authority = public_url.find("://").map_or(0, |at| at + 3);
        let front = public_url[authority..]
            .find('/')
            .map_or("", |at| &public_url[authority + at..]);
        Self {
            path: Some(format!("{front}{base}").into()),
            absolute: Some(format!("{public_url}{base}").into()),
        }
    }

    /// The path of the API as clients see it, without a slash at its end.
    pub(crate) fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// `Location` of a task that was accepted, or is not done: where its result will be.
    pub(crate) fn location(&self, task: &TaskRecord) -> Option<HeaderValue> {
        at(self.path.as_deref()?, task, RESULT)
    }

    /// Puts on an answer where the result of the task will be, the task itself, and the operation. Does nothing where
    /// there is no API.
    pub(crate) fn put_on(&self, headers: &mut HeaderMap, task: &TaskRecord) {
        let (_, values) = self.values(task, None, Vec::new());
        for (name, value) in names().into_iter().zip(values).skip(2) {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }

    /// The same, and the ids of the task. The operation is under the `origin` that the client reached, where that is
    /// known and the public URL is not.
    ///
    /// Answers the `document` that the headers are to stand above.
    pub(crate) fn put_on_with_ids(
        &self,
        headers: &mut HeaderMap,
        task: &TaskRecord,
        origin: Option<&str>,
        document: Vec<u8>,
    ) -> Bytes {
        let (document, values) = self.values(task, origin, document);
        for (name, value) in names().into_iter().zip(values) {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        document
    }

    /// The values of [`names`], where there is one. They and the document are parts of one text.
    fn values(&self, task: &TaskRecord, origin: Option<&str>, document: Vec<u8>) -> (Bytes, [Option<HeaderValue>; 5]) {
        let mut buffer = RequestId::BUFFER;
        let request_id = task.id.encode(&mut buffer);
        let task_id = TaskId::of(task);
        let task_id = task_id.as_str(request_id);
        let mut values = Values::of(document);
        values.reserve(Self::ROOM);
        let request = values.add(&[request_id]);
        let name = task.name.as_ref().map(|name| values.add(&[name.as_str()]));
        let addresses = self.path.as_deref().map(|path| {
            let location = values.add(&[path, "/", task_id, RESULT]);
            let content_location = location.start..location.end - RESULT.len();
            let operation = match self.absolute.as_deref() {
                Some(absolute) => values.add(&[absolute, "/", task_id, "/operation"]),
                None => values.add(&[origin.unwrap_or(""), path, "/", task_id, "/operation"]),
            };
            [location, content_location, operation].map(Some)
        });
        let (document, value) = values.finish();
        let request = value(request);
        let task = match name {
            Some(name) => value(name),
            None => request.clone(),
        };
        let addresses = addresses.unwrap_or_default().map(|part| value(part?));
        let [location, content_location, operation] = addresses;
        (document, [request, task, location, content_location, operation])
    }
}

/// What the ids of a task and its addresses are sent in. `Operation-Location` is absolute where the public URL is known,
/// as the clients that read it prefer.
const fn names() -> [HeaderName; 5] {
    [
        X_FC_REQUEST_ID,
        X_FC_ASYNC_TASK_ID,
        header::LOCATION,
        header::CONTENT_LOCATION,
        OPERATION_LOCATION,
    ]
}

/// The part of `path` that is below `prefix`: empty, or from the slash on.
pub(crate) fn below<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn at(base: &str, task: &TaskRecord, rest: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{base}/{}{rest}", TaskId::of(task))).ok()
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
mod tests {
    use super::*;
    use crate::wire::document::tests::{id, record};

    #[test]
    fn headers_name_the_task_under_the_base() {
        let links = ApiLinks::new("/tasks/", None);
        let mut headers = HeaderMap::new();
        links.put_on(&mut headers, &record());
        assert_eq!(headers["location"], format!("/tasks/{}/result", id()));
        assert_eq!(headers["content-location"], format!("/tasks/{}", id()));
        assert_eq!(headers["operation-location"], format!("/tasks/{}/operation", id()));
    }

    #[test]
    fn a_public_url_makes_the_operation_absolute_and_its_path_leads_every_link() {
        let links = ApiLinks::new("/tasks", Some("https://example.org/app/"));
        let operation = format!("https://example.org/app/tasks/{}/operation", id());
        let mut headers = HeaderMap::new();
        links.put_on_with_ids(&mut headers, &record(), Some("http://elsewhere"), Vec::new());
        assert_eq!(headers["operation-location"], operation);
        assert_eq!(headers["x-fc-request-id"], id().to_string());
        assert_eq!(headers["x-fc-async-task-id"], id().to_string());
        assert_eq!(
            links.location(&record()).unwrap(),
            format!("/app/tasks/{}/result", id())
        );
        assert_eq!(
            ApiLinks::new("/tasks", Some("https://example.org")).path(),
            Some("/tasks")
        );
    }

    #[test]
    fn an_origin_makes_the_operation_absolute_unless_the_public_url_is_known() {
        let reached = |links: ApiLinks| {
            let mut headers = HeaderMap::new();
            links.put_on_with_ids(&mut headers, &record(), Some("https://front.example"), Vec::new());
            headers.remove("operation-location")
        };
        let expected = format!("https://front.example/tasks/{}/operation", id());
        assert_eq!(reached(ApiLinks::new("/tasks", None)).unwrap(), expected);
        let known = ApiLinks::new("/tasks", Some("https://example.org"));
        let expected = format!("https://example.org/tasks/{}/operation", id());
        assert_eq!(reached(known).unwrap(), expected);
        assert_eq!(reached(ApiLinks::default()), None);
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
