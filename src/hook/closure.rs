//! Closures as hooks.

use std::{marker::PhantomData, panic::resume_unwind, sync::Arc};

use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{
    error::{BoxError, BoxFuture},
    hook::{Completion, CompletionHook, Hook, Target},
};

/// How many threads one closure may block. It is called by nobody else until one of them returns, so that a closure which
/// never returns does not use up the threads that the runtime has for blocking work, 512 unless it was told otherwise.
const THREADS: usize = 16;

/// What can be given as a hook: a closure, an async closure, the sender of a `tokio::sync::mpsc` channel, a
/// [`CompletionHook`] behind an `Arc`, or a [`Target`], such as a webhook.
///
/// A closure that is not async may block: it is called on a thread that the runtime keeps for that. An async one must not.
///
/// `M` only tells these apart and is never written out.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no completion hook",
    note = "a hook is a closure `|completion: Completion| ...`, sync or async, answering `()` or `Result<(), E>`, a `tokio::sync::mpsc::Sender<Completion>`, an `Arc<dyn CompletionHook>`, or a `Target` such as a `Webhook`"
)]
pub trait IntoHook<M>: Send + Sync + 'static {
    /// Makes it one.
    fn into_hook(self) -> Hook;
}

/// What a hook may answer with: nothing, or a `Result` whose error means "try again".
pub trait IntoHookResult {
    /// The answer as the engine takes it.
    ///
    /// # Errors
    ///
    /// The hook's own error.
    fn into_hook_result(self) -> Result<(), BoxError>;
}

impl IntoHookResult for () {
    fn into_hook_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> IntoHookResult for Result<(), E> {
    fn into_hook_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

#[derive(Debug)]
#[doc(hidden)]
pub struct Plain;

#[derive(Debug)]
#[doc(hidden)]
pub struct Async<F>(PhantomData<fn() -> F>);

#[derive(Debug)]
#[doc(hidden)]
pub struct Given;

#[derive(Debug)]
#[doc(hidden)]
pub struct Aimed;

impl<F, R> IntoHook<(Plain, R)> for F
where
    F: Fn(Completion) -> R + Send + Sync + 'static,
    R: IntoHookResult,
{
    fn into_hook(self) -> Hook {
        struct SyncHook<F> {
            hook: Arc<F>,
            threads: Arc<Semaphore>,
        }

        impl<F, R> CompletionHook for SyncHook<F>
        where
            F: Fn(Completion) -> R + Send + Sync + 'static,
            R: IntoHookResult,
        {
            fn deliver(&self, completion: Completion) -> BoxFuture<'_, Result<(), BoxError>> {
                let (hook, threads) = (self.hook.clone(), self.threads.clone());
                Box::pin(async move {
                    let thread = threads.acquire_owned().await?;
                    let call = spawn_blocking(move || {
                        let answer = hook(completion).into_hook_result();
                        drop(thread);
                        answer
                    });
                    match call.await {
                        Ok(answer) => answer,
                        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                        Err(error) => Err(error.into()),
                    }
                })
            }
        }

        Hook::in_process(Arc::new(SyncHook {
            hook: Arc::new(self),
            threads: Arc::new(Semaphore::new(THREADS)),
        }))
    }
}

impl<F, Fut> IntoHook<Async<Fut>> for F
where
    F: Fn(Completion) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: IntoHookResult,
{
    fn into_hook(self) -> Hook {
        struct AsyncHook<F>(F);

        impl<F, Fut> CompletionHook for AsyncHook<F>
        where
            F: Fn(Completion) -> Fut + Send + Sync + 'static,
            Fut: Future + Send + 'static,
            Fut::Output: IntoHookResult,
        {
            fn deliver(&self, completion: Completion) -> BoxFuture<'_, Result<(), BoxError>> {
                Box::pin(async move { (self.0)(completion).await.into_hook_result() })
            }
        }

        Hook::in_process(Arc::new(AsyncHook(self)))
    }
}

impl IntoHook<Given> for Arc<dyn CompletionHook> {
    fn into_hook(self) -> Hook {
        Hook::in_process(self)
    }
}

impl<T: Target> IntoHook<Aimed> for T {
    fn into_hook(self) -> Hook {
        Hook::aimed(Arc::new(self))
    }
}
