//! What a long job needs from outside: a receiver of its progress, and a stop signal.
//!
//! The transcoder uses this trait only, so tests control both sides. In the app it is the layer's `TaskContext`, which
//! also works for a plain request: then progress goes nowhere, and no stop ever comes.

use tower_respond_async::TaskContext;

/// Receives the progress of a job, and stops it.
pub trait Job: Send + Sync + 'static {
    /// Reports the progress, from 0 to 1.
    fn progress(&self, fraction: f32, message: &str);

    /// Resolves when the job must stop. For a job that cannot be stopped it never resolves.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static;
}

/// A task of the layer; for a plain request the context is detached.
impl Job for TaskContext {
    fn progress(&self, fraction: f32, message: &str) {
        self.progress(fraction, message);
    }

    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stopped()
    }
}

/// Progress over several stages that never goes back. Steps of less than a hundredth are not reported.
pub(crate) struct Meter<'a, J> {
    job: &'a J,
    told: f32,
}

/// A part of the job, with its share of the whole.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    Fetching,
    Transcoding,
    Storing,
}

impl Stage {
    /// The range of a stage: transcoding is nearly all of it. 1 is reported only when the product is there.
    const fn span(self) -> (f32, f32) {
        match self {
            Self::Fetching => (0.0, 0.05),
            Self::Transcoding => (0.05, 0.95),
            Self::Storing => (0.95, 0.99),
        }
    }
}

impl<'a, J: Job> Meter<'a, J> {
    pub(crate) fn start(job: &'a J, message: &str) -> Self {
        job.progress(0.0, message);
        Self { job, told: 0.0 }
    }

    /// Sets the progress of this stage to `done` of `all`. Reports the whole when it has moved by a hundredth or more.
    pub(crate) fn advance(&mut self, stage: Stage, done: f64, all: f64, message: impl FnOnce() -> String) {
        let (from, to) = stage.span();
        let part = if all > 0.0 { (done / all).clamp(0.0, 1.0) } else { 0.0 };
        let fraction = from + (to - from) * part as f32;
        if fraction - self.told >= STEP {
            self.told = fraction;
            self.job.progress(fraction, &message());
        }
    }

    pub(crate) fn finish(self, message: &str) {
        self.job.progress(1.0, message);
    }
}

/// Finer steps would cost the store a write each, and are not visible.
const STEP: f32 = 0.01;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<f32>>);

    impl Job for Told {
        fn progress(&self, fraction: f32, _: &str) {
            self.0.lock().unwrap().push(fraction);
        }

        fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
            std::future::pending()
        }
    }

    #[test]
    fn progress_never_goes_back_and_is_not_reported_twice() {
        let told = Told::default();
        let mut meter = Meter::start(&told, "");
        for (stage, done) in [
            (Stage::Fetching, 10.0),
            (Stage::Transcoding, -3.0),
            (Stage::Transcoding, 5.0),
            (Stage::Transcoding, 5.0),
            (Stage::Transcoding, 4.0),
            (Stage::Transcoding, f64::NAN),
            (Stage::Transcoding, 99.0),
            (Stage::Storing, 0.0),
        ] {
            meter.advance(stage, done, 10.0, String::new);
        }
        meter.advance(Stage::Storing, 1.0, 0.0, String::new);
        meter.finish("");
        assert_eq!(*told.0.lock().unwrap(), [0.0, 0.05, 0.5, 0.95, 1.0]);
    }
}
