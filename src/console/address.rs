//! The address of a request to the console, and the relative path from there to the application.

use http::request::Parts;

use crate::wire::{below, original};

/// The address of a request to the console.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address<'a> {
    /// The path below the console: empty, or from the slash on.
    pub(super) path: &'a str,
    /// The path before any prefix was taken off.
    whole: &'a str,
}

impl<'a> Address<'a> {
    /// The address of `request`, if its path is below `prefix`, which the service itself takes off.
    pub(super) fn of(request: &'a Parts, prefix: &str) -> Option<Self> {
        let path = below(prefix, request.uri.path())?;
        let whole = original(&request.extensions).unwrap_or(&request.uri).path();
        Some(Self { path, whole })
    }

    /// The redirect target if the page's address lacks its slash. It is relative, since a proxy may have taken off a
    /// prefix.
    pub(super) fn with_slash(&self) -> Option<String> {
        let page = self.path.is_empty() || self.path == "/";
        // An empty whole path, as in `OPTIONS *`, cannot get a slash.
        let lacks = page && !self.whole.is_empty() && !self.whole.ends_with('/');
        // The `./` prevents that the part before a colon in a name reads as a scheme.
        let last = self.whole.rsplit('/').next().unwrap_or_default();
        lacks.then(|| format!("./{last}/"))
    }
}

/// The relative path from a console mounted at `mount` to the root of the application: `../` for each segment.
pub(super) fn to_root(mount: &str) -> String {
    let parts = mount.split('/').filter(|part| !part.is_empty());
    "../".repeat(parts.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(path: &str, prefix: &str) -> Option<(String, Option<String>)> {
        let (parts, ()) = http::Request::get(path).body(()).unwrap().into_parts();
        let address = Address::of(&parts, prefix)?;
        Some((address.path.to_owned(), address.with_slash()))
    }

    #[test]
    fn an_address_without_its_slash_is_seen() {
        assert_eq!(address("/", ""), Some(("/".into(), None)));
        assert_eq!(
            address("/console", "/console"),
            Some(("".into(), Some("./console/".into())))
        );
        assert_eq!(address("/console/", "/console"), Some(("/".into(), None)));
        assert_eq!(address("/console/app.js", "/console"), Some(("/app.js".into(), None)));
        assert_eq!(address("/consoles", "/console"), None);
    }

    #[test]
    fn the_way_up_is_as_long_as_the_way_down() {
        for (mount, up) in [("", ""), ("/", ""), ("/console", "../"), ("/ops/console/", "../../")] {
            assert_eq!(to_root(mount), up, "{mount}");
        }
    }

    #[cfg(feature = "axum")]
    #[test]
    fn a_router_s_memory_of_the_address_counts() {
        let of = |whole: &'static str, path: &str| {
            let mut request = http::Request::get(path).body(()).unwrap();
            let original = axum::extract::OriginalUri(http::Uri::from_static(whole));
            request.extensions_mut().insert(original);
            let (parts, ()) = request.into_parts();
            Address::of(&parts, "").unwrap().with_slash()
        };
        assert_eq!(of("/a/b", "/"), Some("./b/".into()));
        assert_eq!(of("/a/b/", "/"), None);
        assert_eq!(of("/a/b/app.js", "/app.js"), None);
    }
}
