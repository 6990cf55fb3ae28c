//! The documents and headers of the answers that the layer and the task API give.
//!
//! - `problem`: a refusal, as one document for every kind of client
//! - `document`: a task
//! - `delivery`: the delivery of a completion
//! - `operation`: a task as a long-running operation, as cloud guidelines describe it
//! - `links`: the address of the task API, and of a task in it
//! - `forwarded`: the address by which a client reached the reverse proxy
//! - `relative`: resolves references in a response
//! - `target`: the target of a request as its client wrote it
//! - `log`: a line of a task's log
//! - `json`: writes JSON documents
//! - `values`: header values that share an allocation
//! - `host`: the name by which a client reached this server
//! - `hop`: headers that belong to one connection
//! - `own`: headers that only this crate sets

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
