//! Who answers, of those that are told how tasks end.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::task::Destination;

/// Who answers when told of completions, as far as the process knows that asks a store for [those beyond their
/// share](crate::store::Due::Crowded).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Answers {
    /// Destinations that do not.
    pub silent: Vec<Destination>,
    /// Destinations that are many places, of which one may answer and another not: the hooks of this process, and
    /// [`Destination::CALLBACK`].
    pub mixed: Vec<Destination>,
    /// The hosts of callbacks that were tried, and whether they answer.
    pub hosts: Arc<HashMap<Box<str>, bool>>,
    /// A completion for a host that was not tried is as good as one that is not answered when it has been due for so long:
    /// no place was free to try it.
    pub overdue: Duration,
}

/// Whether somebody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// So it seems, or others know better.
    Yes,
    /// Not lately.
    No,
    /// It depends on the completion.
    Unknown,
}

impl Answers {
    /// Whether this destination answers, or of callbacks this host.
    #[must_use]
    pub fn of(&self, destination: &Destination, host: Option<&str>) -> Answering {
        if self.silent.contains(destination) {
            return Answering::No;
        }
        if !self.mixed.contains(destination) {
            return Answering::Yes;
        }
        match host.and_then(|host| self.hosts.get(host)) {
            Some(true) => Answering::Yes,
            Some(false) => Answering::No,
            None => Answering::Unknown,
        }
    }
}
