//! A channel as a hook.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{
    error::{BoxError, BoxFuture},
    hook::{Completion, CompletionHook, Hook, IntoHook},
};

#[derive(Debug)]
#[doc(hidden)]
pub struct Channel;

/// Waits for room in the channel. If the receiver was dropped, the delivery has failed, and is tried again on its
/// schedule.
impl CompletionHook for mpsc::Sender<Completion> {
    fn deliver(&self, completion: Completion) -> BoxFuture<'_, Result<(), BoxError>> {
        Box::pin(async move {
            self.send(completion)
                .await
                .map_err(|_| "the receiver of the hook's channel is gone".into())
        })
    }
}

impl IntoHook<Channel> for mpsc::Sender<Completion> {
    fn into_hook(self) -> Hook {
        Hook::in_process(Arc::new(self))
    }
}
