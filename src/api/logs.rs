//! The log of a task.

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY, X_CONTENT_TYPE_OPTIONS},
};

use crate::{
    api::{
        answer::{self, NO_STORE, NOSNIFF},
        call::{Answer, Call},
        query::LogsQuery,
        stream::{Aborted, BodyWriter, stream},
    },
    engine::Observer,
    store::LogQuery,
    task::{LogLine, RequestId, redact::Secrets},
    wire::{
        LogDocument, Problem,
        json::{self, Object, key},
    },
};

/// How many lines a JSON answer has at most, by default.
const LINES: usize = 1000;

/// How many lines are read at once for a text answer: at most 1 MiB.
const LINES_AT_ONCE: usize = 64;

/// `GET /{id}/logs`
pub(super) async fn logs(call: Call) -> Answer {
    let query = LogsQuery::read(&call.parts.uri)?;
    let record = call.record().await?;
    let mut response = match wants_text(&call.parts.headers) {
        true => text(&call, record.id, query)?,
        false => page(&call, record.id, query).await?,
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

async fn page(call: &Call, id: RequestId, query: LogsQuery) -> Answer {
    let limit = query.limit.unwrap_or(LINES);
    // One more than the answer shows, to see whether there are more.
    let wanted = LogQuery {
        attempt: query.attempt,
        after: query.after,
        limit: limit + 1,
    };
    let mut lines = call.tasks.logs(id, wanted).await?;
    let more = lines.len() > limit;
    lines.truncate(limit);
    let next = lines.last().map_or(query.after, |line| line.seq);

    let mut out = Vec::with_capacity(256 * lines.len() + 64);
    let mut document = Object::begin(&mut out);
    document.member(key!("lines"), |out| {
        json::array(out, &lines, |out, line| {
            LogDocument::new(line, &call.secrets).write(out);
        });
    });
    document.number(key!("next"), next);
    document.truth(key!("more"), more);
    document.end();
    Ok(answer::document(StatusCode::OK, out.into()))
}

/// All lines, or as many as requested, read from the store as the client takes them.
fn text(call: &Call, id: RequestId, query: LogsQuery) -> Answer {
    let (observer, secrets) = (call.observer(), call.secrets.clone());
    let permit = observer.permit().ok_or_else(Problem::too_many_streams)?;
    let (writer, body) = stream();
    observer.spawn({
        let observer = observer.clone();
        async move {
            let _permit = permit;
            if write_text(&writer, &observer, id, query, &secrets).await.is_ok() {
                writer.end().await;
            }
        }
    });
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    Ok(response)
}

async fn write_text(
    writer: &BodyWriter,
    observer: &Observer,
    id: RequestId,
    query: LogsQuery,
    secrets: &Secrets,
) -> Result<(), Aborted> {
    let mut left = query.limit.unwrap_or(usize::MAX);
    let mut after = query.after;
    loop {
        let limit = left.min(LINES_AT_ONCE);
        let wanted = LogQuery {
            attempt: query.attempt,
            after,
            limit,
        };
        // On an error the text breaks off, so that the client does not take it for the whole log.
        let lines = observer.logs(id, wanted).await.map_err(|_| Aborted)?;
        let Some(last) = lines.last() else { return Ok(()) };
        after = last.seq;
        left -= lines.len();
        writer.write(as_text(&lines, secrets)).await?;
        if lines.len() < limit || left == 0 {
            return Ok(());
        }
    }
}

fn as_text(lines: &[LogLine], secrets: &Secrets) -> String {
    let texts = lines.iter().map(|line| LogDocument::new(line, secrets).to_string());
    texts.collect()
}

/// Whether the client names a text type in `Accept`, and prefers it to JSON.
fn wants_text(headers: &HeaderMap) -> bool {
    let (mut text, mut json) = (0, 0);
    for range in headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|all| all.split(','))
    {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or("");
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(1000, thousandths);
        if ["text/plain", "text/*"]
            .iter()
            .any(|name| kind.eq_ignore_ascii_case(name))
        {
            text = text.max(weight);
        } else if ["application/json", "application/*"]
            .iter()
            .any(|name| kind.eq_ignore_ascii_case(name))
        {
            json = json.max(weight);
        }
    }
    text > json
}

/// A weight (RFC 9110 §12.4.2) in thousandths; 0 if it is invalid.
fn thousandths(weight: &str) -> u32 {
    match weight.parse::<f32>() {
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_given_to_whom_names_it_and_prefers_it() {
        for (accept, text) in [
            ("", false),
            ("*/*", false),
            ("text/plain", true),
            ("Text/Plain; charset=utf-8", true),
            ("text/html, text/plain;q=0.9, */*;q=0.8", true),
            ("application/json, text/plain", false),
            ("application/json;q=0.5, text/plain", true),
            ("application/json, text/plain, */*", false),
            ("text/plain;q=0", false),
            ("text/plain;q=NaN", false),
            ("text/html", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
            assert_eq!(wants_text(&headers), text, "{accept}");
        }
    }
}
