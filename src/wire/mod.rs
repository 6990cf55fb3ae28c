//! What a client reads: the documents and headers that the layer and the task API answer with.
//!
//! - `problem`: a refusal, one document for every kind of client
//! - `document`: a task
//! - `operation`: a task, as a long-running operation of cloud guidelines
//! - `links`: where the task API is, and where a task is in it
//! - `json`: documents written as they are made
//! - `redact`: what no view shows
//! - `values`: header values that are made together
//! - `hop`: headers that belong to one connection

mod document;
mod hop;
pub(crate) mod json;
mod links;
mod operation;
mod problem;
mod redact;
mod values;

pub(crate) use self::{
    document::TaskDocument,
    hop::HopByHop,
    links::{ApiLinks, X_FC_ASYNC_TASK_ID, X_FC_REQUEST_ID, below},
    operation::OperationDocument,
    problem::{Problem, STATUS_HEADER, TRUNCATED_HEADER},
    redact::{REDACTED, RedactedUri, is_secret_header, is_secret_query_key},
    values::Values,
};
