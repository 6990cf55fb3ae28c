//! x
/// x
#[derive(Debug)]
pub struct MemoryStore;
/// x
#[derive(Debug)]
pub struct MemoryStoreBuilder;
