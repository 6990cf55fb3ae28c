//! Query parameters. Unknown parameters and empty values are ignored. If a parameter that is not a list is repeated,
//! the last value counts.

use std::{borrow::Cow, collections::BTreeMap, fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use http::Uri;
use serde::Deserialize;

use crate::{
    api::paging,
    task::{Filter, Labels, Page, SortOrder, StateSet, TaskState},
    time::Timestamp,
    wire::Problem,
};

/// The query of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ListQuery {
    pub(crate) filter: Filter,
    pub(crate) page: Page,
    pub(crate) include_payload: bool,
}

/// The longest text to search for, in bytes. The search reads the first KiB of a payload, so it would not find a longer
/// text.
const TEXT_BYTES: usize = Filter::TEXT_BYTES;

const LIMITS: RangeInclusive<usize> = 1..=100;

/// How many log lines one answer has: at most 16 MiB.
const LOG_LIMITS: RangeInclusive<usize> = 1..=1000;

impl ListQuery {
    /// Reads the query of `uri`.
    pub(crate) fn read(uri: &Uri) -> Result<Self, Problem> {
        let mut read = Self::default();
        let mut token = None;
        for (name, value) in parameters(uri) {
            match &*name {
                "status" => {
                    let states = read.filter.states.unwrap_or(StateSet::NONE);
                    read.filter.states = Some(with_state(states, &value)?);
                }
                "prefix" => read.filter.prefix = Some(text("prefix", value)?),
                "function" => read.filter.function = Some(text("function", value)?),
                "label" => read.filter.labels.push(label(&value)?),
                "text" => read.filter.text = Some(text("text", value)?),
                "startedTimeBegin" => read.filter.created_from = Some(time("startedTimeBegin", &value)?),
                "startedTimeEnd" => read.filter.created_to = Some(time("startedTimeEnd", &value)?),
                "sortOrderByTime" => read.page.order = order(&value)?,
                "limit" => read.page.limit = limit(&value, LIMITS)?,
                "includePayload" => read.include_payload = flag("includePayload", &value)?,
                "nextToken" => token = Some(value),
                _ => {}
            }
        }
        // Decoded last, since the token belongs to one order.
        if let Some(token) = token {
            let after = paging::decode(&token, read.page.order).ok_or_else(|| {
                bad(
                    "nextToken",
                    &token,
                    "the nextToken of the page before, in the same order",
                )
            })?;
            read.page.after = Some(after);
        }
        labels_fit(&read.filter.labels)?;
        Ok(read)
    }
}

/// Whether the query asks for payloads.
pub(crate) fn include_payload(uri: &Uri) -> Result<bool, Problem> {
    last(uri, "includePayload").map_or(Ok(false), |value| flag("includePayload", &value))
}

/// The `wait` of the query, if it has one.
pub(crate) fn wait(uri: &Uri) -> Result<Option<Duration>, Problem> {
    last(uri, "wait")
        .map(|value| number("wait", &value, "a number of seconds").map(Duration::from_secs))
        .transpose()
}

/// A filter as JSON, with the names and meanings of the query parameters.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FilterDocument {
    status: Option<Vec<String>>,
    prefix: Option<String>,
    function: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    text: Option<String>,
    started_time_begin: Option<u64>,
    started_time_end: Option<u64>,
}

impl FilterDocument {
    /// Checks the document and makes the filter.
    pub(super) fn read(self) -> Result<Filter, Problem> {
        let given = |value: Option<String>| value.filter(|value| !value.is_empty());
        let text = |name, value| given(value).map(|value| text(name, value.into())).transpose();
        let states = self.status.map(|names| {
            let mut names = names.iter();
            names.try_fold(StateSet::NONE, |states, name| with_state(states, name))
        });
        let labels: Vec<_> = self.labels.unwrap_or_default().into_iter().collect();
        labels_fit(&labels)?;
        Ok(Filter {
            pool: None,
            labels,
            states: states.transpose()?,
            prefix: text("prefix", self.prefix)?,
            function: text("function", self.function)?,
            text: text("text", self.text)?,
            created_from: self.started_time_begin.map(Timestamp::from_millis),
            created_to: self.started_time_end.map(Timestamp::from_millis),
        })
    }
}

