//! [`Pace`]: how a body is read that may never end, and may always be ready.

use std::{error::Error, io};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::LengthLimitError;
use tokio::{task::coop, time::error::Elapsed};

use crate::wire::Problem;

/// The reading of one body: it gives the thread up now and then, and ends where nothing but empty frames comes.
#[derive(Default)]
pub(crate) struct Pace {
    /// Frames without data, less those with data.
    empty: usize,
}

/// A body of empty frames, to which there may be no end.
#[derive(Debug, thiserror::Error)]
#[error("nothing comes but empty frames")]
pub(crate) struct NothingComes;

impl Pace {
    /// How many more empty frames than others a body may have. Servers hand on none or a few; a layer that rewrites a
    /// body may add one to every frame, and one where it begins and ends. Beyond this nobody sends anything: the limits
    /// on bytes never come to it, and those on time are only looked at while a body is waited for.
    const EMPTY_FRAMES: usize = 1024;

    /// Takes note of a frame, and lets others go on if this task has had its turn.
    ///
    /// # Errors
    ///
    /// [`NothingComes`] if there were too many empty frames.
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

    /// Lets others go on if this task has had its turn: for a reader that has a limit of its own on everything else.
    pub(crate) async fn turn() {
        coop::consume_budget().await;
    }
}

/// What it means to a client that its body was not read to its end. A layer outside that has a limit says so in an error,
/// perhaps as the cause of another.
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
        // What an `io::Error` wraps is not its source: that is the source of what it wraps.
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
