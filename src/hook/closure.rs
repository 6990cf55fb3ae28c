//! Closures as hooks.

use std::{marker::PhantomData, panic::resume_unwind, sync::Arc};

use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{
    error::{BoxError, BoxFuture},
    hook::{Completion, CompletionHook, Hook, Target},
};

/// How many threads one closure may block. When all are blocked, the closure is not called until one of them returns.
/// So a closure that never returns does not use up the runtime's threads for blocking work, 512 by default.
const THREADS: usize = 16;

/// A hook, in any form that the builder takes: a closure, an async closure, the sender of a `tokio::sync::mpsc`
/// channel, a [`CompletionHook`] behind an `Arc`, or a [`Target`], such as a webhook.
///
/// A closure that is not async may block: it is called on a thread for blocking work. An async closure must not block.
///
/// `M` only tells these forms apart. It is inferred, so you never write it.
///
/// # Examples
///
/// A function that takes a hook in any form. The [examples of the module](crate::hook#examples) show the forms.
///
/// ```
/// use tower_respond_async::{Completion, MemoryStore, RespondAsyncBuilder, RespondAsyncLayer, hook::IntoHook};
///
/// fn audited<M>(builder: RespondAsyncBuilder, audit: impl IntoHook<M>) -> RespondAsyncBuilder {
///     builder.on_completion(audit)
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let audit = |completion: Completion| println!("{} is {}", completion.task_id(), completion.state);
/// let layer = audited(RespondAsyncLayer::builder(MemoryStore::new()), audit).build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no completion hook",
    note = "a hook is a closure `|completion: Completion| ...`, sync or async, answering `()` or `Result<(), E>`, a `tokio::sync::mpsc::Sender<Completion>`, an `Arc<dyn CompletionHook>`, or a `Target` such as a `Webhook`"
)]
pub trait IntoHook<M>: Send + Sync + 'static {
    /// Makes a [`Hook`] of it.
    fn into_hook(self) -> Hook;
}

/// The return value of a hook: nothing, or a `Result` whose error means "try again".
///
/// In the first [example of the module](crate::hook#examples), one hook returns nothing, the other a `Result`.
pub trait IntoHookResult {
    /// The value as a `Result`.
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

impl IntoHook<Given> for Hook {
    fn into_hook(self) -> Hook {
        self
    }
}
