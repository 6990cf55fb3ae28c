//! Finds the route of a request, and applies the rules that hold for all routes.

use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CONTENT_LENGTH},
};
use http_body::Body;
use percent_encoding::percent_decode_str;

use crate::{
    api::{
        call::{Answer, Call},
        origin,
        route::{
            Route,
            Segment::{self, Number, Task, Word},
        },
        table::ROUTES,
    },
    layer::{RequestBody, ResponseBody},
    task::{TaskName, TaskRef},
    wire::Problem,
};

/// The result of a look-up by path and method.
pub(super) enum Found {
    /// A route, and the task in the path.
    Route(&'static Route, Option<TaskRef>),
    /// An OPTIONS request, with the methods of the path.
    Options(HeaderValue),
}

/// Looks up `method` at `path`, a path below the base.
pub(super) fn find(path: &str, method: &Method) -> Result<Found, Problem> {
    let here = || ROUTES.iter().filter(|route| route.is_at(path));
    // HEAD is handled as GET.
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    if let Some(route) = here().find(|route| route.method == *method) {
        return route.task(path).map(|task| Found::Route(route, task));
    }
    let methods: Vec<&str> = here().map(|route| route.method.as_str()).collect();
    if methods.is_empty() {
        return Err(Problem::not_found());
    }
    let allow = methods.join(", ").replace("GET", "GET, HEAD") + ", OPTIONS";
    let allow = HeaderValue::try_from(allow).expect("method names are visible ASCII");
    match *method {
        Method::OPTIONS => Ok(Found::Options(allow)),
        _ => Err(Problem::method_not_allowed(allow)),
    }
}

/// The answer to an OPTIONS request.
pub(super) fn options(allow: HeaderValue) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, allow);
    response
}

/// Turns the answer to GET into the answer to HEAD: the body is removed, its length stays.
pub(super) fn head_only(response: Response<ResponseBody>) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    let has_length = !matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(length) = body.size_hint().exact().filter(|_| has_length) {
        parts.headers.insert(CONTENT_LENGTH, length.into());
    }
    Response::from_parts(parts, ResponseBody::empty())
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    // The base itself has no segments, not one empty segment.
    path.split('/').filter(move |_| !path.is_empty())
}

impl Route {
    fn is_at(&self, path: &str) -> bool {
        let mut given = segments(path);
        self.path
            .iter()
            .all(|segment| given.next().is_some_and(|given| segment.matches(given)))
            && given.next().is_none()
    }

    fn task(&self, path: &str) -> Result<Option<TaskRef>, Problem> {
        let task = self
            .path
            .iter()
            .zip(segments(path))
            .find(|(part, _)| matches!(part, Task));
        task.map(|(_, text)| {
            let text = percent_decode_str(text).decode_utf8();
            // An invalid id names no task.
            text.ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(Problem::task_not_found)
        })
        .transpose()
    }

    /// Handles the call, if the caller has the permission.
    pub(super) async fn run(&self, call: Call, body: RequestBody) -> Answer {
        if let Some(permission) = self.needs {
            call.must_allow(permission)?;
        }
        if self.method != Method::GET {
            origin::check(&call.parts, &call.origins)?;
        }
        (self.handler)(call, body).await
    }
}

impl Segment {
    fn matches(&self, given: &str) -> bool {
        match self {
            Word(word) => *word == given,
            Number => !given.is_empty() && given.bytes().all(|byte| byte.is_ascii_digit()),
            Task => !given.is_empty() && !is_a_word(given),
        }
    }
}

/// Whether this first segment is a fixed word of the API, and not a task.
fn is_a_word(given: &str) -> bool {
    TaskName::RESERVED.contains(&given)
        || ROUTES
            .iter()
            .any(|route| matches!(route.path, [Word(word), ..] if *word == given))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> Result<Option<String>, u16> {
        match find(path, &method) {
            Ok(Found::Route(_, task)) => Ok(task.map(|task| task.to_string())),
            Ok(Found::Options(allow)) => Ok(Some(allow.to_str().unwrap().to_owned())),
            Err(problem) => Err(problem.status().as_u16()),
        }
    }

    #[test]
    fn the_base_is_found_with_and_without_its_slash() {
        assert_eq!(found(Method::GET, ""), Ok(None));
        assert_eq!(found(Method::GET, "/"), Ok(None));
        assert_eq!(found(Method::HEAD, "/"), Ok(None));
        assert_eq!(found(Method::GET, "//"), Err(404));
    }

    #[test]
    fn a_task_is_found_however_its_id_is_spelt() {
        assert_eq!(found(Method::GET, "/job-1"), Ok(Some("job-1".into())));
        assert_eq!(found(Method::GET, "/%6Aob-1/result"), Ok(Some("job-1".into())));
        assert_eq!(found(Method::PUT, "/job-1/stop"), Ok(Some("job-1".into())));
        assert_eq!(
            found(Method::POST, "/job-1/callbacks/12/redeliver"),
            Ok(Some("job-1".into()))
        );
    }

    #[test]
    fn what_is_no_id_is_no_task() {
        for path in [
            "/..",
            "/../x",
            "/%2e%2e",
            "/a%2Fb",
            "/a%00",
            "/%ff",
            "/%",
            "/a/",
            "/a//result",
            "/a/result/",
            "/a/b/c",
            "/bulk",
            "/openapi.yaml",
            "/a/logs/1",
            "/a/callbacks/x/redeliver",
            "/a/callbacks//redeliver",
            "/a/callbacks/1",
            "/%73tats",
        ] {
            assert_eq!(found(Method::GET, path), Err(404), "{path}");
        }
    }

    #[test]
    fn a_wrong_method_gets_405_with_allow() {
        assert_eq!(found(Method::PATCH, "/a"), Err(405));
        assert_eq!(found(Method::DELETE, "/stats"), Err(405));
        assert_eq!(
            found(Method::OPTIONS, "/a"),
            Ok(Some("GET, HEAD, DELETE, OPTIONS".into()))
        );
        assert_eq!(found(Method::OPTIONS, "/a/stop"), Ok(Some("POST, PUT, OPTIONS".into())));
        assert_eq!(found(Method::OPTIONS, "/nowhere/else"), Err(404));
    }
}
