//! Where the application and its task API are reached, and what links begin with.

use super::RespondAsyncBuilder;

impl RespondAsyncBuilder {
    /// The path under which the task API is mounted, as the layer sees it. Once a `TaskApi` was made, answers point there,
    /// and requests below it are never deferred, so that a client that sends its trigger header with every request can
    /// poll. Default: `/tasks`.
    pub fn api_base(mut self, path: impl Into<String>) -> Self {
        self.api_base = path.into();
        self
    }

    /// One more path below which nothing is deferred. Default: only the [`api_base`](Self::api_base), while there is a
    /// `TaskApi`.
    pub fn never_async(mut self, path: impl Into<String>) -> Self {
        self.never_async.push(path.into());
        self
    }

    /// The scheme, host and, if a front takes one off, path under which clients reach the application:
    /// `https://example.org/app`. With it every link is absolute. Default: unknown, and [`links`](Self::links) decides.
    pub fn public_url(mut self, url: impl Into<String>) -> Self {
        self.public_url = Some(url.into());
        self
    }

    /// Hosts by which clients reach the task API and the console, where the API is open to everybody: at any other, such as
    /// one that the page of a stranger makes lead here, it answers 421. Names without scheme and port; each call adds some.
    ///
    /// Known without this are addresses, `localhost`, names without a dot or below `.localhost`, `.internal` and
    /// `.svc.cluster.local`, and the host of the [`public_url`](Self::public_url). Default: no others. An API that asks for
    /// credentials which no browser sends by itself, such as a [`BearerToken`](crate::BearerToken), answers at every host.
    pub fn hosts<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.hosts.extend(hosts.into_iter().map(Into::into));
        self
    }

    /// Believes the headers `Forwarded` (RFC 7239), or `X-Forwarded-Proto` and `X-Forwarded-Host`, about how a client
    /// reached the front, so that every link is absolute without a [`public_url`](Self::public_url), which goes before;
    /// and `X-Forwarded-Prefix` about the path that the front takes off. Default: off. Only for an application that
    /// nobody reaches but through a front which sets or removes all of them: anybody else could write what they like.
    pub fn trust_forwarding_headers(mut self) -> Self {
        self.trust_forwarding = true;
        self
    }

    /// What the links of an answer begin with, where neither a [`public_url`](Self::public_url) nor trusted
    /// [forwarding headers](Self::trust_forwarding_headers) say. Default: [`Links::PathAbsolute`].
    ///
    /// [Clients that poll](crate::guide::clients) says which clients need absolute links.
    pub fn links(mut self, links: Links) -> Self {
        self.links = links;
        self
    }
}

/// What the links of an answer begin with: the headers that name a task, and the links in its documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Links {
    /// A slash: `/tasks/...`. Right for clients that resolve what they are given against the URL that they asked, as
    /// HTTP has it (RFC 9110 §10.2.2).
    #[default]
    PathAbsolute,
    /// The scheme and host that the request named: `http://example.org:3000/tasks/...`. For clients that take only
    /// absolute URLs. The scheme is that of trusted forwarding headers or of the request's target, as HTTP/2 has it,
    /// else `http`. A `Host` that is no plain host and port is not used: then links begin with a slash.
    ///
    /// The answer repeats the `Host` that its own client sent. Do not use it where a cache that others share keeps
    /// answers to requests which differ in their `Host`.
    FromHost,
}
