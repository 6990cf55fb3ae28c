//! What a caller may ask for, checked before anything is opened.
//!
//! Names are refused rather than cleaned: a cleaned name is another name, and two components that clean differently let
//! `..%2f` through. After this file a [`Key`] is safe to join to a directory, and no other type is accepted.

use std::fmt;

use object_store::path::Path;
use serde::Deserialize;

use crate::{error::Error, format::Format};

/// The body of `POST /`.
///
/// Unknown fields are refused: a job that takes minutes should not silently ignore `"bitrate": 900` or `"dst_fromat"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TranscodeRequest {
    /// The bucket that holds the object and gets the product.
    pub bucket: String,
    /// The video to read: `480P.mp4`, or `raw/480P.mp4`.
    pub object: String,
    /// The directory in the bucket for the product: `a`, or `a/b/`.
    pub output_dir: String,
    /// The format of the product: see [`Format::names`].
    pub dst_format: String,
}

/// A checked request: every name is safe, the format is known, and the product is not its own source.
#[derive(Clone, Debug)]
pub struct Order {
    /// The bucket.
    pub bucket: BucketName,
    /// The object to read.
    pub object: Key,
    /// The object to write: `{output_dir}/{file name of object, with the format's extension}`. An existing object is
    /// replaced, since a retry must be able to write it again.
    pub product: Key,
    /// The format to write.
    pub format: Format,
}

impl TryFrom<TranscodeRequest> for Order {
    type Error = Error;

    fn try_from(request: TranscodeRequest) -> Result<Self, Error> {
        let bucket = BucketName::parse(&request.bucket)?;
        let object = Key::parse("object", &request.object)?;
        // "a/" and "a" mean the same directory.
        let directory = request.output_dir.strip_suffix('/').unwrap_or(&request.output_dir);
        let directory = Key::parse("output_dir", directory)?;
        let format = Format::parse(&request.dst_format).ok_or(Error::UnknownFormat)?;

        let product = Key::parse(
            "output_dir",
            &format!("{directory}/{}.{}", object.file_stem(), format.name()),
        )?;
        if product == object {
            return Err(Error::OutputIsInput(object));
        }
        Ok(Self {
            bucket,
            object,
            product,
            format,
        })
    }
}

/// The name of a bucket, which is also the name of a directory: letters, digits, `-`, `_` and `.`, first a letter or
/// digit, at most 63 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketName(String);

