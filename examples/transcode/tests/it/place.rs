//! A private bucket, working directory and app for a test, and a job whose progress it sees.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::FromRequestParts,
    http::{Request, Response, StatusCode, header::CONTENT_TYPE, request::Parts},
};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};
use tower::ServiceExt;
use transcode::{Ffmpeg, Job, Transcoder, app, bucket::LocalBuckets};

/// How long a slow machine has for anything. No test waits for time to pass.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Place {
    root: TempDir,
    pub(crate) transcoder: Transcoder,
}

impl Place {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["buckets/my-bucket", "work"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let transcoder = Transcoder {
            buckets: Arc::new(LocalBuckets::new(root.path().join("buckets"))),
            ffmpeg: Ffmpeg {
                ffmpeg: "ffmpeg".into(),
                ffprobe: "ffprobe".into(),
                setpriv: Some("setpriv".into()),
            },
            work_dir: root.path().join("work"),
            max_object: 64 << 20,
        };
        Self { root, transcoder }
    }

    /// A place whose bucket holds `clip` under the name in the example request.
    pub(crate) fn with(clip: &Path) -> Self {
        let place = Self::new();
        place.put("480P.mp4", fs::read(clip).unwrap());
        place
    }

    pub(crate) fn put(&self, object: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path_of(object);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn path_of(&self, object: &str) -> PathBuf {
        self.root.path().join("buckets/my-bucket").join(object)
    }

    /// The task file of the app in this place.
    pub(crate) fn task_file(&self) -> PathBuf {
        self.root.path().join("tasks.redb")
    }

    /// Writes a program for the test.
    pub(crate) fn script(&self, name: &str, lines: &str) -> PathBuf {
        let path = self.root.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub(crate) fn work_dir(&self) -> &Path {
        &self.transcoder.work_dir
    }

    pub(crate) fn app(&self) -> Router {
        app::<Watched>(self.transcoder.clone())
    }

    pub(crate) async fn post(&self, body: impl Into<Body>) -> (StatusCode, Value) {
        let request = Request::post("/").header(CONTENT_TYPE, "application/json");
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn watched_post(&self, body: &str, watched: &Watched) -> (StatusCode, Value) {
        let request = Request::post("/").header(CONTENT_TYPE, "application/json");
        let request = request.extension(watched.clone()).body(Body::from(body.to_owned()));
        self.send(request.unwrap()).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = timeout(DEADLINE, self.app().oneshot(request)).await.unwrap().unwrap();
        read(response).await
    }

    /// Every file and directory of all buckets.
    pub(crate) fn contents(&self) -> BTreeSet<PathBuf> {
        fn walk(directory: &Path, found: &mut BTreeSet<PathBuf>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                }
                found.insert(path);
            }
        }
        let mut found = BTreeSet::new();
        walk(&self.root.path().join("buckets"), &mut found);
        found
    }

    /// The processes that work in this place.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let works_here = |pid: &u32| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|directory| directory.starts_with(self.work_dir()))
        };
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(works_here).collect()
    }

    /// Whether there is no working file and no process left.
    pub(crate) fn is_clear(&self) -> bool {
        fs::read_dir(self.work_dir()).unwrap().count() == 0 && self.processes().is_empty()
    }

    /// Waits until there is none left.
    pub(crate) async fn is_cleared(&self) {
        eventually("files and processes are gone", || self.is_clear()).await;
    }
}

pub(crate) async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).expect("every answer is JSON"))
}

/// Waits for a condition without an event, such as the end of another process.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(DEADLINE, wait).await.is_ok(), "never: {what}");
}

/// The test's side of a job: the progress that it reported, and its stop signal.
#[derive(Clone)]
pub(crate) struct Watched {
    told: Arc<Mutex<Vec<(f32, String)>>>,
    fraction: watch::Sender<f32>,
    stop: watch::Sender<bool>,
}

