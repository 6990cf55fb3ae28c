//! The layer.

mod body;

pub use self::body::{RequestBody, ResponseBody};