/// The query of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LogsQuery {
    pub(super) attempt: Option<u32>,
    pub(super) after: u64,
    pub(super) limit: Option<usize>,
}

impl LogsQuery {
    /// Reads the query of `uri`.
    pub(super) fn read(uri: &Uri) -> Result<Self, Problem> {
        let mut read = Self::default();
        for (name, value) in parameters(uri) {
            match &*name {
                "attempt" => read.attempt = Some(number("attempt", &value, "the number of an attempt")?),
                "after" => read.after = number("after", &value, "the number of a line")?,
                "limit" => read.limit = Some(limit(&value, LOG_LIMITS)?),
                _ => {}
            }
        }
        Ok(read)
    }
}

/// When the event stream of a task ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Until {
    /// At the end of the task.
    #[default]
    Ended,
    /// When no completion of the task is pending any more.
    Delivered,
}

/// The `until` of the query.
pub(super) fn until(uri: &Uri) -> Result<Until, Problem> {
    match last(uri, "until").as_deref() {
        None | Some("ended") => Ok(Until::Ended),
        Some("delivered") => Ok(Until::Delivered),
        Some(other) => Err(bad("until", other, "ended or delivered")),
    }
}

/// The `lastEventId` of the query, for clients that cannot set the header.
pub(super) fn last_event_id(uri: &Uri) -> Option<String> {
    last(uri, "lastEventId").map(Cow::into_owned)
}

fn parameters(uri: &Uri) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()).filter(|(_, value)| !value.is_empty())
}

fn last<'a>(uri: &'a Uri, name: &str) -> Option<Cow<'a, str>> {
    parameters(uri)
        .filter(|(found, _)| found == name)
        .map(|(_, value)| value)
        .last()
}

fn with_state(states: StateSet, value: &str) -> Result<StateSet, Problem> {
    // A state of the cloud's API that no task has here.
    if value == "Dequeued" {
        return Ok(states);
    }
    match TaskState::ALL.into_iter().find(|state| state.as_str() == value) {
        Some(state) => Ok(states.with(state)),
        None => Err(bad("status", value, "a state, such as Running")),
    }
}

fn text(name: &'static str, value: Cow<'_, str>) -> Result<String, Problem> {
    match value.len() <= TEXT_BYTES {
        true => Ok(value.into_owned()),
        false => Err(bad(name, &value, &format!("at most {TEXT_BYTES} bytes long"))),
    }
}

/// A label as `docker ps --filter` and label selectors write it: name, equals sign, value, which may be empty. A name
/// that contains an equals sign can only be filtered in a JSON document.
fn label(text: &str) -> Result<(String, String), Problem> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(bad("label", text, "a name, an equals sign and a value, such as team=a")),
    }
}

/// No task has more labels than this, so a longer filter is a mistake.
fn labels_fit(labels: &[(String, String)]) -> Result<(), Problem> {
    let asked: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    match asked <= Labels::LONGEST {
        true => Ok(()),
        false => Err(Problem::invalid_argument(format!(
            "The labels that are asked for have {asked} bytes; no task has more than {} of them.",
            Labels::LONGEST
        ))),
    }
}

fn time(name: &'static str, value: &str) -> Result<Timestamp, Problem> {
    number(name, value, "a time in milliseconds since the Unix epoch").map(Timestamp::from_millis)
}

fn order(value: &str) -> Result<SortOrder, Problem> {
    match value {
        "asc" => Ok(SortOrder::Ascending),
        "desc" => Ok(SortOrder::Descending),
        _ => Err(bad("sortOrderByTime", value, "asc or desc")),
    }
}

fn limit(value: &str, limits: RangeInclusive<usize>) -> Result<usize, Problem> {
    let right = format!("a number from {} to {}", limits.start(), limits.end());
    match number("limit", value, &right)? {
        limit if limits.contains(&limit) => Ok(limit),
        _ => Err(bad("limit", value, &right)),
    }
}

fn flag(name: &'static str, value: &str) -> Result<bool, Problem> {
    match value {
        "true" | "True" | "1" => Ok(true),
        "false" | "False" | "0" => Ok(false),
        _ => Err(bad(name, value, "true or false")),
    }
}

