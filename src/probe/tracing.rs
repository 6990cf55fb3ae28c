//! Placeholder.
/// Placeholder.
#[derive(Debug)]
pub struct TracingProbe;