impl BucketName {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] says what is wrong with it.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let problem = if name.is_empty() {
            "is empty"
        } else if name.len() > MAX_BUCKET {
            "is longer than 63 characters"
        } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            "must begin with a letter or a digit"
        } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            "may hold letters, digits, `-`, `_` and `.` only"
        } else if name.contains("..") {
            "holds `..`"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(Error::InvalidField {
            field: "bucket",
            problem,
        })
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an object inside its bucket: relative, with `/` between parts, none of which leads outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(Path);

impl Key {
    /// Checks a name, which the caller sent as `field`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] says what is wrong with it.
    pub fn parse(field: &'static str, name: &str) -> Result<Self, Error> {
        let invalid = |problem| Error::InvalidField { field, problem };
        if let Some(problem) = problem_with_key(name) {
            return Err(invalid(problem));
        }
        // The store's own check is a second fence: today it refuses nothing that passes the first.
        Path::parse(name)
            .map(Self)
            .map_err(|_| invalid("is not a name that a bucket can hold"))
    }

    pub(crate) const fn as_path(&self) -> &Path {
        &self.0
    }

    /// `480P` of `raw/480P.mp4`. A name that is all extension is kept whole.
    fn file_stem(&self) -> &str {
        let name = self.0.filename().unwrap_or_default();
        match name.rsplit_once('.') {
            Some((stem, _)) if !stem.is_empty() => stem,
            _ => name,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn problem_with_key(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.len() > MAX_KEY {
        return Some("is longer than 1024 bytes");
    }
    if name.starts_with('/') {
        return Some("is an absolute path");
    }
    if name.contains(char::is_control) {
        return Some("holds a control character");
    }
    if name.contains('\\') {
        return Some("holds a backslash");
    }
    // Another decoder would read another name, and a directory bucket calls an unfinished upload `name#1`.
    if name.contains(['%', '#']) {
        return Some("holds `%` or `#`, which are not taken in names");
    }
    name.split('/').find_map(|part| match part {
        "" => Some("has an empty part: `//`, or a `/` at the end"),
        "." | ".." => Some("holds `.` or `..` as a part"),
        part if part.len() > MAX_PART => Some("has a part longer than 240 bytes"),
        _ => None,
    })
}

/// The limit of S3.
const MAX_BUCKET: usize = 63;
/// The limit of S3.
const MAX_KEY: usize = 1024;
/// File systems stop at 255; the rest is for the extension and for the mark of an unfinished upload.
const MAX_PART: usize = 240;

#[cfg(test)]
mod tests {
    use super::*;

    fn order(bucket: &str, object: &str, output_dir: &str, dst_format: &str) -> Result<Order, Error> {
        Order::try_from(TranscodeRequest {
            bucket: bucket.to_owned(),
            object: object.to_owned(),
            output_dir: output_dir.to_owned(),
            dst_format: dst_format.to_owned(),
        })
    }

    #[test]
    fn the_product_has_the_stem_of_the_object_and_the_extension_of_the_format() {
        for (object, output_dir, product) in [
            ("480P.mp4", "a", "a/480P.mov"),
            ("480P.mp4", "a/", "a/480P.mov"),
            ("raw/480P.mp4", "a/b", "a/b/480P.mov"),
            ("noextension", "a", "a/noextension.mov"),
            ("two.dots.mp4", "a", "a/two.dots.mov"),
            (".hidden", "a", "a/.hidden.mov"),
            ("影片 1.mp4", "成品", "成品/影片 1.mov"),
            ("..mp4", "a", "a/..mov"),
            ("-i.mp4", "-y", "-y/-i.mov"),
        ] {
            let order = order("my-bucket", object, output_dir, "mov").unwrap();
            assert_eq!(order.product.to_string(), product);
            assert_eq!(order.object.to_string(), object);
        }
    }

    #[test]
    fn no_spelling_of_a_way_out_gets_through_any_field() {
        for evil in WAYS_OUT {
            for (bucket, object, output_dir, dst_format) in [
                (*evil, "480P.mp4", "a", "mov"),
                ("my-bucket", *evil, "a", "mov"),
                ("my-bucket", "480P.mp4", *evil, "mov"),
                ("my-bucket", "480P.mp4", "a", *evil),
            ] {
                let error = order(bucket, object, output_dir, dst_format).unwrap_err();
                assert_eq!(error.status(), 400, "{evil:?}");
            }
        }
    }

    #[test]
    fn names_have_a_longest_length() {
        let long = "x".repeat(241);
        assert!(Key::parse("object", &long).is_err());
        assert!(Key::parse("object", &long[1..]).is_ok());
        assert!(Key::parse("object", &"x/".repeat(513)[..1025]).is_err());
        assert!(BucketName::parse(&"x".repeat(64)).is_err());
        assert!(BucketName::parse(&"x".repeat(63)).is_ok());
        // Each part is short enough, but the product as a whole is not.
        let deep = "d/".repeat(500);
        let error = order("b", &format!("{}.mp4", "n".repeat(100)), &deep, "mov").unwrap_err();
        assert_eq!(error.status(), 400);
    }

    #[test]
    fn a_product_never_replaces_its_source() {
        let error = order("my-bucket", "a/480P.mov", "a", "MOV").unwrap_err();
        assert_eq!(error.code(), "output_is_input");
        assert!(order("my-bucket", "a/480P.mov", "b", "mov").is_ok());
    }

    const WAYS_OUT: &[&str] = &[
        "",
        ".",
        "..",
        "../x",
        "x/../y",
        "x/..",
        "./x",
        "x/./y",
        "/etc/passwd",
        "/",
        "//",
        "//x",
        "x//y",
        "x//",
        "..\\x",
        "x\\..\\y",
        "C:\\x",
        "\\\\host\\share",
        "x\0",
        "\0",
        "x\0.mp4",
        "x\ny",
        "x\r",
        "\u{1b}[2J",
        "x\u{7f}",
        "x\u{85}",
        "%2e%2e/x",
        "%2e%2e%2fx",
        "..%2fx",
        "..%5cx",
        "%252e%252e%252fx",
        "x%00",
        "..%c0%afx",
        "480P.mov#1",
        "a/#1",
    ];
}
