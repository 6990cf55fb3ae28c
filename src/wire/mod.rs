//! What a client reads: the documents and headers that the layer and the task API answer with.
//!
//! - `problem`: a refusal, one document for every kind of client
//! - `document`: a task
//! - `operation`: a task, as a long-running operation of cloud guidelines
//! - `links`: where the task API is, and where a task is in it
//! - `payload`: bytes as they stand in a document
//! - `redact`: what no view shows
//! - `hop`: headers that belong to one connection

mod document;
mod hop;
mod links;
mod operation;
mod payload;
mod problem;
mod redact;

pub(crate) use self::{
    document::TaskDocument,
    hop::HopByHop,
    links::{ApiLinks, OPERATION_LOCATION, below},
    operation::OperationDocument,
    payload::Payload,
    problem::{Problem, STATUS_HEADER, TRUNCATED_HEADER},
    redact::{REDACTED, RedactedUri, is_secret_header, is_secret_query_key},
};
