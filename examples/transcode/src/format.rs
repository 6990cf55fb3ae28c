//! The list of allowed formats, so that no word of a request ever becomes an option of ffmpeg.

use std::fmt;

/// A container that ffmpeg writes, with the codecs that players expect in it.
///
/// [`Format::parse`] is the only way to make one, so every value is an entry of the table below.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Format(&'static Row);

#[derive(PartialEq, Eq)]
struct Row {
    name: &'static str,
    muxer: &'static str,
    codecs: &'static [&'static str],
}

impl Format {
    /// The format with this name, in either case; `None` if it is not on the list.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(Self)
    }

    /// Its name, which is also the extension of the product: `mov`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// Its name for ffmpeg's `-f`: `matroska` for `mkv`.
    #[must_use]
    pub const fn muxer(self) -> &'static str {
        self.0.muxer
    }

    /// The encoder options.
    #[must_use]
    pub const fn codecs(self) -> &'static [&'static str] {
        self.0.codecs
    }

    /// All names, for messages: `avi, flv, mkv, ...`.
    #[must_use]
    pub fn names() -> String {
        TABLE.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const H264_AAC: &[&str] = &["-c:v", "libx264", "-preset", "medium", "-c:a", "aac"];
const MPEG4_MP3: &[&str] = &["-c:v", "mpeg4", "-q:v", "4", "-c:a", "libmp3lame"];
// cpu-used 4 took a quarter of the default's time, for a product a tenth larger (three seconds of a 480p test picture).
const VP9_OPUS: &[&str] = &[
    "-c:v",
    "libvpx-vp9",
    "-b:v",
    "0",
    "-crf",
    "33",
    "-deadline",
    "good",
    "-cpu-used",
    "4",
    "-row-mt",
    "1",
    "-c:a",
    "libopus",
];

#[rustfmt::skip] // a table
static TABLE: [Row; 7] = [
    Row { name: "avi",  muxer: "avi",      codecs: MPEG4_MP3 },
    Row { name: "flv",  muxer: "flv",      codecs: H264_AAC },
    Row { name: "mkv",  muxer: "matroska", codecs: H264_AAC },
    Row { name: "mov",  muxer: "mov",      codecs: H264_AAC },
    Row { name: "mp4",  muxer: "mp4",      codecs: H264_AAC },
    Row { name: "ts",   muxer: "mpegts",   codecs: H264_AAC },
    Row { name: "webm", muxer: "webm",     codecs: VP9_OPUS },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_either_case_and_a_stranger_is_not() {
        assert_eq!(Format::parse("MOV").map(Format::muxer), Some("mov"));
        assert_eq!(Format::parse("mkv").map(Format::muxer), Some("matroska"));
        for stranger in ["", " mov", "mov ", "exe", "../mov", "mov\0", "-f", "matroska", "hls"] {
            assert_eq!(Format::parse(stranger), None, "{stranger:?}");
        }
    }

    #[test]
    fn the_list_for_people_names_all() {
        assert_eq!(Format::names(), "avi, flv, mkv, mov, mp4, ts, webm");
    }
}
