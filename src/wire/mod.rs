//! What a client reads: the documents and headers that the layer and the task API answer with.
//!
//! - `problem`: a refusal, one document for every kind of client
//! - `document`: a task
//! - `delivery`: a completion on its way to somebody
//! - `operation`: a task, as a long-running operation of cloud guidelines
//! - `links`: where the task API is, and where a task is in it
//! - `forwarded`: where a client reached the front
//! - `relative`: references in a response, resolved
//! - `target`: the target of a request as its client wrote it
//! - `log`: a line of a task's log
//! - `json`: documents written as they are made
//! - `values`: header values that are made together
//! - `host`: by which name a client reached this server
//! - `hop`: headers that belong to one connection
//! - `own`: headers that nobody else sets

#[cfg_attr(
    not(feature = "api"),
    expect(dead_code, reason = "what it writes is for the task API")
)]
mod delivery;
mod document;
pub(crate) mod forwarded;
mod hop;
pub(crate) mod host;
pub(crate) mod json;
mod links;
#[cfg_attr(
    not(feature = "api"),
    expect(dead_code, reason = "what it writes is for the task API")
)]
mod log;
mod operation;
mod own;
mod problem;
mod relative;
mod target;
mod values;

pub(crate) use self::{
    delivery::DeliveryDocument,
    document::{TaskDocument, write_progress},
    hop::is_about_the_connection,
    links::{ApiLinks, LinkBase, OPERATION_LOCATION, below},
    log::LogDocument,
    operation::OperationDocument,
    own::{PROGRESS_HEADER, handed_out, is_own},
    problem::Problem,
    relative::resolve_references,
    target::original,
    values::{Short, Values, small_number},
};
pub(crate) use crate::task::own::STATUS as STATUS_HEADER;
