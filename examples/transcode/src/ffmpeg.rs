//! ffmpeg and ffprobe as functions: probe a file, convert a file.
//!
//! The file comes from a stranger, so both programs are restricted. They may open files, but nothing on the network.
//! The input must be a real container: a playlist (`.m3u8`, a concat script) with a video's name would make ffmpeg open
//! any other file that it lists, and put it into the product. Every name on the command line is ours, relative to the
//! job's own directory.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
};

use serde::Deserialize;

use crate::{
    error::Error,
    format::Format,
    process::{Ended, Program, Said, Workspace, run},
};

/// The paths of the programs.
#[derive(Clone, Debug)]
pub struct Ffmpeg {
    /// `ffmpeg`, or a path to it.
    pub ffmpeg: PathBuf,
    /// `ffprobe`, or a path to it.
    pub ffprobe: PathBuf,
    /// `setpriv` of util-linux, or a path to it. With it, the other two end when this process is killed.
    pub setpriv: Option<PathBuf>,
}

/// A file that holds a video, as ffprobe describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Video {
    /// In seconds; some files do not contain it.
    pub duration: Option<f64>,
    /// For example `h264`.
    pub codec: String,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

/// The progress of a conversion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversion {
    /// How many seconds of the product are written.
    pub seconds: f64,
    /// For example `2.31x`: seconds of video per second of work.
    pub speed: Option<String>,
}

/// The cause of a program's failure.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The file is damaged, or is something else than it seems.
    Damaged(Said),
    /// The file is readable and holds no video.
    NoVideo,
    /// The machine failed.
    Machine(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Machine(error)
    }
}

impl Ffmpeg {
    /// Probes a file in `workspace`.
    pub(crate) async fn probe(&self, workspace: &Workspace, file: &str) -> Result<Video, Failure> {
        let mut json = String::new();
        let input = format!("file:{file}");
        let arguments = [
            &["-v", "error"][..],
            &FENCE,
            &[
                "-show_entries",
                "format=duration:stream=codec_type,codec_name,width,height:stream_disposition=attached_pic",
            ],
            &["-of", "json", "-i", &input],
        ];
        let ended = run(self.program(&self.ffprobe), arguments.concat(), workspace, |line| {
            if json.len() < LONGEST_REPORT {
                json.push_str(line);
            }
        });
        let Ended { status, said } = ended.await?;
        if !status.success() {
            return Err(failure(&self.ffprobe, status, said));
        }
        let Ok(report) = serde_json::from_str::<Report>(&json) else {
            return Err(Failure::Damaged(said));
        };
        report.video().ok_or(Failure::NoVideo)
    }

    /// Writes `output` from `input`, both in `workspace`, and reports its progress.
    pub(crate) async fn convert(
        &self,
        workspace: &Workspace,
        (input, output): (&str, &str),
        format: Format,
        mut on_progress: impl FnMut(&Conversion),
    ) -> Result<Said, Failure> {
        let (input, output) = (format!("file:{input}"), format!("file:{output}"));
        let arguments = [
            &[
                "-nostdin",
                "-hide_banner",
                "-loglevel",
                "error",
                "-nostats",
                "-progress",
                "pipe:1",
                "-y",
            ][..],
            &FENCE,
            &["-i", &input],
            // The first video and, if there is any, the first sound; no subtitles, no data, no attachments.
            &["-map", "0:v:0", "-map", "0:a:0?"],
            // Players decode 4:2:0, which needs even sides.
            &["-vf", "scale=trunc(iw/2)*2:trunc(ih/2)*2", "-pix_fmt", "yuv420p"],
            format.codecs(),
            &["-f", format.muxer(), &output],
        ];
        let mut conversion = Conversion::default();
        let ended = run(self.program(&self.ffmpeg), arguments.concat(), workspace, |line| {
            if conversion.read(line) {
                on_progress(&conversion);
            }
        });
        let Ended { status, said } = ended.await?;
        if status.success() {
            return Ok(said);
        }
        if said.mentions("Unknown encoder") || said.mentions("Requested output format") {
            let format = format.name();
            return Err(Error::NoEncoder { format, said }.into());
        }
        Err(failure(&self.ffmpeg, status, said))
    }

    /// Runs both programs for their version, so that a missing one is found at the start and not by the first task.
    ///
    /// # Errors
    ///
    /// [`Error::NoFfmpeg`] names the missing program and what installs it.
    pub async fn check(&self, workspace: &Workspace) -> Result<(), Error> {
        for program in [&self.ffmpeg, &self.ffprobe] {
            run(self.program(program), ["-version"], workspace, |_| ()).await?;
        }
        Ok(())
    }

