//! [`ApiLinks`]: where the task API is, and where a task is in it.

use std::fmt::Display;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::task::{RequestId, TaskName, TaskRecord};

/// Where the task API is served, if it is: every header and link that names it comes from here.
///
/// The default names nothing, as is right where no task API was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApiLinks {
    path: Option<Box<str>>,
    absolute: Option<Box<str>>,
}

/// Whether logs and events are served.
const SERVES_LOGS_AND_EVENTS: bool = false;

/// An absolute or path-absolute address of a task, also for clients that follow Azure's guidelines.
pub(crate) const OPERATION_LOCATION: HeaderName = HeaderName::from_static("operation-location");

impl ApiLinks {
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
        at(self.path.as_deref()?, task, "/result")
    }

    /// `Content-Location` of a task document.
    pub(crate) fn content_location(&self, task: &TaskRecord) -> Option<HeaderValue> {
        at(self.path.as_deref()?, task, "")
    }

    /// `Operation-Location`: absolute where the public URL is known, as the clients that read it prefer.
    pub(crate) fn operation_location(&self, task: &TaskRecord) -> Option<HeaderValue> {
        at(self.absolute.as_deref().or(self.path.as_deref())?, task, "/operation")
    }

    /// `Operation-Location` under the `origin` that the client reached, unless the public URL is known.
    pub(crate) fn operation_location_at(&self, origin: &str, task: &TaskRecord) -> Option<HeaderValue> {
        match self.absolute {
            Some(_) => self.operation_location(task),
            None => at(&format!("{origin}{}", self.path.as_deref()?), task, "/operation"),
        }
    }

    /// Puts all three on a 202. Does nothing where there is no API.
    pub(crate) fn put_on(&self, headers: &mut HeaderMap, task: &TaskRecord) {
        for (name, value) in [
            (header::LOCATION, self.location(task)),
            (header::CONTENT_LOCATION, self.content_location(task)),
            (OPERATION_LOCATION, self.operation_location(task)),
        ] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }

    /// The links in a document about `task`, unless there is no API.
    pub(crate) fn of<'a>(&'a self, task: &'a TaskRecord) -> Option<TaskLinks<'a>> {
        self.path.as_deref().map(|base| TaskLinks { base, task })
    }
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
}

impl Display for TaskId<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What can be done about a task now, and where: `stop` until it has ended, `retry` from then on.
pub(crate) struct TaskLinks<'a> {
    base: &'a str,
    task: &'a TaskRecord,
}

impl Serialize for TaskLinks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ended = self.task.state.is_terminal();
        let links = [
            (true, "self", ""),
            (true, "result", "/result"),
            (true, "operation", "/operation"),
            (true, "request", "/request"),
            (SERVES_LOGS_AND_EVENTS, "logs", "/logs"),
            (SERVES_LOGS_AND_EVENTS, "events", "/events"),
            (!ended, "stop", "/stop"),
            (ended, "retry", "/retry"),
        ];
        let id = TaskId::of(self.task);
        let mut map = serializer.serialize_map(None)?;
        for (_, name, rest) in links.into_iter().filter(|(there, ..)| *there) {
            map.serialize_entry(name, &Shown(format_args!("{}/{id}{rest}", self.base)))?;
        }
        map.end()
    }
}

/// A value written as the text it displays as, without a string in between.
pub(crate) struct Shown<T>(pub(crate) T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
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
        assert_eq!(links.operation_location(&record()).unwrap(), operation);
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
        let reached = |links: ApiLinks| links.operation_location_at("https://front.example", &record()).unwrap();
        let expected = format!("https://front.example/tasks/{}/operation", id());
        assert_eq!(reached(ApiLinks::new("/tasks", None)), expected);
        let known = ApiLinks::new("/tasks", Some("https://example.org"));
        assert_eq!(reached(known), format!("https://example.org/tasks/{}/operation", id()));
        assert_eq!(
            ApiLinks::default().operation_location_at("https://front.example", &record()),
            None
        );
    }

    #[test]
    fn without_an_api_nothing_names_it() {
        let mut headers = HeaderMap::new();
        ApiLinks::default().put_on(&mut headers, &record());
        assert!(headers.is_empty());
        assert!(ApiLinks::default().of(&record()).is_none());
    }

    #[test]
    fn a_prefix_ends_at_a_slash() {
        assert_eq!(below("/tasks", "/tasks"), Some(""));
        assert_eq!(below("/tasks", "/tasks/x"), Some("/x"));
        assert_eq!(below("/tasks", "/tasksx"), None);
        assert_eq!(below("", "/x"), Some("/x"));
    }
}
