//! Paths, queries and their parts.

use http::Uri;

use crate::{
    api::{paging, query},
    task::{Filter, RequestId, SortOrder, TaskName, TaskRef},
};

/// A token means one place in one order, and has one spelling.
pub(super) fn paging_token(data: &[u8]) {
    let Ok(token) = str::from_utf8(data) else { return };
    let orders = [SortOrder::Ascending, SortOrder::Descending];
    let places = orders.map(|order| paging::decode(token, order).map(|cursor| (order, cursor)));
    assert!(places.iter().flatten().count() <= 1, "{token} stands for two places");
    for (order, cursor) in places.into_iter().flatten() {
        assert_eq!(paging::encode(order, cursor), token);
    }
}

/// What is read from a query is within its limits.
pub(super) fn query(data: &[u8]) {
    let Ok(query) = str::from_utf8(data) else { return };
    let Ok(uri) = format!("/?{query}").parse::<Uri>() else {
        return;
    };
    if let Ok(read) = query::ListQuery::read(&uri) {
        assert!((1..=100).contains(&read.page.limit));
        for text in [&read.filter.prefix, &read.filter.function, &read.filter.text] {
            assert!(text.as_ref().is_none_or(|text| text.len() <= Filter::TEXT_BYTES));
        }
    }
    let _ = query::include_payload(&uri);
    let _ = query::wait(&uri);
}

/// An accepted id or name is shown as it was sent.
pub(super) fn ids(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(name) = TaskName::new(text) {
        assert_eq!(name.as_str(), text);
        assert!(text.parse::<Uri>().is_ok(), "{text} can stand in a path");
    }
    if let Ok(task) = text.parse::<TaskRef>() {
        assert_eq!(task.to_string().parse(), Ok(task));
    }
    if let Ok(id) = text.parse::<RequestId>() {
        assert!(id.to_string().eq_ignore_ascii_case(text), "{text} is read as {id}");
    }
}