    /// Whether [`setpriv`](Self::setpriv) is there and works: other systems have none, or one with fewer options.
    pub async fn can_be_tethered(&self, workspace: &Workspace) -> bool {
        let nothing = self.program(Path::new("true"));
        let ended = run(nothing, [""; 0], workspace, |_| ()).await;
        self.setpriv.is_some() && ended.is_ok_and(|ended| ended.status.success())
    }

    fn program<'a>(&'a self, path: &'a Path) -> Program<'a> {
        Program {
            path,
            setpriv: self.setpriv.as_deref(),
        }
    }
}

impl Conversion {
    /// Reads a line of `-progress`. Returns true at the end of a block.
    fn read(&mut self, line: &str) -> bool {
        let Some((name, value)) = line.split_once('=') else {
            return false;
        };
        let value = value.trim();
        match name {
            // "N/A" until the first packet is written; negative while the encoder fills up.
            "out_time_us" => {
                if let Ok(micros) = value.parse::<i64>() {
                    self.seconds = self.seconds.max(micros as f64 / 1e6);
                }
            }
            "speed" => self.speed = value.ends_with('x').then(|| value.to_owned()),
            _ => {}
        }
        name == "progress"
    }
}

/// The cause of a program's failure, by its exit status and its messages.
fn failure(program: &Path, status: ExitStatus, said: Said) -> Failure {
    if said.mentions("No space left on device") {
        return Error::DiskFull.into();
    }
    match status.code() {
        Some(_) => Failure::Damaged(said),
        // Killed by a signal: the machine ran out of memory, or a user killed it.
        None => Failure::Machine(Error::Killed {
            program: program.display().to_string(),
        }),
    }
}

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    streams: Vec<Stream>,
    format: Option<Container>,
}

#[derive(Deserialize)]
struct Stream {
    codec_type: Option<String>,
    codec_name: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    disposition: Option<Disposition>,
}

#[derive(Deserialize)]
struct Disposition {
    attached_pic: Option<u8>,
}

#[derive(Deserialize)]
struct Container {
    duration: Option<String>,
}

impl Report {
    /// The first moving picture: the cover of a song is a "video" too, but an attached one.
    fn video(self) -> Option<Video> {
        let duration = self.format.and_then(|format| format.duration?.parse().ok());
        let stream = self.streams.into_iter().find(|stream| {
            let attached = stream.disposition.as_ref().and_then(|it| it.attached_pic) == Some(1);
            stream.codec_type.as_deref() == Some("video") && !attached
        })?;
        Some(Video {
            duration: duration.filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0),
            codec: stream.codec_name?,
            width: stream.width?,
            height: stream.height?,
        })
    }
}

/// Allows only files, and only containers that hold their data themselves.
const FENCE: [&str; 4] = [
    "-protocol_whitelist",
    "file",
    "-format_whitelist",
    "mov,matroska,avi,mpegts,mpeg,flv,ogg,asf,mxf",
];

/// A file with very many streams could otherwise make a report that fills the memory.
const LONGEST_REPORT: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_a_block_at_a_time_and_never_goes_back() {
        let mut conversion = Conversion::default();
        let blocks = "out_time_us=N/A\nspeed=N/A\nprogress=continue\nframe=9\nout_time_us=-23220\nprogress=continue\n\
                      out_time_us=1500000\nspeed=2.31x\nprogress=continue\nout_time_us=1400000\nnoise\nprogress=end";
        let mut told = Vec::new();
        for line in blocks.lines() {
            if conversion.read(line) {
                told.push((conversion.seconds, conversion.speed.clone()));
            }
        }
        let fast = Some("2.31x".to_owned());
        assert_eq!(told, [(0.0, None), (0.0, None), (1.5, fast.clone()), (1.5, fast)]);
    }

    #[test]
    fn a_cover_picture_is_not_a_video() {
        let report = |attached| {
            let json = format!(
                r#"{{"streams":[{{"codec_type":"audio","codec_name":"aac"}},
                    {{"codec_type":"video","codec_name":"h264","width":854,"height":480,
                      "disposition":{{"attached_pic":{attached}}}}}],
                    "format":{{"duration":"2.500000"}}}}"#
            );
            serde_json::from_str::<Report>(&json).unwrap().video()
        };
        assert_eq!(report(1), None);
        let video = report(0).unwrap();
        assert_eq!((video.duration, video.width, video.height), (Some(2.5), 854, 480));
    }

    #[test]
    fn a_report_without_streams_or_duration_is_no_video() {
        for json in ["{}", r#"{"streams":[],"format":{}}"#, r#"{"streams":[{}]}"#] {
            assert_eq!(serde_json::from_str::<Report>(json).unwrap().video(), None);
        }
    }
}
