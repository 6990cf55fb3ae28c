//! Which destinations and hosts answer.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::task::Destination;

/// Which destinations and hosts answered when completions were delivered to them, as far as this process has seen. It
/// passes them to a store to find [completions beyond their share](crate::store::Due::Crowded).
///
/// # Examples
///
/// ```
/// use std::{collections::HashMap, sync::Arc};
/// use tower_respond_async::{store::{Answering, Answers}, task::Destination};
///
/// let audit = Destination::new("audit");
/// let mut answers = Answers::default();
/// answers.silent = vec![audit.clone()];
/// answers.mixed = vec![Destination::CALLBACK];
/// answers.hosts = Arc::new(HashMap::from([("a.example".into(), true)]));
/// assert_eq!(answers.of(&audit, None), Answering::No);
/// assert_eq!(answers.of(&Destination::CALLBACK, Some("a.example")), Answering::Yes);
/// assert_eq!(answers.of(&Destination::CALLBACK, Some("b.example")), Answering::Unknown);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Answers {
    /// Destinations that do not answer.
    pub silent: Vec<Destination>,
    /// Destinations with many receivers, of which some may answer and others not: the hooks of this process, and
    /// [`Destination::CALLBACK`].
    pub mixed: Vec<Destination>,
    /// The hosts of callbacks that were tried, and whether they answer.
    pub hosts: Arc<HashMap<Box<str>, bool>>,
    /// How long a completion for a host that was not tried may be due. After that time it counts as not answered: there
    /// was no room to try the host.
    pub overdue: Duration,
}

/// Whether a destination or a host answers.
///
/// See the example of [`Answers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// It answers, or this process has not seen otherwise.
    Yes,
    /// It has not answered lately.
    No,
    /// It depends on the completion.
    Unknown,
}

impl Answers {
    /// Whether `destination` answers; if it has many receivers, whether `host` does.
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
