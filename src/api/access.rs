//! Who may do what: [`Access`], and the [`Authorizer`] that decides it from the head of a request.

use std::sync::Arc;

use http::{HeaderValue, request::Parts};

use crate::task::Scope;

/// Decides what the sender of a request may do.
///
/// A closure `Fn(&http::request::Parts) -> Access` is one. It is asked once for every request, before anything else is
/// looked at, and must not block.
pub trait Authorizer: Send + Sync + 'static {
    /// What the sender of `request` may do. The path in it is the one that the task API sees.
    fn authorize(&self, request: &Parts) -> Access;

    /// Whether it lets somebody in who shows nothing that a stranger lacks: neither a credential nor a cookie. Where a client is
    /// in the network, or which address it has, is nothing of that kind. Asked once, when the API is made.
    ///
    /// If so, the API and the console answer only at hosts that are known, see [`RespondAsyncBuilder::hosts`](crate::RespondAsyncBuilder::hosts): a page
    /// that a stranger wrote runs in a browser behind the firewall, and can have the name of its own host lead to this server,
    /// so that the browser takes both for one.
    ///
    /// The default, and what holds for every closure, is that it does ask for something: what is in a closure cannot be seen.
    /// One that lets in everybody is better written as [`allow_everyone`], which may be
    /// [`granting`](AllowEveryone::granting) less than everything.
    fn is_open(&self) -> bool {
        false
    }
}

impl<F> Authorizer for F
where
    F: Fn(&Parts) -> Access + Send + Sync + 'static,
{
    fn authorize(&self, request: &Parts) -> Access {
        self(request)
    }
}

/// Lets everyone who can reach the server see, stop, edit and delete everybody's tasks.
///
/// For examples on loopback and for tests. Behind anything that a stranger can reach it is a mistake. Strangers' web pages
/// cannot: the API then answers only at hosts that are known, see [`RespondAsyncBuilder::hosts`](crate::RespondAsyncBuilder::hosts).
#[must_use]
pub const fn allow_everyone() -> AllowEveryone {
    AllowEveryone {
        access: Access::full(Scope::All),
    }
}

/// Lets everyone in. Made by [`allow_everyone`].
#[derive(Clone, Debug)]
pub struct AllowEveryone {
    access: Access,
}

impl AllowEveryone {
    /// Everyone may do this instead of everything.
    ///
    /// ```
    /// use tower_respond_async::{Access, Scope, TaskApi, Tasks, allow_everyone};
    ///
    /// fn to_look_at(tasks: &Tasks) -> TaskApi {
    ///     TaskApi::new(tasks, allow_everyone().granting(Access::read_only(Scope::All)))
    /// }
    /// ```
    #[must_use]
    pub fn granting(mut self, access: Access) -> Self {
        self.access = access;
        self
    }
}

impl Authorizer for AllowEveryone {
    fn authorize(&self, _: &Parts) -> Access {
        self.access.clone()
    }

    fn is_open(&self) -> bool {
        true
    }
}

/// What a caller may do: nothing at all, or these things to those tasks.
///
/// What is outside of a caller's scope is answered as if it were not there; what the caller may not do, with 403.
#[derive(Clone, Debug)]
pub struct Access(Decision);

#[derive(Clone, Debug)]
enum Decision {
    Denied { challenge: Option<HeaderValue> },
    Granted(Grant),
}

/// What a caller may do who was let in.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) scope: Scope,
    pub(super) user: Option<Arc<str>>,
    permissions: u16,
}

/// Why a caller was not let in.
#[derive(Debug)]
pub(super) struct Denied {
    /// How to ask again, if with credentials it may help.
    pub(super) challenge: Option<HeaderValue>,
}

/// One kind of thing that a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Permission {
    /// List tasks and see the counts.
    List,
    /// See what is known about a task, but for payload, result and log.
    View,
    /// See the request of a task: its headers, redacted, and its body.
    Payload,
    /// Fetch the response of a task.
    Result,
    /// Read the log of a task.
    Logs,
    /// Stop a task.
    Stop,
    /// Run an ended task again, as it was.
    Retry,
    /// Remove an ended task.
    Delete,
    /// Make requests of one's own: run an ended task again with its request edited (together with `Retry`), which
    /// sends whatever the caller likes to the application, with the credentials that are stored.
    Invoke,
    /// See and repeat the notifications about a task.
    Callbacks,
}

impl Permission {
    const ALL: u16 = 0b11_1111_1111;

