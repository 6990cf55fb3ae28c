//! Where the console was asked for, and the way from there to the application.

use http::request::Parts;

use crate::wire::{below, original};

/// Where a request for the console stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// The path below the console: empty, or from the slash on.
    pub(super) path: &'a str,
    /// The path as it was before anything was taken off it.
    whole: &'a str,
}

impl<'a> Place<'a> {
    /// The place of `request`, where the service itself is to take `prefix` off. `None` if it is not below that.
    pub(super) fn of(request: &'a Parts, prefix: &str) -> Option<Self> {
        let path = below(prefix, request.uri.path())?;
        let whole = original(&request.extensions).unwrap_or(&request.uri).path();
        Some(Self { path, whole })
    }

    /// Where to go if the address lacks its slash: a relative reference, since a front may have taken off a prefix.
    pub(super) fn with_slash(&self) -> Option<String> {
        let page = self.path.is_empty() || self.path == "/";
        // Where the whole path is empty, as in `OPTIONS *`, there is nothing to put a slash to.
        let lacks = page && !self.whole.is_empty() && !self.whole.ends_with('/');
        // The `./` keeps a colon in a name from reading as a scheme.
        let last = self.whole.rsplit('/').next().unwrap_or_default();
        lacks.then(|| format!("./{last}/"))
    }
}

/// The way from a console mounted at `mount` up to where the application begins: `../` for each part of its path.
pub(super) fn to_root(mount: &str) -> String {
    let parts = mount.split('/').filter(|part| !part.is_empty());
    "../".repeat(parts.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str, prefix: &str) -> Option<(String, Option<String>)> {
        let (parts, ()) = http::Request::get(path).body(()).unwrap().into_parts();
        let place = Place::of(&parts, prefix)?;
        Some((place.path.to_owned(), place.with_slash()))
    }

    #[test]
    fn an_address_without_its_slash_is_seen() {
        assert_eq!(place("/", ""), Some(("/".into(), None)));
        assert_eq!(
            place("/console", "/console"),
            Some(("".into(), Some("./console/".into())))
        );
        assert_eq!(place("/console/", "/console"), Some(("/".into(), None)));
        assert_eq!(place("/console/app.js", "/console"), Some(("/app.js".into(), None)));
        assert_eq!(place("/consoles", "/console"), None);
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
            Place::of(&parts, "").unwrap().with_slash()
        };
        assert_eq!(of("/a/b", "/"), Some("./b/".into()));
        assert_eq!(of("/a/b/", "/"), None);
        assert_eq!(of("/a/b/app.js", "/app.js"), None);
    }
}
