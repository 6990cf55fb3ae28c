//! Edits to a request before it runs again.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header::CONTENT_LENGTH};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::{
    engine::{ApiAddress, Strip},
    task::{
        CapturedRequest,
        lifecycle::Edits,
        redact::{NothingStored, REDACTED, Restored, Secrets},
    },
    wire::{Problem, below},
};

/// The edits as sent. Absent and `null` members stay as stored.
///
/// A client can build them from the answer of `/request`. Where a secret still reads `REDACTED`, the stored value is
/// used, so that an editor of the body needs no credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct EditsDocument {
    uri: Option<String>,
    headers: Option<Headers>,
    body: Option<String>,
    body_encoding: Option<Encoding>,
}

/// In the form of `/request`, or as an object, which is easier to write by hand.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Headers {
    Pairs(Vec<(String, String)>),
    Map(BTreeMap<String, OneOrMany>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Utf8,
    Base64,
}

/// Parses edits from JSON. Empty input means no edits.
pub(crate) fn parse(json: &[u8]) -> Result<EditsDocument, Problem> {
    if json.trim_ascii().is_empty() {
        return Ok(EditsDocument::default());
    }
    serde_json::from_slice(json).map_err(|error| {
        let error = Problem::quoted(&error.to_string());
        bad(format!(
            "cannot be read as {{\"uri\", \"headers\", \"body\", \"bodyEncoding\"}}: {error}"
        ))
    })
}

impl EditsDocument {
    /// Whether nothing is edited.
    pub(crate) const fn is_empty(&self) -> bool {
        self.uri.is_none() && self.headers.is_none() && self.body.is_none()
    }

    /// Resolves the edits against the stored `request`. `api` is the address of the task API. No task may call the task
    /// API: else a caller that may re-run tasks could act there with the permissions of the task's sender.
    pub(crate) fn resolve(
        self,
        request: &CapturedRequest,
        api: &ApiAddress,
        secrets: &Secrets,
    ) -> Result<Edits, Problem> {
        let encoding = self.body_encoding.unwrap_or_default();
        let uri = self.uri.map(|uri| target(&uri, &request.uri, &api.base, secrets));
        let uri = uri.transpose()?;
        let headers = self
            .headers
            .map(|headers| headers.read(request, &api.intake.strip, secrets));
        let mut headers = headers.transpose()?;
        let body = self.body.map(|body| decode(body, encoding)).transpose()?;
        if body.as_ref().is_some_and(Bytes::is_empty) && !request.body.is_empty() {
            // A request that had a `Content-Length` keeps one.
            let headers = headers.get_or_insert_with(|| request.headers.clone());
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Ok(Edits { uri, headers, body })
    }
}

fn decode(body: String, encoding: Encoding) -> Result<Bytes, Problem> {
    match encoding {
        Encoding::Utf8 => Ok(body.into()),
        Encoding::Base64 => STANDARD
            .decode(body)
            .map(Bytes::from)
            .map_err(|_| bad("has a body that is not base64")),
    }
}

fn target(edited: &str, stored: &Uri, api: &str, secrets: &Secrets) -> Result<Uri, Problem> {
    let stored = stored.path_and_query().map_or("", |target| target.as_str());
    let restored = secrets.restored_target(edited, stored);
    let restored = restored.map_err(|missing| nothing_redacted("uri", &missing))?;
    let path_absolute = restored.starts_with('/') && !restored.starts_with("//") && !restored.contains('#');
    let uri: Option<Uri> = restored.parse().ok().filter(|_| path_absolute);
    let uri = uri.ok_or_else(|| {
        let edited = Problem::quoted(edited);
        bad(format!(
            "has the uri {edited}, which must be a path with an optional query, such as \"/a?b=c\""
        ))
    })?;
    // Compared in decoded form, since a router may decode the path before it matches.
    let path = percent_decode_str(uri.path()).decode_utf8_lossy();
    match below(api.trim_end_matches('/'), &path) {
        Some(_) => Err(bad("has a uri that leads to the task API")),
        None => Ok(uri),
    }
}

impl Headers {
    fn read(self, request: &CapturedRequest, layer: &Strip, secrets: &Secrets) -> Result<HeaderMap, Problem> {
        let pairs: Vec<(String, String)> = match self {
            Self::Pairs(pairs) => pairs,
            Self::Map(map) => {
                let each = map.into_iter().map(|(name, values)| match values {
                    OneOrMany::One(value) => vec![(name, value)],
                    OneOrMany::Many(values) => values.into_iter().map(|value| (name.clone(), value)).collect(),
                });
                each.flatten().collect()
            }
        };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let (name, value) = restore_header(&name, &value, &headers, &request.headers, secrets)?;
            headers
                .try_append(name, value)
                .map_err(|_| bad("has too many headers"))?;
        }
        // Removes what the layer removes from an incoming request.
        layer.apply(&mut headers, &request.method);
        Ok(headers)
    }
}

