//! Listing tasks.

use http::StatusCode;
use serde::Serialize;

use crate::{
    api::{
        Permission, answer,
        call::{Answer, Call},
        paging,
        query::ListQuery,
        view::Payloads,
    },
    wire::TaskDocument,
};

/// `GET /`
pub(super) async fn list(call: Call) -> Answer {
    let query = ListQuery::read(&call.parts.uri)?;
    if query.include_payload {
        call.must_allow(Permission::Payload)?;
    }
    let order = query.page.order;
    let found = call.tasks.list(&call.grant.scope, &query.filter, query.page).await?;

    let mut payloads = Vec::with_capacity(found.items.len());
    for record in &found.items {
        payloads.push(match query.include_payload {
            true => call.payloads(record).await?,
            false => Payloads::default(),
        });
    }
    let tasks = found.items.iter().zip(&payloads);
    let list = ListDocument {
        tasks: tasks
            .map(|(record, payloads)| payloads.put_in(TaskDocument::new(record, &call.links)))
            .collect(),
        next_token: found
            .next
            .map(|cursor| paging::encode(order, cursor))
            .unwrap_or_default(),
    };
    Ok(answer::json(StatusCode::OK, &list))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListDocument<'a> {
    tasks: Vec<TaskDocument<'a>>,
    next_token: String,
}
