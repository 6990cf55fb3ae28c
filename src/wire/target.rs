//! The target of a request as its client wrote it, before routers removed prefixes.

#[cfg(feature = "axum")]
pub(crate) use self::with_axum::original;
#[cfg(not(feature = "axum"))]
pub(crate) use self::without::original;

#[cfg(feature = "axum")]
mod with_axum {
    use axum::extract::OriginalUri;
    use http::{Extensions, Uri};

    /// The target that the outermost router saw, if there is one.
    pub(crate) fn original(extensions: &Extensions) -> Option<&Uri> {
        extensions.get::<OriginalUri>().map(|original| &original.0)
    }
}

#[cfg(not(feature = "axum"))]
mod without {
    use http::{Extensions, Uri};

    /// Without axum, no extension has the target.
    pub(crate) const fn original(_: &Extensions) -> Option<&Uri> {
        None
    }
}
