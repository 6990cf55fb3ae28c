//! Placeholder.
/// Placeholder.
#[derive(Debug)]
pub struct MetricsProbe;
