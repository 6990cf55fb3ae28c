//! Waiting for what another process does. Nothing tells of that but what it leaves behind, so that is looked at again and
//! again, for a while.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tower_respond_async::BoxError;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `holds`, for at most `limit`. Answers whether it came about.
pub(crate) async fn comes_about<F>(limit: Duration, mut holds: impl FnMut() -> F) -> Result<bool, BoxError>
where
    F: Future<Output = Result<bool, BoxError>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if holds().await? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(PAUSE).await;
    }
}