fn number<N: FromStr>(name: &'static str, value: &str, right: &str) -> Result<N, Problem> {
    // Digits only: `parse` alone would accept a sign.
    match value.bytes().all(|byte| byte.is_ascii_digit()) {
        true => value.parse().map_err(|_| bad(name, value, right)),
        false => Err(bad(name, value, right)),
    }
}

fn bad(name: &'static str, value: &str, right: &(impl fmt::Display + ?Sized)) -> Problem {
    let value = Problem::quoted(value);
    Problem::invalid_argument(format!("The parameter {name} is {value}; it must be {right}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<ListQuery, String> {
        let uri = format!("/?{query}").parse().unwrap();
        ListQuery::read(&uri).map_err(|problem| {
            let body = problem.into_response::<bytes::Bytes>(None).into_body();
            String::from_utf8(body.to_vec()).unwrap()
        })
    }

    #[test]
    fn nothing_asked_is_the_newest_twenty_of_all() {
        for query in ["", "status=&limit=&nextToken=", "&&=&unknown=1"] {
            assert_eq!(read(query).unwrap(), ListQuery::default(), "{query}");
        }
        assert_eq!(ListQuery::default().page.limit, 20);
    }

    #[test]
    fn every_parameter_is_read() {
        let query = "status=Running&status=Failed&prefix=job-&function=f&label=team=a&label=cost%3D&text=a%20b+c&startedTimeBegin=1\
                     &startedTimeEnd=2&sortOrderByTime=asc&limit=100&includePayload=True";
        let read = read(query).unwrap();
        let expected = Filter {
            pool: None,
            states: Some([TaskState::Running, TaskState::Failed].into_iter().collect()),
            prefix: Some("job-".into()),
            function: Some("f".into()),
            labels: vec![("team".into(), "a".into()), ("cost".into(), String::new())],
            text: Some("a b c".into()),
            created_from: Some(Timestamp::from_millis(1)),
            created_to: Some(Timestamp::from_millis(2)),
        };
        assert_eq!(read.filter, expected);
        assert_eq!((read.page.order, read.page.limit), (SortOrder::Ascending, 100));
        assert!(read.include_payload);
    }

    #[test]
    fn a_state_no_task_is_in_finds_nothing_by_itself() {
        assert_eq!(read("status=Dequeued").unwrap().filter.states, Some(StateSet::NONE));
        let both = read("status=Dequeued&status=Stopped").unwrap().filter.states;
        assert_eq!(both, Some(StateSet::NONE.with(TaskState::Stopped)));
    }

    #[test]
    fn a_bad_value_is_refused_by_name() {
        for query in [
            "status=running",
            "limit=0",
            "limit=101",
            "limit=%2B5",
            "limit=99999999999999999999999",
            "startedTimeBegin=-1",
            "startedTimeEnd=1e3",
            "sortOrderByTime=up",
            "includePayload=yes",
            "nextToken=AAAA",
            "label=team",
            "label==a",
            &format!("text={}", "x".repeat(1025)),
        ] {
            let name = query.split_once('=').unwrap().0;
            let problem = read(query).unwrap_err();
            assert!(problem.contains(&format!("parameter {name} ")), "{problem}");
            assert!(problem.len() < 2048, "{problem}");
        }
    }

    #[test]
    fn more_labels_than_a_task_has_are_not_asked_for() {
        let label = |length| format!("label={}={}", "n".repeat(length), "v".repeat(24));
        assert!(read(&label(1000)).is_ok());
        assert!(read(&label(1001)).unwrap_err().contains("have 1025 bytes"));
    }

    #[test]
    fn a_token_counts_in_the_order_it_was_made_for() {
        let cursor = crate::task::Cursor {
            created_at: Timestamp::from_millis(1),
            id: crate::task::RequestId::from_bytes([1; 16]),
        };
        let token = paging::encode(SortOrder::Ascending, cursor);
        let found = read(&format!("nextToken={token}&sortOrderByTime=asc")).unwrap();
        assert_eq!(found.page.after, Some(cursor));
        assert!(read(&format!("nextToken={token}")).is_err());
    }
}