/// The header as it is stored. `before` holds the edited headers so far: the second value of a name restores its
/// secrets from the second stored value.
fn restore_header(
    name: &str,
    value: &str,
    before: &HeaderMap,
    stored: &HeaderMap,
    secrets: &Secrets,
) -> Result<(HeaderName, HeaderValue), Problem> {
    let refuse = |what| {
        let name = Problem::quoted(name);
        bad(format!("has the header {name}, whose {what} is not valid"))
    };
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse("name"))?;
    let at = before.get_all(&name).iter().count();
    let stored = stored.get_all(&name).iter().nth(at);
    let restored = secrets.restored_header(&name, value, stored);
    let restored = restored.map_err(|missing| nothing_redacted(&format!("header {name:?}"), &missing))?;
    let value = match restored {
        Restored::Untouched(stored) => stored,
        Restored::Text(text) => HeaderValue::try_from(text).map_err(|_| refuse("value"))?,
    };
    Ok((name, value))
}

fn nothing_redacted(part: &str, missing: &NothingStored) -> Problem {
    let key = Problem::quoted(&missing.key);
    bad(format!(
        "has {REDACTED} as {key} in the {part}, which the stored request lacks there; give its value"
    ))
}

fn bad(what: impl std::fmt::Display) -> Problem {
    Problem::invalid_argument(format!("The edit {what}."))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::{
        engine::IntakeSettings,
        layer::{HeaderPolicy, headers::strip},
    };

    fn stored() -> CapturedRequest {
        let mut headers = HeaderMap::new();
        headers.append("cookie", HeaderValue::from_static("a=1"));
        headers.append("cookie", HeaderValue::from_static("b=2"));
        headers.append("x-plain", HeaderValue::from_static("p"));
        let uri = Uri::from_static("/f?token=one&token=two&x=1");
        CapturedRequest::new(Method::POST, uri, headers, Bytes::from_static(b"old"))
    }

    fn edit(json: &str) -> Result<CapturedRequest, u16> {
        let edits = parse(json.as_bytes()).and_then(|edits| edits.resolve(&stored(), &api(), &Secrets::new()));
        edits
            .map(|edits| edits.apply(&stored()))
            .map_err(|problem| problem.status().as_u16())
    }

    /// The layer's default stripping of headers.
    fn api() -> ApiAddress {
        ApiAddress {
            base: "/tasks".into(),
            intake: IntakeSettings {
                strip: Strip::new(|headers, method| strip(headers, method, &HeaderPolicy::new())),
                ..IntakeSettings::default()
            },
            ..ApiAddress::default()
        }
    }

    #[test]
    fn nothing_said_is_nothing_changed() {
        for json in ["", " \n", "{}", "{\"body\":null}"] {
            assert!(parse(json.as_bytes()).unwrap().is_empty(), "{json}");
            assert_eq!(edit(json), Ok(stored()), "{json}");
        }
    }

    #[test]
    fn each_part_is_edited_by_itself() {
        let edited = edit("{\"uri\":\"/g?y=2\"}").unwrap();
        assert_eq!(edited.uri, "/g?y=2");
        assert_eq!(edited.body, stored().body);
        assert_eq!(edit("{\"body\":\"n\\u00fc\"}").unwrap().body, "nü");
        let emptied = edit("{\"body\":\"\"}").unwrap();
        assert_eq!(
            (&emptied.headers["content-length"], emptied.headers.len()),
            (&HeaderValue::from_static("0"), 4)
        );
        let edited = edit("{\"body\":\"/wA=\",\"bodyEncoding\":\"base64\"}").unwrap();
        assert_eq!(&edited.body[..], [0xff, 0]);
        let edited = edit("{\"headers\":{\"X-One\":\"1\",\"x-two\":[\"2\",\"3\"]}}").unwrap();
        assert_eq!(edited.headers.len(), 3);
        let two: Vec<_> = edited.headers.get_all("x-two").iter().collect();
        assert_eq!(two, ["2", "3"]);
    }

    #[test]
    fn a_secret_that_was_not_touched_is_put_back() {
        let edited = edit("{\"uri\":\"/g?token=REDACTED&token=new&token=REDACTED\"}");
        assert_eq!(edited, Err(400), "there is no third");
        let edited = edit("{\"uri\":\"/g?token=new&token=REDACTED&x=REDACTED\"}").unwrap();
        assert_eq!(edited.uri, "/g?token=new&token=two&x=REDACTED");

        let json = "{\"headers\":[[\"cookie\",\"REDACTED\"],[\"Cookie\",\"REDACTED\"],[\"x-plain\",\"REDACTED\"]]}";
        let edited = edit(json).unwrap();
        let cookies: Vec<_> = edited.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(edited.headers["x-plain"], "REDACTED");
        assert_eq!(edit("{\"headers\":{\"authorization\":\"REDACTED\"}}"), Err(400));
    }

    #[test]
    fn what_the_layer_takes_off_does_not_come_in_by_an_edit() {
        let json = "{\"headers\":{\"connection\":\"x-mine\",\"range\":\"1\",\"content-length\":\"9\",\
                    \"X-Respond-Async-Depth\":\"0\",\"X-Fc-Invocation-Type\":\"Async\",\"x-kept\":\"1\"}}";
        let edited = edit(json).unwrap();
        assert_eq!(edited.headers.len(), 1);
        assert_eq!(edited.headers["x-kept"], "1");
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for json in [
            "{",
            "[]",
            "\"x\"",
            "{\"method\":\"PUT\"}",
            "{\"uri\":\"\"}",
            "{\"uri\":\"g\"}",
            "{\"uri\":\"//evil.org/\"}",
            "{\"uri\":\"http://evil.org/\"}",
            "{\"uri\":\"*\"}",
            "{\"uri\":\"/a b\"}",
            "{\"uri\":\"/a#b\"}",
            "{\"uri\":\"/a\\r\\nx: y\"}",
            "{\"uri\":\"/tasks\"}",
            "{\"uri\":\"/tasks/x/stop?a\"}",
            "{\"uri\":\"/%74asks/x/stop\"}",
            "{\"headers\":{\"a b\":\"1\"}}",
            "{\"headers\":{\"\":\"1\"}}",
            "{\"headers\":{\"a\":\"1\\r\\nb: 2\"}}",
            "{\"headers\":{\"a\":1}}",
            "{\"headers\":[[\"a\"]]}",
            "{\"body\":{}}",
            "{\"body\":\"%\",\"bodyEncoding\":\"base64\"}",
            "{\"body\":\"\",\"bodyEncoding\":\"hex\"}",
        ] {
            assert_eq!(edit(json), Err(400), "{json}");
        }
    }
}