impl Watched {
    pub(crate) fn new() -> Self {
        Self {
            told: Arc::default(),
            fraction: watch::Sender::new(0.0),
            stop: watch::Sender::new(false),
        }
    }

    pub(crate) fn told(&self) -> Vec<(f32, String)> {
        self.told.lock().unwrap().clone()
    }

    /// Waits until the job has reported more than this fraction.
    pub(crate) async fn is_beyond(&self, fraction: f32) {
        let mut told = self.fraction.subscribe();
        let reached = timeout(DEADLINE, told.wait_for(|told| *told > fraction)).await;
        assert!(reached.is_ok(), "progress stood still");
    }

    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

impl Job for Watched {
    fn progress(&self, fraction: f32, message: &str) {
        self.told.lock().unwrap().push((fraction, message.to_owned()));
        self.fraction.send_replace(fraction);
    }

    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.subscribe();
        async move {
            if stop.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Watched {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_else(Self::new))
    }
}

/// Two seconds of picture and sound, with the index in front.
pub(crate) fn short_clip() -> &'static Path {
    static CLIP: OnceLock<PathBuf> = OnceLock::new();
    CLIP.get_or_init(|| clip("short.mp4", "testsrc2=size=320x240:rate=25:duration=2", H264_AND_SOUND))
}

/// A minute, in a size that takes an encoder some seconds.
pub(crate) fn long_clip() -> &'static Path {
    static CLIP: OnceLock<PathBuf> = OnceLock::new();
    CLIP.get_or_init(|| clip("long.mp4", "testsrc2=size=854x480:rate=30:duration=60", H264_AND_SOUND))
}

/// A picture of noise, which cannot be compressed: the clip and its product have many megabytes.
#[cfg(feature = "s3")]
pub(crate) fn large_clip() -> &'static Path {
    static CLIP: OnceLock<PathBuf> = OnceLock::new();
    let noise = "testsrc2=size=640x480:rate=25:duration=3,noise=alls=100:allf=t";
    CLIP.get_or_init(|| clip("large.mp4", noise, H264_AND_SOUND))
}

/// 4:4:4 with odd sides and no sound: legal, but most encoders fail on it.
pub(crate) fn odd_clip() -> &'static Path {
    static CLIP: OnceLock<PathBuf> = OnceLock::new();
    let options = &["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv444p"];
    CLIP.get_or_init(|| clip("odd.mp4", "testsrc2=size=321x241:rate=25:duration=1", options))
}

/// Sound only, with a video's name.
pub(crate) fn sound_clip() -> &'static Path {
    static CLIP: OnceLock<PathBuf> = OnceLock::new();
    CLIP.get_or_init(|| {
        clip(
            "sound.mp4",
            "color=size=16x16:duration=1",
            &["-map", "1:a", "-c:a", "aac"],
        )
    })
}

const H264_AND_SOUND: &[&str] = &[
    "-c:v",
    "libx264",
    "-preset",
    "ultrafast",
    "-pix_fmt",
    "yuv420p",
    "-c:a",
    "aac",
    "-movflags",
    "+faststart",
];

/// A clip, made once. Each test may be a separate process, so the clip is made under a name of this process and then
/// renamed: other processes never see a partial one.
fn clip(name: &str, picture: &str, options: &[&str]) -> PathBuf {
    let mut recipe = DefaultHasher::new();
    (picture, options).hash(&mut recipe);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("{:016x}-{name}", recipe.finish()));
    if path.exists() {
        return path;
    }
    let own = folder.join(format!("{}-{name}", std::process::id()));
    let sound = (options.contains(&"-c:a")).then_some(["-f", "lavfi", "-i", "sine=frequency=440:duration=60"]);
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", picture])
        .args(sound.iter().flatten())
        .args(options)
        .args(["-shortest", "-f", "mp4"])
        .arg(&own)
        .status()
        .expect("these tests run ffmpeg: apt-get install ffmpeg");
    assert!(status.success(), "ffmpeg could not make {name}");
    fs::rename(&own, &path).expect("a clip can be renamed");
    path
}
