//! Settings: environment variables, all with defaults, all checked before the app listens.
//!
//! | variable | default | |
//! |---|---|---|
//! | `LISTEN` | `127.0.0.1:3000` | port 0 takes a free one |
//! | `TASKS_TOKEN` | none | the token of the task API; required to listen beyond this machine |
//! | `STORE` | `redb:tasks.redb` | `redb:` and a file, or `memory`, which ends with the app |
//! | `DATABASE_URL` | none | PostgreSQL for the tasks of any number of such apps; see below |
//! | `BUCKETS` | `buckets` | a directory with a directory per bucket; or `s3://` (feature `s3`) |
//! | `CONCURRENCY` | `2` | jobs at a time: each ffmpeg uses every core it can get |
//! | `MAX_OBJECT_BYTES` | 4 GiB | larger objects are refused |
//! | `WORK_DIR` | the system's | working files: it must hold `CONCURRENCY` sources and products |
//! | `FFMPEG`, `FFPROBE` | by `PATH` | the programs |
//! | `SETPRIV` | by `PATH` | the program of util-linux that makes ffmpeg end when the app is killed |
//! | `SHUTDOWN_SECONDS` | `25` | how long running jobs may go on after Ctrl-C or SIGTERM |
//!
//! `DATABASE_URL` is `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use crate::{
    bucket::{self, Buckets},
    ffmpeg::Ffmpeg,
    transcoder::Transcoder,
};

/// The settings of the app.
#[derive(Clone)]
pub struct Settings {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The store of the tasks.
    pub store: Store,
    /// The token that callers of the task API must send.
    pub token: Option<String>,
    /// How many jobs run at a time.
    pub concurrency: usize,
    /// How long running jobs may go on after a shutdown begins.
    pub shutdown: Duration,
    /// The job, with its settings.
    pub transcoder: Transcoder,
}

/// The store of the tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// In this file: they outlive the app, however it ends.
    File(PathBuf),
    /// In PostgreSQL: every app with this database accepts, runs and shows them.
    Database(DatabaseUrl),
    /// In the app's memory: they end with it.
    Memory,
}

/// The URL of a database. It may hold a password, so `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The URL, for connecting.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(..)")
    }
}

/// An invalid setting.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct Invalid {
    name: &'static str,
    problem: &'static str,
}

impl Settings {
    /// Reads the settings from the environment, or from any other `lookup` by name.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the first invalid setting.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Invalid> {
        let lookup = |name: &'static str| lookup(name).filter(|value| !value.is_empty());
        let listen = parse(
            lookup,
            "LISTEN",
            SocketAddr::from((Ipv4Addr::LOCALHOST, 3000)),
            "wants ADDRESS:PORT",
        )?;
        let token = lookup("TASKS_TOKEN");
        if token.is_none() && !listen.ip().is_loopback() {
            return Err(Invalid {
                name: "TASKS_TOKEN",
                problem: "must be set when LISTEN is more than this machine: the task API can stop and re-run tasks",
            });
        }
        let concurrency = parse(lookup, "CONCURRENCY", 2, "wants a number")?;
        if concurrency == 0 {
            return Err(Invalid {
                name: "CONCURRENCY",
                problem: "must be 1 at least",
            });
        }
        let seconds = parse(lookup, "SHUTDOWN_SECONDS", 25, "wants a number")?;
        let program = |name, default: &str| program(&lookup(name).unwrap_or_else(|| default.to_owned()));
        Ok(Self {
            listen,
            store: store(lookup("STORE"), lookup("DATABASE_URL"))?,
            token,
            concurrency,
            shutdown: Duration::from_secs(seconds),
            transcoder: Transcoder {
                buckets: buckets(&lookup("BUCKETS").unwrap_or_else(|| "buckets".to_owned()))?,
                ffmpeg: Ffmpeg {
                    ffmpeg: program("FFMPEG", "ffmpeg"),
                    ffprobe: program("FFPROBE", "ffprobe"),
                    setpriv: Some(program("SETPRIV", "setpriv")),
                },
                work_dir: lookup("WORK_DIR").map_or_else(std::env::temp_dir, PathBuf::from),
                max_object: parse(lookup, "MAX_OBJECT_BYTES", 4 << 30, "wants a number of bytes")?,
            },
        })
    }
}

