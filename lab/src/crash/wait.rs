//! Waits for an effect of another process. There is no event for it, so the condition is checked again and again.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tower_respond_async::BoxError;

/// The pause between two checks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `holds` is true, for at most `limit`. Answers whether it became true.
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
