//! [`Pace`]: bounds the reading of a body that may be endless or always ready.

use std::{error::Error, io};

use http_body_util::LengthLimitError;
use tokio::{task::coop, time::error::Elapsed};

use crate::wire::Problem;

/// Yields the thread now and then while a body is read, and ends a body of empty frames.
#[derive(Default)]
pub(crate) struct Pace {
    /// Frames without data, minus frames with data, but at least 0 after each frame.
    empty: usize,
}

/// The error for a body of empty frames, which may be endless.
#[derive(Debug, thiserror::Error)]
#[error("the body has only empty frames")]
pub(crate) struct OnlyEmptyFrames;

impl Pace {
    /// The number by which a body's empty frames may exceed its other frames.
    ///
    /// Servers pass on few empty frames or none. A layer that rewrites a body may add one to each frame, and one at the
    /// beginning and the end. Other limits do not stop empty frames: such frames have no bytes, and the time limits are
    /// checked only when a frame is not ready.
    const EMPTY_FRAMES: usize = 1024;

    /// Counts a frame with this many bytes of data, and yields the thread if the Tokio task has used up its turn.
    ///
    /// # Errors
    ///
    /// [`OnlyEmptyFrames`] after too many empty frames.
    pub(crate) async fn after(&mut self, data: usize) -> Result<(), OnlyEmptyFrames> {
        Self::turn().await;
        match data {
            0 => self.empty += 1,
            _ => self.empty = self.empty.saturating_sub(1),
        }
        match self.empty > Self::EMPTY_FRAMES {
            true => Err(OnlyEmptyFrames),
            false => Ok(()),
        }
    }

    /// Yields the thread if the Tokio task has used up its turn. For readers that have other limits.
    pub(crate) async fn turn() {
        coop::consume_budget().await;
    }
}

/// The answer to a client whose body could not be read.
///
/// The cause may be the limit of a layer outside, so this searches the whole chain of sources.
pub(crate) fn unread(error: &(dyn Error + 'static)) -> Problem {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return Problem::entity_too_large_outside();
        }
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut) || error.is::<Elapsed>() {
            return Problem::request_timeout();
        }
        if error.is::<OnlyEmptyFrames>() {
            return Problem::invalid_argument("The request body is endless: it has only empty frames.");
        }
        // `io::Error::source` skips the wrapped error: it returns the source of that error.
        let wrapped = io.and_then(io::Error::get_ref);
        cause = wrapped.map_or_else(|| error.source(), |wrapped| Some(wrapped));
    }
    Problem::invalid_argument("The request's body broke off before its end; nothing was stored.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_empty_frame_beside_every_other_is_no_reason_to_end() {
        let mut pace = Pace::default();
        for _ in 0..10 * Pace::EMPTY_FRAMES {
            pace.after(0).await.unwrap();
            pace.after(1).await.unwrap();
        }
        for _ in 0..Pace::EMPTY_FRAMES {
            pace.after(0).await.unwrap();
        }
        assert!(pace.after(0).await.is_err());
    }
}
