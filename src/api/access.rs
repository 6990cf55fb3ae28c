//! Permissions: [`Access`], and the [`Authorizer`] that grants it from the head of a request.

use std::sync::Arc;

use http::{HeaderValue, request::Parts};

use crate::task::Scope;

/// Decides what the sender of a request may do.
///
/// A closure `Fn(&http::request::Parts) -> Access` is an authorizer. It is called once for every request, before the
/// path or the body is looked at. It must not block.
pub trait Authorizer: Send + Sync + 'static {
    /// What the sender of `request` may do. The path is the one that the task API gets, without the prefix that a
    /// router took off.
    fn authorize(&self, request: &Parts) -> Access;

    /// Whether it grants access to a request without a credential or a cookie. A client's address or place in the
    /// network is not a credential. The task API calls this once, when it is created.
    ///
    /// If `true`, the API and the console answer only for hosts that no stranger can own, see
    /// [`RespondAsyncBuilder::hosts`](crate::RespondAsyncBuilder::hosts). Otherwise a stranger's page, in a browser
    /// behind the firewall, could point its own host name to this server, and the browser would treat both as one
    /// origin.
    ///
    /// The default is `false`, also for every closure, since the crate cannot see what a closure checks. Instead of a
    /// closure that admits everyone, use [`allow_everyone`], with [`granting`](AllowEveryone::granting) if it grants
    /// less than everything.
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

/// Lets everyone who can reach the server see, stop, edit and delete all tasks.
///
/// For examples on loopback and for tests. It is a mistake on any server that strangers can reach. Pages of strangers
/// in a user's browser cannot use it: the API then answers only for known hosts, see
/// [`RespondAsyncBuilder::hosts`](crate::RespondAsyncBuilder::hosts).
#[must_use]
pub const fn allow_everyone() -> AllowEveryone {
    AllowEveryone {
        access: Access::full(Scope::All),
    }
}

/// An authorizer that admits everyone. [`allow_everyone`] makes it; [`granting`](Self::granting) has an example.
#[derive(Clone, Debug)]
pub struct AllowEveryone {
    access: Access,
}

impl AllowEveryone {
    /// Grants `access` to everyone, instead of full access.
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

/// What a caller may do: nothing, or certain actions on the tasks of a scope. The [module](crate::api) has an example.
///
/// For a task outside of the scope the API answers 404, as if there were no such task; for an action that is not
/// permitted, 403.
#[derive(Clone, Debug)]
pub struct Access(Decision);

#[derive(Clone, Debug)]
enum Decision {
    Denied { challenge: Option<HeaderValue> },
    Granted(Grant),
}

/// The scope and permissions of an admitted caller.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) scope: Scope,
    pub(super) user: Option<Arc<str>>,
    permissions: u16,
}

/// A refusal by the authorizer.
#[derive(Debug)]
pub(super) struct Denied {
    /// The `WWW-Authenticate` of a 401; without it the answer is 403.
    pub(super) challenge: Option<HeaderValue>,
}

/// One kind of action that a caller may be permitted. The [module](crate::api) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Permission {
    /// List tasks and see the counts.
    List,
    /// View a task, without its payload, result and log.
    View,
    /// View the request of a task: its body, and its headers with credentials redacted.
    Payload,
    /// Fetch the response of a task.
    Result,
    /// Read the log of a task.
    Logs,
    /// Stop a task.
    Stop,
    /// Run an ended task again, unchanged.
    Retry,
    /// Remove an ended task.
    Delete,
    /// Run an ended task again with its request edited (together with `Retry`). So the caller can send any request to
    /// the application, with the stored credentials.
    Invoke,
    /// List the completions of a task, and have them delivered again.
    Callbacks,
}

impl Permission {
    const ALL: u16 = 0b11_1111_1111;

    /// All permissions, in the order of their declaration.
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

    /// The name, as refusals and the OpenAPI document show it.
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
    /// No access: the answer is 403.
    #[must_use]
    pub const fn deny() -> Self {
        Self(Decision::Denied { challenge: None })
    }

    /// No access without credentials: the answer is 401, with this `WWW-Authenticate`.
    #[must_use]
    pub const fn challenge(challenge: HeaderValue) -> Self {
        Self(Decision::Denied {
            challenge: Some(challenge),
        })
    }

    /// All permissions, for the tasks in `scope`.
    #[must_use]
    pub const fn full(scope: Scope) -> Self {
        Self::granting(scope, Permission::ALL)
    }

    /// No permissions yet, for the tasks in `scope`. Add them [`with`](Self::with).
    #[must_use]
    pub const fn none(scope: Scope) -> Self {
        Self::granting(scope, 0)
    }

    /// The permissions list, view, payload, result and logs, for the tasks in `scope`.
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

    /// Adds `permission`. Denied access stays denied.
    #[must_use]
    pub fn with(self, permission: Permission) -> Self {
        self.map(|grant| grant.permissions |= permission.bit())
    }

    /// Removes `permission`.
    #[must_use]
    pub fn without(self, permission: Permission) -> Self {
        self.map(|grant| grant.permissions &= !permission.bit())
    }

    /// Names the user; [`Event::Changed`](crate::probe::Event::Changed) shows it as the author of a change.
    #[must_use]
    pub fn as_user(self, name: impl Into<Arc<str>>) -> Self {
        self.map(|grant| grant.user = Some(name.into()))
    }

    /// Whether the caller has `permission`.
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
    fn denied_access_stays_denied() {
        let access = Access::deny().with(Permission::List).as_user("eve");
        assert!(!access.allows(Permission::List));
        assert!(access.into_grant().is_err());
    }
}
