//! Opening a file: whose it is, what is in it, and what the process before left undone.

use std::{
    fs::{self, File, OpenOptions},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableHandle, WriteTransaction,
    backends::FileBackend,
};

use super::{
    fault::{Failure, Fault},
    frame,
    inner::close,
    ram::{Arrival, Ram},
    tables::{FORMAT, FORMAT_KEY, META, Origin, Stored, Tables, Unreadable},
};
use crate::{
    store::{StoreError, StoreErrorKind, StoreResult},
    task::RequestId,
    time::Clock,
};

/// Opens or creates the file, takes its lock, and says so durably in its directory.
pub(super) fn database(path: &Path, cache_bytes: usize) -> StoreResult<Database> {
    let new = !path.try_exists().unwrap_or(true);
    match new {
        true => create(path, cache_bytes)?,
        false => peek(path)?,
    }
    let file = options().create(true).truncate(false).open(path);
    let file = file.map_err(|error| cannot_open(path, error))?;
    let backend = FileBackend::new(file).map_err(|error| refused(path, error))?;
    let database = with_backend(path, backend, cache_bytes)?;
    if new {
        sync_parent(path).map_err(|error| cannot_open(path, error))?;
    }
    Ok(database)
}

/// Makes an empty file under another name, and gives it its own once it is whole: redb writes a new file in several steps,
/// and what a process leaves that is killed between them is no redb file, to be refused by all that come after.
///
/// Where that is not possible, as in a directory that cannot be written to or on a file system without hard links, it does
/// nothing: then the file is made in place, or it is found out there why it cannot be.
fn create(path: &Path, cache_bytes: usize) -> StoreResult<()> {
    let mut unfinished = path.as_os_str().to_owned();
    // Of this call alone: another process may be creating the file as well.
    unfinished.push(format!(".new-{:016x}", fastrand::u64(..)));
    let Ok(file) = options().create_new(true).open(&unfinished) else {
        return Ok(());
    };
    let made = FileBackend::new(file).map_err(|error| refused(path, error));
    let made = made.and_then(|backend| {
        let database = with_backend(path, backend, cache_bytes)?;
        close(database).map_or(Ok(()), |failure| Err(damaged(path, &failure)))
    });
    if made.is_ok() {
        // Not renamed: that would put it in the place of one that was created meanwhile, and is in use.
        let _ = fs::hard_link(&unfinished, path);
    }
    let _ = fs::remove_file(&unfinished);
    made
}

/// How a file is opened: requests carry credentials, so it is its owner's.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Opens what is behind `backend`. A file whose pages were changed can make redb panic; that refuses the file, and no more.
pub(super) fn with_backend(path: &Path, backend: impl StorageBackend, cache_bytes: usize) -> StoreResult<Database> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        redb::Builder::new()
            .set_cache_size(cache_bytes)
            .create_with_backend(backend)
    }));
    match opened {
        Ok(opened) => opened.map_err(|error| refused(path, error)),
        Err(panic) => Err(damaged(path, &Failure::of_panic(&*panic))),
    }
}

fn damaged(path: &Path, failure: &Failure) -> StoreError {
    failure.error(format!("cannot read the task file {}", path.display()))
}

/// A file that a power cut takes out of its directory loses all that was synced into it.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    // Windows has no such thing, and needs none: its file system keeps a journal of its names.
    match cfg!(unix) {
        true => File::open(parent.unwrap_or(Path::new(".")))?.sync_all(),
        false => Ok(()),
    }
}

fn cannot_open(path: &Path, error: io::Error) -> StoreError {
    let context = format!("cannot open the task file {}: {error}", path.display());
    StoreError::new(StoreErrorKind::Unavailable, context).because(error)
}

fn refused(path: &Path, error: DatabaseError) -> StoreError {
    let file = path.display();
    let (kind, context) = match &error {
        DatabaseError::DatabaseAlreadyOpen => (
            StoreErrorKind::Unavailable,
            format!("the task file {file} is in use: another process, or another store in this one, has it open"),
        ),
        DatabaseError::UpgradeRequired(version) => (
            StoreErrorKind::Incompatible,
            format!("the task file {file} is in redb's file format {version}, which this build does not open"),
        ),
        DatabaseError::Storage(redb::StorageError::Io(io)) if io.kind() == io::ErrorKind::InvalidData => (
            StoreErrorKind::Corrupt,
            format!("the task file {file} is damaged, or no redb file at all; it was left as it is"),
        ),
        DatabaseError::Storage(redb::StorageError::Corrupted(_)) => (
            StoreErrorKind::Corrupt,
            format!("the task file {file} is damaged beyond what can be repaired"),
        ),
        other => (
            StoreErrorKind::Unavailable,
            format!("cannot open the task file {file}: {other}"),
        ),
    };
    StoreError::new(kind, context).because(error)
}

