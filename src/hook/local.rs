//! The hooks of this process, as one destination.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    error::BoxFuture,
    hook::{Application, Completion, CompletionHook, Schedule, Target, Tried, TryOutcome},
    task::{Conditions, Destination},
};

/// How long one call of a hook may take. No task waits for it, but it takes one of few slots of the destination.
const HOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// How many completions are delivered at once. Hooks mostly wait, and must not take the processor from handlers.
const CONCURRENCY: usize = 16;

/// The hooks of this process, each with the kinds of end that it is called for.
#[derive(Clone, Default)]
pub(crate) struct LocalHooks {
    hooks: Vec<(Conditions, Arc<dyn CompletionHook>)>,
    schedule: Schedule,
}

impl LocalHooks {
    pub(crate) fn add(&mut self, on: Conditions, hook: Arc<dyn CompletionHook>) {
        self.hooks.push((on, hook));
    }

    /// The kinds of end that any of the hooks is called for.
    pub(crate) fn on(&self) -> Conditions {
        self.hooks.iter().fold(Conditions::NONE, |all, (on, _)| all.or(*on))
    }
}

impl Target for LocalHooks {
    fn name(&self) -> &Destination {
        const LOCAL: &Destination = &Destination::LOCAL;
        LOCAL
    }

    /// Calls every hook for this kind of end, until one fails. At the next try, all are called again.
    fn deliver<'a>(&'a self, completion: Completion, _: &'a dyn Application) -> BoxFuture<'a, Tried> {
        Box::pin(async move {
            for (_, hook) in self.hooks.iter().filter(|(on, _)| on.contains(completion.condition)) {
                match timeout(HOOK_TIMEOUT, hook.deliver(completion.clone())).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Tried::failed(error),
                    Err(_) => return Tried::failed(format_args!("the hook took longer than {HOOK_TIMEOUT:?}")),
                }
            }
            Tried::new(TryOutcome::Delivered)
        })
    }

    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    /// Each hook has its whole time-out.
    fn limit(&self) -> Duration {
        HOOK_TIMEOUT.saturating_mul(self.hooks.len() as u32 + 1)
    }
}
