//! The promises every store keeps, on the stores of this crate.

use tower_respond_async::testing::conformance::MemoryHarness;

tower_respond_async::conformance!(memory, MemoryHarness::new());