/// Reads what is there into memory, ends or requeues what was running, and puts up again what was being told: whoever had
/// it is gone, since the file was free to be opened.
pub(super) fn recover(path: &Path, database: &Database, clock: &dyn Clock) -> StoreResult<Ram> {
    let recovered = catch_unwind(AssertUnwindSafe(|| {
        let transaction = database.begin_write()?;
        check_format(path, &transaction)?;
        let ram = read_tasks(&transaction, clock)?;
        transaction.commit()?;
        Ok(ram)
    }));
    match recovered {
        Ok(Ok(ram)) => Ok(ram),
        Ok(Err(Fault::Answer(refusal))) => Err(refusal),
        Ok(Err(Fault::Broken(error))) => Err(damaged(path, &Failure::of_error(&error))),
        Err(panic) => Err(damaged(path, &Failure::of_panic(&*panic))),
    }
}

/// Refuses a file of a newer build and one of another program, without a write to it: redb writes as it opens a file,
/// and as it closes one. Only a file that must be repaired first is not looked into, and is refused after that.
fn peek(path: &Path) -> StoreResult<()> {
    let looked = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = redb::Builder::new();
        let database = builder.set_cache_size(PEEK_CACHE).open_read_only(path)?;
        let transaction = database.begin_read()?;
        let names = transaction
            .list_tables()?
            .map(|table| table.name().to_owned())
            .collect();
        let format = match transaction.open_table(META) {
            Ok(meta) => ReadableTable::get(&meta, FORMAT_KEY)?.map(|value| read_format(value.value())),
            Err(_) => None,
        };
        judge(path, names, format)
    }));
    match looked {
        Ok(Err(Fault::Answer(refusal))) => Err(refusal),
        // Whatever else is wrong is found again, and told of, when it is opened in earnest.
        _ => Ok(()),
    }
}

/// A few pages are looked at.
const PEEK_CACHE: usize = 256 * 1024;

/// The same from inside of the transaction that is to write, which marks a new file as ours.
fn check_format(path: &Path, transaction: &WriteTransaction) -> Result<(), Fault> {
    let names = transaction
        .list_tables()?
        .map(|table| table.name().to_owned())
        .collect();
    let mut meta = transaction.open_table(META)?;
    let format = meta.get(FORMAT_KEY)?.map(|value| read_format(value.value()));
    judge(path, names, format)?;
    if format.is_none() {
        frame::put(&mut meta, FORMAT_KEY, &[&FORMAT.to_be_bytes()])?;
    }
    Ok(())
}

fn read_format(value: &[u8]) -> Option<u32> {
    let payload = frame::open(FORMAT_KEY, value).ok()?;
    payload.try_into().ok().map(u32::from_be_bytes)
}

/// Whether a file with these tables is ours to open. `format` is `None` if it does not say, and `Some(None)` if what it
/// says cannot be read.
fn judge(path: &Path, names: Vec<String>, format: Option<Option<u32>>) -> Result<(), Fault> {
    let what = match format {
        Some(Some(format)) if format <= FORMAT => return Ok(()),
        Some(Some(format)) => format!("has format {format}, and this build knows formats up to {FORMAT}"),
        Some(None) => "does not say which format it has".to_owned(),
        None if names.is_empty() => return Ok(()),
        None => "holds another program's tables".to_owned(),
    };
    let context = format!("the task file {} {what}; it was left as it is", path.display());
    Err(Fault::Answer(StoreError::new(StoreErrorKind::Incompatible, context)))
}

fn read_tasks(transaction: &WriteTransaction, clock: &dyn Clock) -> Result<Ram, redb::Error> {
    let mut tables = Tables::open(transaction)?;
    let ram = Ram::default();
    let now = clock.now();
    let mut damaged = Vec::new();
    let mut orphaned = Vec::new();
    let mut found = Arrival::default();
    for entry in tables.tasks.iter()? {
        let (key, value) = entry?;
        match Stored::read(key.value(), value.value()) {
            // A task counts a crash: the claim counted itself, and nobody has taken that back.
            Ok(mut stored) => match stored.record.orphaned(now) {
                true => orphaned.push(stored),
                false => found.note(&ram, &stored.record),
            },
            // Another build's work: it stays, and this one neither runs nor loses it.
            Err(error) if error.is_newer() => {}
            Err(Unreadable::Damaged(_) | Unreadable::Undecodable(_)) => {
                damaged.push((key.value().to_vec(), value.value().to_vec()));
            }
        }
    }
    for (key, value) in damaged {
        tables.keep_aside(Origin::Task, &key, &value)?;
        tables.tasks.remove(&*key)?;
    }
    for stored in orphaned {
        stored.put(&mut tables.tasks)?;
        found.note(&ram, &stored.record);
    }
    found.shelve(&ram);
    let aside = [Origin::Task as u8];
    for entry in tables.set_aside.range::<&[u8]>(&aside[..]..)? {
        let (key, _) = entry?;
        let Some((&[origin], id)) = key.value().split_first_chunk() else {
            break;
        };
        if origin != Origin::Task as u8 {
            break;
        }
        if let Ok(id) = id.try_into() {
            ram.shelf().set_aside.insert(RequestId::from_bytes(id));
        }
    }
    Ok(ram)
}
