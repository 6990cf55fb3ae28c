//! Lists tasks.

use http::StatusCode;

use crate::{
    api::{
        Permission, answer,
        call::{Answer, Call},
        paging,
        query::ListQuery,
        view::Payloads,
    },
    wire::{
        TaskDocument,
        json::{self, Object, key},
    },
};

/// `GET /`
pub(super) async fn list(call: Call) -> Answer {
    let query = ListQuery::read(&call.parts.uri)?;
    if query.include_payload {
        call.must_allow(Permission::Payload)?;
    }
    let order = query.page.order;
    let found = call.tasks.list(&query.filter, query.page).await?;

    let mut payloads = Vec::with_capacity(found.items.len());
    for record in &found.items {
        payloads.push(match query.include_payload {
            true => call.payloads(record).await?,
            false => Payloads::default(),
        });
    }
    let next = found.next.map(|cursor| paging::encode(order, cursor));
    let mut out = Vec::new();
    let mut list = Object::begin(&mut out);
    list.member(key!("tasks"), |out| {
        json::array(out, found.items.iter().zip(&payloads), |out, (record, payloads)| {
            payloads
                .put_in(TaskDocument::new(record, &call.links, &call.secrets))
                .write(out);
        });
    });
    list.text(key!("nextToken"), next.as_deref().unwrap_or(""));
    list.end();
    Ok(answer::document(StatusCode::OK, out.into()))
}