    /// Every one of them, in the order in which they are declared.
    pub(super) const EACH: [Self; 10] = [
        Self::List,
        Self::View,
        Self::Payload,
        Self::Result,
        Self::Logs,
        Self::Stop,
        Self::Retry,
        Self::Delete,
        Self::Invoke,
        Self::Callbacks,
    ];

    const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// The name, as a refusal says it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::View => "view",
            Self::Payload => "payload",
            Self::Result => "result",
            Self::Logs => "logs",
            Self::Stop => "stop",
            Self::Retry => "retry",
            Self::Delete => "delete",
            Self::Invoke => "invoke",
            Self::Callbacks => "callbacks",
        }
    }
}

impl Access {
    /// Nothing: the request is answered 403.
    #[must_use]
    pub const fn deny() -> Self {
        Self(Decision::Denied { challenge: None })
    }

    /// Nothing until the caller says who they are: the request is answered 401, with this `WWW-Authenticate`.
    #[must_use]
    pub const fn challenge(challenge: HeaderValue) -> Self {
        Self(Decision::Denied {
            challenge: Some(challenge),
        })
    }

    /// Everything, to the tasks in `scope`.
    #[must_use]
    pub const fn full(scope: Scope) -> Self {
        Self::granting(scope, Permission::ALL)
    }

    /// Nothing yet, to the tasks in `scope`: to be added [`with`](Self::with).
    #[must_use]
    pub const fn none(scope: Scope) -> Self {
        Self::granting(scope, 0)
    }

    /// Everything that changes nothing: list, view, payload, result and logs of the tasks in `scope`.
    #[must_use]
    pub fn read_only(scope: Scope) -> Self {
        Self::none(scope)
            .with(Permission::List)
            .with(Permission::View)
            .with(Permission::Payload)
            .with(Permission::Result)
            .with(Permission::Logs)
    }

    const fn granting(scope: Scope, permissions: u16) -> Self {
        Self(Decision::Granted(Grant {
            scope,
            user: None,
            permissions,
        }))
    }

    /// This access and `permission`. One that was denied stays so.
    #[must_use]
    pub fn with(self, permission: Permission) -> Self {
        self.map(|grant| grant.permissions |= permission.bit())
    }

    /// This access, but for `permission`.
    #[must_use]
    pub fn without(self, permission: Permission) -> Self {
        self.map(|grant| grant.permissions &= !permission.bit())
    }

    /// This access, as somebody of this name: what [`Event::Changed`](crate::probe::Event::Changed) says did it.
    #[must_use]
    pub fn as_user(self, name: impl Into<Arc<str>>) -> Self {
        self.map(|grant| grant.user = Some(name.into()))
    }

    /// Whether the caller may do this.
    #[must_use]
    pub const fn allows(&self, permission: Permission) -> bool {
        match &self.0 {
            Decision::Granted(grant) => grant.allows(permission),
            Decision::Denied { .. } => false,
        }
    }

    fn map(mut self, change: impl FnOnce(&mut Grant)) -> Self {
        if let Decision::Granted(grant) = &mut self.0 {
            change(grant);
        }
        self
    }

    pub(super) fn into_grant(self) -> Result<Grant, Denied> {
        match self.0 {
            Decision::Granted(grant) => Ok(grant),
            Decision::Denied { challenge } => Err(Denied { challenge }),
        }
    }
}

impl Grant {
    pub(super) const fn allows(&self, permission: Permission) -> bool {
        self.permissions & permission.bit() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_added_and_taken_away_one_by_one() {
        let access = Access::full(Scope::All).without(Permission::Delete);
        assert!(access.allows(Permission::Callbacks));
        assert!(!access.allows(Permission::Delete));
        assert!(access.with(Permission::Delete).allows(Permission::Delete));
        assert!(!Access::none(Scope::All).allows(Permission::List));
    }

    #[test]
    fn read_only_changes_nothing() {
        let access = Access::read_only(Scope::All);
        assert_eq!(
            Permission::EACH.iter().fold(0, |all, each| all | each.bit()),
            Permission::ALL
        );
        for permission in [
            Permission::Stop,
            Permission::Retry,
            Permission::Delete,
            Permission::Invoke,
            Permission::Callbacks,
        ] {
            assert!(!access.allows(permission), "{permission:?}");
        }
        assert!(access.allows(Permission::Result));
    }

    #[test]
    fn who_is_denied_stays_denied() {
        let access = Access::deny().with(Permission::List).as_user("eve");
        assert!(!access.allows(Permission::List));
        assert!(access.into_grant().is_err());
    }
}
