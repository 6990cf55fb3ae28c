#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_respond_async::testing::fuzz;

fuzz_target!(|data: &[u8]| fuzz::run("response_envelope", data));
