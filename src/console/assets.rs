//! The files of the page, compiled in.

use std::sync::LazyLock;

use bytes::Bytes;
use http::HeaderValue;
use sha2::{Digest, Sha256};

/// One file of the page.
pub(super) struct Asset {
    pub(super) name: &'static str,
    pub(super) kind: HeaderValue,
    pub(super) content: &'static str,
    /// The entity tag, which changes with the content.
    pub(super) etag: HeaderValue,
}

/// The page itself, with placeholders for the addresses of the API and the application.
pub(super) const PAGE: &str = include_str!("assets/index.html");

macro_rules! assets {
    ($($name:literal,)*) => {
        [$(($name, include_str!(concat!("assets/", $name))),)*]
    };
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let files = assets![
        "api.js",
        "app.js",
        "base.css",
        "bulk.js",
        "callbacks.js",
        "chart.js",
        "curl.js",
        "dialog.js",
        "dom.js",
        "edit.js",
        "events.js",
        "format.js",
        "icon.svg",
        "invoke.js",
        "json.js",
        "keys.js",
        "labels.js",
        "live.js",
        "logs.js",
        "overview.js",
        "pages.css",
        "parts.css",
        "payload.js",
        "route.js",
        "session.js",
        "settings.js",
        "status.js",
        "task.js",
        "tasks.js",
        "timeline.js",
    ];
    files.map(|(name, content)| Asset::new(name, content)).into()
});

impl Asset {
    fn new(name: &'static str, content: &'static str) -> Self {
        let kind = match name.rsplit_once('.') {
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            _ => "text/plain; charset=utf-8",
        };
        Self {
            name,
            kind: HeaderValue::from_static(kind),
            content,
            etag: etag(content.as_bytes()),
        }
    }

    /// The file of exactly this name. Names are not decoded, and no path is looked up on disk.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        ASSETS.iter().find(|asset| asset.name == name)
    }

    pub(super) fn body(&self) -> Bytes {
        Bytes::from_static(self.content.as_bytes())
    }
}

/// A strong validator (RFC 9110 §8.8.3): half of the content's SHA-256.
pub(super) fn etag(content: &[u8]) -> HeaderValue {
    let digest = Sha256::digest(content);
    let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("\"{hex}\"")).expect("hexadecimal digits are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::lifecycle;

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/console/assets");
        let entries = std::fs::read_dir(folder).unwrap();
        let mut there: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        let mut served: Vec<_> = ASSETS.iter().map(|asset| asset.name).chain(["index.html"]).collect();
        served.sort_unstable();
        assert_eq!(there, served);
    }

    #[test]
    fn what_a_file_names_is_there() {
        for asset in ASSETS.iter().filter(|asset| asset.name.ends_with(".js")) {
            for line in asset.content.lines().filter(|line| line.contains(" from \"")) {
                let (_, name) = line
                    .rsplit_once(" from \"./")
                    .expect("modules are imported from beside");
                let name = name.trim_end_matches(['"', ';']);
                assert!(Asset::find(name).is_some(), "{}: {line}", asset.name);
            }
        }
    }

    #[test]
    fn the_timeline_knows_what_history_says() {
        let timeline = Asset::find("timeline.js").unwrap();
        for said in [
            lifecycle::RELEASED,
            lifecycle::DEFERRED,
            lifecycle::HANDED_ON,
            lifecycle::RESCUED,
            lifecycle::RERUN,
        ] {
            assert!(timeline.content.contains(&format!(" = \"{said}\";")), "{said}");
        }
    }

    #[test]
    fn nothing_takes_text_for_markup_or_code() {
        const FORBIDDEN: [&str; 9] = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "srcdoc",
            "setAttribute(\"style\"",
            "DOMParser",
        ];
        for asset in ASSETS.iter() {
            for word in FORBIDDEN {
                assert!(!asset.content.contains(word), "{} has {word}", asset.name);
            }
        }
        assert!(!PAGE.contains("<style") && !PAGE.contains(" style=") && !PAGE.contains(" on"));
        assert_eq!(
            PAGE.matches("<script").count(),
            PAGE.matches("<script type=\"module\" src=").count()
        );
    }
}
