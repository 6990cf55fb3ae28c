//! The addresses of the application and its task API, and the beginning of links.

use super::RespondAsyncBuilder;

impl RespondAsyncBuilder {
    /// The path of the task API, as the layer sees it. Once you have made a `TaskApi`, answers link to it, and requests
    /// below it are never deferred, so that a client that sends its header with every request can poll. Default:
    /// `/tasks`.
    pub fn api_base(mut self, path: impl Into<String>) -> Self {
        self.api_base = path.into();
        self
    }

    /// Adds a path below which no request is deferred. Default: only the [`api_base`](Self::api_base), if there is a
    /// `TaskApi`.
    pub fn never_async(mut self, path: impl Into<String>) -> Self {
        self.never_async.push(path.into());
        self
    }

    /// The URL by which clients reach the application, with the path that a front removes, if it does:
    /// `https://example.org/app`. It makes every link absolute. Default: unknown, and [`links`](Self::links) decides.
    pub fn public_url(mut self, url: impl Into<String>) -> Self {
        self.public_url = Some(url.into());
        self
    }

    /// The hosts by which clients reach the task API and the console, if the API needs no credentials. It answers 421
    /// at any other host, such as one that a hostile page leads to this server. Names without scheme and port; each
    /// call adds some.
    ///
    /// Allowed without this are addresses, `localhost`, names without a dot or below `.localhost`, `.internal` and
    /// `.svc.cluster.local`, and the host of the [`public_url`](Self::public_url). Default: no others. An API with
    /// credentials that browsers do not send by themselves, such as a [`BearerToken`](crate::BearerToken), answers at
    /// every host.
    pub fn hosts<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.hosts.extend(hosts.into_iter().map(Into::into));
        self
    }

    /// Uses `Forwarded` (RFC 7239), or `X-Forwarded-Proto` and `X-Forwarded-Host`, so that every link is absolute; a
    /// [`public_url`](Self::public_url) wins. It also uses `X-Forwarded-Prefix` for the path that the front removes.
    /// Default: off. Use it only if all clients come through a front that sets or removes all of these headers: other
    /// clients could send any values.
    pub fn trust_forwarding_headers(mut self) -> Self {
        self.trust_forwarding = true;
        self
    }

    /// What links begin with, if neither a [`public_url`](Self::public_url) nor trusted [forwarding
    /// headers](Self::trust_forwarding_headers) decide. Default: [`Links::PathAbsolute`].
    ///
    /// [Clients that poll](crate::guide::clients) says which clients need absolute links.
    pub fn links(mut self, links: Links) -> Self {
        self.links = links;
        self
    }
}

/// What links begin with, in headers and documents.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{Links, MemoryStore, RespondAsyncLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).links(Links::FromHost).build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Links {
    /// A slash: `/tasks/...`. For clients that resolve links against the URL of their request, as HTTP says (RFC 9110
    /// §10.2.2).
    #[default]
    PathAbsolute,
    /// The scheme and host of the request: `http://example.org:3000/tasks/...`. For clients that take only absolute
    /// URLs. The scheme comes from trusted forwarding headers or from the request target, as in HTTP/2, and is `http`
    /// otherwise. An invalid `Host` is not used; links begin with a slash then.
    ///
    /// The answer repeats the `Host` that its client sent. Do not use this if a shared cache stores answers regardless
    /// of `Host`.
    FromHost,
}
