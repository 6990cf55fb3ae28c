//! Settings: the addresses of the application and its task API, and what links begin with.

use super::RespondAsyncBuilder;

impl RespondAsyncBuilder {
    /// Sets the path of the task API, as in the requests that the layer gets. Default: `/tasks`.
    ///
    /// When you have made a `TaskApi`, answers link to it, and requests below this path are never async. So a client
    /// that sends its header with every request can poll.
    pub fn api_base(mut self, path: impl Into<String>) -> Self {
        self.api_base = path.into();
        self
    }

    /// Adds a path below which requests are never async. Default: only the [`api_base`](Self::api_base), if there is a
    /// `TaskApi`.
    pub fn never_async(mut self, path: impl Into<String>) -> Self {
        self.never_async.push(path.into());
        self
    }

    /// Sets the URL by which clients reach the application, such as `https://example.org/app`. It makes links absolute.
    ///
    /// Include the path that a proxy in front removes, if it removes one. Default: none, and [`links`](Self::links)
    /// decides.
    pub fn public_url(mut self, url: impl Into<String>) -> Self {
        self.public_url = Some(url.into());
        self
    }

    /// Adds hosts by which clients reach the task API and the console, if the API needs no credentials.
    ///
    /// Such an API answers 421 for any other host. This protects it from hostile web pages whose host name resolves to
    /// this server. The hosts are names or addresses, without scheme and port. Each call adds some.
    ///
    /// Always allowed are addresses, `localhost`, names without a dot or below `.localhost`, `.internal` and
    /// `.svc.cluster.local`, and the host of the [`public_url`](Self::public_url). Default: no others. An API with
    /// credentials that browsers do not send by themselves, such as a [`BearerToken`](crate::BearerToken), answers for
    /// every host.
    pub fn hosts<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.hosts.extend(hosts.into_iter().map(Into::into));
        self
    }

    /// Makes links absolute by the forwarding headers of a proxy in front. Default: off.
    ///
    /// These are `Forwarded` (RFC 7239), or `X-Forwarded-Proto` and `X-Forwarded-Host`. `X-Forwarded-Prefix` gives the
    /// path that the proxy removes. A [`public_url`](Self::public_url) overrides them.
    ///
    /// Use it only if all clients come through a proxy that sets or removes all of these headers: other clients could
    /// send any values.
    pub fn trust_forwarding_headers(mut self) -> Self {
        self.trust_forwarding = true;
        self
    }

    /// Sets what links begin with. Default: [`Links::PathAbsolute`].
    ///
    /// A [`public_url`](Self::public_url) and trusted [forwarding headers](Self::trust_forwarding_headers) override
    /// this. [Clients that poll](crate::guide::clients) says which clients need absolute links.
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
    /// A slash: `/tasks/...`.
    ///
    /// For clients that resolve links against the URL of their request, as HTTP says (RFC 9110 §10.2.2).
    #[default]
    PathAbsolute,
    /// The scheme and host of the request: `http://example.org:3000/tasks/...`.
    ///
    /// For clients that take only absolute URLs. The scheme comes from trusted forwarding headers or from the request
    /// target, as in HTTP/2, and is `http` otherwise. If the `Host` is invalid, links begin with a slash.
    ///
    /// The answer repeats the `Host` that the client sent. Do not use this if a shared cache stores answers regardless
    /// of `Host`.
    FromHost,
}