fn parse<T: FromStr>(
    lookup: impl Fn(&'static str) -> Option<String>,
    name: &'static str,
    default: T,
    problem: &'static str,
) -> Result<T, Invalid> {
    lookup(name).map_or(Ok(default), |value| {
        value.trim().parse().map_err(|_| Invalid { name, problem })
    })
}

fn store(place: Option<String>, database: Option<String>) -> Result<Store, Invalid> {
    let invalid = |problem| Invalid { name: "STORE", problem };
    match (place, database) {
        (Some(_), Some(_)) => Err(invalid("and DATABASE_URL are both set: tasks are kept in one place")),
        (None, Some(url)) => Ok(Store::Database(DatabaseUrl(url))),
        (None, None) => Ok(Store::File("tasks.redb".into())),
        (Some(place), None) => match place.split_once(':') {
            None if place == "memory" => Ok(Store::Memory),
            Some(("redb", path)) if !path.is_empty() => Ok(Store::File(path.into())),
            _ => Err(invalid(
                "can be memory, or redb:PATH; a database is given as DATABASE_URL",
            )),
        },
    }
}

/// A bare name is looked up by `PATH`. A relative path is made absolute, since programs start in another directory.
fn program(name: &str) -> PathBuf {
    match Path::new(name).components().count() {
        1 => name.into(),
        _ => std::path::absolute(name).unwrap_or_else(|_| name.into()),
    }
}

fn buckets(place: &str) -> Result<Arc<dyn Buckets>, Invalid> {
    let invalid = |problem| Invalid {
        name: "BUCKETS",
        problem,
    };
    if place.trim_end_matches('/') == "s3:" {
        return s3().ok_or_else(|| invalid("s3:// wants this app built with `--features s3`"));
    }
    if !Path::new(place).is_dir() {
        return Err(invalid(
            "is no directory: make one with a directory per bucket, `mkdir -p buckets/my-bucket`",
        ));
    }
    Ok(Arc::new(bucket::LocalBuckets::new(place)))
}

#[cfg(feature = "s3")]
fn s3() -> Option<Arc<dyn Buckets>> {
    Some(Arc::new(bucket::S3Buckets))
}

#[cfg(not(feature = "s3"))]
fn s3() -> Option<Arc<dyn Buckets>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> Result<Settings, String> {
        let root = std::env::temp_dir().display().to_string();
        let lookup = |name: &str| {
            let set = values
                .iter()
                .find(|(set, _)| *set == name)
                .map(|(_, value)| (*value).to_owned());
            set.or_else(|| (name == "BUCKETS").then(|| root.clone()))
        };
        Settings::read(lookup).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn every_setting_has_a_default_and_an_empty_one_is_not_set() {
        let settings = read(&[("LISTEN", ""), ("CONCURRENCY", "")]).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:3000");
        assert_eq!(settings.store, Store::File("tasks.redb".into()));
        assert_eq!(settings.concurrency, 2);
        assert_eq!(settings.transcoder.ffmpeg.ffmpeg, PathBuf::from("ffmpeg"));
        assert_eq!(settings.transcoder.max_object, 4 << 30);
    }

    #[test]
    fn tasks_can_be_kept_in_memory_or_elsewhere() {
        let memory = read(&[("STORE", "memory")]).unwrap().store;
        let elsewhere = read(&[("STORE", "redb:/var/lib/t.redb")]).unwrap().store;
        assert_eq!(
            (memory, elsewhere),
            (Store::Memory, Store::File("/var/lib/t.redb".into()))
        );
    }

    #[test]
    fn a_database_takes_the_place_of_the_file_and_is_not_shown() {
        let url = ("DATABASE_URL", "postgres://me:s3cret@db/app");
        let store = read(&[url]).unwrap().store;
        assert_eq!(store, Store::Database(DatabaseUrl(url.1.to_owned())));
        assert!(!format!("{store:?}").contains("s3cret"));
        let both = read(&[url, ("STORE", "memory")]).err().unwrap();
        assert!(both.starts_with("STORE: and DATABASE_URL are both set"), "{both}");
    }

    #[test]
    fn a_program_by_relative_path_is_found_from_elsewhere() {
        let settings = read(&[("FFMPEG", "bin/ffmpeg"), ("FFPROBE", "/opt/ffprobe")]).unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(settings.transcoder.ffmpeg.ffmpeg, here.join("bin/ffmpeg"));
        assert_eq!(settings.transcoder.ffmpeg.ffprobe, PathBuf::from("/opt/ffprobe"));
    }

    #[test]
    fn the_task_api_is_not_opened_to_the_network_without_a_token() {
        let open = [("LISTEN", "0.0.0.0:80")];
        assert!(read(&open).err().unwrap().starts_with("TASKS_TOKEN: must be set"));
        assert!(read(&[open[0], ("TASKS_TOKEN", "secret")]).is_ok());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (name, value) in [
            ("LISTEN", "3000"),
            ("STORE", "tasks.redb"),
            ("STORE", "redb:"),
            ("CONCURRENCY", "0"),
            ("CONCURRENCY", "-1"),
            ("MAX_OBJECT_BYTES", "4 GB"),
            ("SHUTDOWN_SECONDS", "soon"),
            ("BUCKETS", "/nowhere/at/all"),
        ] {
            let message = read(&[(name, value)]).err().unwrap();
            assert!(message.starts_with(&format!("{name}: ")), "{message}");
        }
    }
}
