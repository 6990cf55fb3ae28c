//! [`Pace`]: reads a body that may be endless, or ready all the time.

use std::{error::Error, io};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::LengthLimitError;
use tokio::{task::coop, time::error::Elapsed};

use crate::wire::Problem;

/// The pace of reading one body. It yields the thread now and then, and ends a body of empty frames.
#[derive(Default)]
pub(crate) struct Pace {
    /// Frames without data, minus those with data.
    empty: usize,
}

/// A body of empty frames, which may be endless.
#[derive(Debug, thiserror::Error)]
#[error("nothing comes but empty frames")]
pub(crate) struct NothingComes;

impl Pace {
    /// How many more empty frames than others a body may have. Servers pass on few or none. A layer that rewrites a
    /// body may add one to each frame, and one at the beginning and the end. Beyond that, nothing is being sent: the
    /// limits on bytes never apply to empty frames, and the time limits are only checked while a body is waited for.
    const EMPTY_FRAMES: usize = 1024;

    /// Counts a frame, and yields if this task has used up its turn.
    ///
    /// # Errors
    ///
    /// [`NothingComes`] after too many empty frames.
    pub(crate) async fn after(&mut self, frame: &Frame<Bytes>) -> Result<(), NothingComes> {
        Self::turn().await;
        match frame.data_ref().is_some_and(|data| !data.is_empty()) {
            true => self.empty = self.empty.saturating_sub(1),
            false => self.empty += 1,
        }
        match self.empty > Self::EMPTY_FRAMES {
            true => Err(NothingComes),
            false => Ok(()),
        }
    }

    /// Yields if this task has used up its turn. For readers that have other limits.
    pub(crate) async fn turn() {
        coop::consume_budget().await;
    }
}

/// The answer to a client whose body could not be read. A layer outside may have a limit of its own, whose error may be
/// the cause of this one.
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
        if error.is::<NothingComes>() {
            return Problem::invalid_argument("The request's body has no end: nothing comes but empty frames.");
        }
        // The value inside of an `io::Error` is not its source; its source is that of the value.
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
            pace.after(&Frame::data(Bytes::new())).await.unwrap();
            pace.after(&Frame::data(Bytes::from_static(b"x"))).await.unwrap();
        }
        for _ in 0..Pace::EMPTY_FRAMES {
            pace.after(&Frame::data(Bytes::new())).await.unwrap();
        }
        assert!(pace.after(&Frame::data(Bytes::new())).await.is_err());
    }
}
