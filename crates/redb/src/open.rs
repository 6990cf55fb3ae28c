//! Opens a file: checks its format, and reads its tasks.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use redb::{
    BackendError, Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend,
    TableHandle, WriteTransaction, backends::FileBackend,
};

use crate::{
    RedbStoreBuilder,
    fault::{Failure, Fault},
    frame,
    onward::Onward,
    ram::Ram,
    tables::{
        CONTROL_KEY, DEFINITIONS, FORMAT, FORMAT_KEY, META, Origin, REQUESTS, SET_ASIDE, TASKS, Tables, read_row,
    },
};
use tower_respond_async::{
    store::{
        Row, StoreError, StoreErrorKind, StoreResult,
        kit::{ControlValues, Unsorted},
    },
    task::{DecodeError, RequestId},
    time::{Clock, Timestamp},
};

/// Opens or creates the file and locks it. A new file is synced into its directory.
pub(crate) fn file(path: &Path, settings: &RedbStoreBuilder) -> StoreResult<Database> {
    let new = !path.try_exists().unwrap_or(true);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    // Requests contain credentials, so only the owner may read the file.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let opened = || {
        let file = options.open(path).map_err(|error| cannot_open(path, error))?;
        FileBackend::new(file).map_err(|error| refused(path, error))
    };
    let database = backend(path, settings, !new, opened)?;
    if new {
        sync_parent(path).map_err(|error| cannot_open(path, error))?;
    }
    Ok(database)
}

/// Opens a file. `backend` is called once for each of up to three openings. redb may panic over a file with changed
/// pages; such a file is refused as damaged.
pub(crate) fn backend<B: StorageBackend>(
    path: &Path,
    settings: &RedbStoreBuilder,
    known: bool,
    backend: impl Fn() -> StoreResult<B>,
) -> StoreResult<Database> {
    if known {
        peek(path, backend()?)?;
        let backend = backend()?;
        let cleared = clear_unfinished(&backend).and_then(|()| backend.close());
        cleared.map_err(|error| cannot_open(path, error))?;
    }
    let backend = backend()?;
    let opened = catch_unwind(AssertUnwindSafe(|| {
        redb::Builder::new()
            .set_cache_size(settings.cache_bytes)
            .create_with_backend(backend)
    }));
    match opened {
        Ok(opened) => opened.map_err(|error| refused(path, error)),
        Err(panic) => Err(damaged(path, &Failure::of_panic(&*panic))),
    }
}

/// Empties a file whose creation was cut off. Otherwise an application that was killed at its first start could never
/// start again. redb writes its magic number last, so such a file has zeros there, and nothing behind its first sector.
fn clear_unfinished(backend: &impl StorageBackend) -> io::Result<()> {
    // Another process may be creating the file now: redb locks every byte then, this one too.
    match backend.try_lock_range(Bound::Included(0), Bound::Included(0)) {
        Ok(true) | Err(BackendError::Unsupported) => {}
        Ok(false) | Err(_) => return Ok(()),
    }
    let length = backend.len()?;
    let mut magic = [0; MAGIC];
    if length < MAGIC as u64 || length > NEW {
        return Ok(());
    }
    backend.read(0, &mut magic)?;
    if magic != [0; MAGIC] {
        return Ok(());
    }
    let mut bytes = vec![0; length as usize];
    backend.read(0, &mut bytes)?;
    if bytes.iter().skip(SECTOR).all(|byte| *byte == 0) {
        backend.set_len(0)?;
        backend.sync_data()?;
    }
    Ok(())
}

/// The length of redb's magic number.
const MAGIC: usize = 9;

/// The most that redb's header takes.
const SECTOR: usize = 512;

/// The most that a new file of redb takes.
const NEW: u64 = 16 * 1024 * 1024;

fn damaged(path: &Path, failure: &Failure) -> StoreError {
    let file = path.display();
    failure.error(match failure.kind() {
        StoreErrorKind::Corrupt => format!("the task file {file} is damaged"),
        _ => format!("cannot read the task file {file}"),
    })
}

/// Syncs the directory of the file. Otherwise a power cut could remove the file's name, and with it everything that was
/// synced into the file.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    // Windows has no such sync and needs none: its file system keeps a journal of names.
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
        DatabaseError::Storage(redb::StorageError::Io(io)) if io.kind() == io::ErrorKind::UnexpectedEof => (
            StoreErrorKind::Corrupt,
            format!("the task file {file} is damaged: it was cut short"),
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

/// Reads the tasks of the file into memory. It makes no decisions about them, and does not write to an intact file.
///
/// The returned clock is not behind the latest time in the file. The store must use it.
pub(crate) fn recover(path: &Path, database: &Database, clock: Arc<dyn Clock>) -> StoreResult<(Ram, Onward)> {
    let recovered = catch_unwind(AssertUnwindSafe(|| {
        let transaction = database.begin_write()?;
        let is_new = check_format(path, &transaction)?;
        let mut tables = Tables::new(&transaction);
        let read = catch_unwind(AssertUnwindSafe(|| {
            tables.make_all()?;
            read_tasks(&mut tables, clock)
        }));
        tables.close();
        match read {
            Ok(recovered) => {
                let (ram, clock) = recovered?;
                match is_new || ram.damaged.load(Ordering::Relaxed) > 0 {
                    true => transaction.commit()?,
                    false => transaction.abort()?,
                }
                Ok((ram, clock))
            }
            Err(panic) => {
                // Dropped after the unwinding, like the tables.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(transaction)));
                resume_unwind(panic);
            }
        }
    }));
    match recovered {
        Ok(Ok(recovered)) => Ok(recovered),
        Ok(Err(Fault::Answer(refusal))) => Err(refusal),
        Ok(Err(Fault::Broken(error))) => Err(damaged(path, &Failure::of_error(&error))),
        Err(panic) => Err(damaged(path, &Failure::of_panic(&*panic))),
    }
}

/// Refuses a file of another format or another program, without writing to it: redb writes when it opens a file, and
/// when it closes one. A file that must be repaired first is not checked here; it is refused after the repair.
fn peek(path: &Path, backend: impl StorageBackend) -> StoreResult<()> {
    let looked = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = redb::Builder::new();
        let database = builder
            .set_cache_size(PEEK_CACHE)
            .open_read_only_with_backend(backend)?;
        let transaction = database.begin_read()?;
        let names = transaction
            .list_tables()?
            .map(|table| table.name().to_owned())
            .collect();
        let format = match transaction.open_table(META) {
            Ok(meta) => ReadableTable::get(&meta, FORMAT_KEY)?.map(|value| read_format(value.value())),
            Err(_) => None,
        };
        judge(path, names, format)?;
        if format.is_some() && transaction.open_table(TASKS)?.is_empty()? {
            let (requests, set_aside) = (transaction.open_table(REQUESTS)?, transaction.open_table(SET_ASIDE)?);
            if is_emptied(&requests, &set_aside)? {
                let context = format!(
                    "the task file {} is damaged: {EMPTIED}; it was left as it is",
                    path.display()
                );
                return Err(Fault::Answer(StoreError::new(StoreErrorKind::Corrupt, context)));
            }
        }
        Ok(())
    }));
    match looked {
        Ok(Err(Fault::Answer(refusal))) => Err(refusal),
        // All other errors are found again, and reported, when the file is opened for writing.
        _ => Ok(()),
    }
}

/// The size of the cache for reading a few pages.
const PEEK_CACHE: usize = 256 * 1024;

/// The same check inside a write transaction, which writes the format into a new file. Returns whether the file is new.
fn check_format(path: &Path, transaction: &WriteTransaction) -> Result<bool, Fault> {
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
    Ok(format.is_none())
}

fn read_format(value: &[u8]) -> Option<u32> {
    let payload = frame::open(FORMAT_KEY, value).ok()?;
    payload.try_into().ok().map(u32::from_be_bytes)
}

/// Checks whether this build can open a file with these tables. `format` is `None` if the file has none, and
/// `Some(None)` if it cannot be read.
fn judge(path: &Path, names: Vec<String>, format: Option<Option<u32>>) -> Result<(), Fault> {
    let what = match format {
        Some(Some(FORMAT)) => return complete(path, &names),
        Some(Some(format)) => format!("has format {format}, and this build reads format {FORMAT} only"),
        Some(None) => "does not say which format it has".to_owned(),
        None if names.is_empty() => return Ok(()),
        None => "holds another program's tables".to_owned(),
    };
    let context = format!("the task file {} {what}; it was left as it is", path.display());
    Err(Fault::Answer(StoreError::new(StoreErrorKind::Incompatible, context)))
}

/// Checks that no table is missing: all are created at once, and a missing one would be created again, empty.
fn complete(path: &Path, names: &[String]) -> Result<(), Fault> {
    let missing = DEFINITIONS
        .iter()
        .find(|table| !names.iter().any(|name| name == table.name()));
    missing.map_or(Ok(()), |table| {
        let context = format!(
            "the task file {} is damaged: its table {} is missing",
            path.display(),
            table.name()
        );
        Err(Fault::Answer(StoreError::new(StoreErrorKind::Corrupt, context)))
    })
}

/// Whether a file without tasks has lost them. One changed bit in redb's own pages can make a table look empty. A
/// request is removed together with its task, and remains only if the task's record was set aside.
fn is_emptied(
    requests: &impl ReadableTableMetadata,
    set_aside: &impl ReadableTableMetadata,
) -> Result<bool, redb::StorageError> {
    Ok(!requests.is_empty()? && set_aside.is_empty()?)
}

const EMPTIED: &str = "it holds requests, and no task that they belong to";

fn read_tasks(tables: &mut Tables<'_>, clock: Arc<dyn Clock>) -> Result<(Ram, Onward), redb::Error> {
    let (mut ram, mut all) = (Ram::default(), Unsorted::default());
    let (mut seen, mut live, mut damaged, mut latest) = (0, Vec::new(), Vec::new(), Timestamp::ZERO);
    for entry in tables.tasks.open()?.iter()? {
        let (key, value) = entry?;
        seen += 1;
        match read_row(key.value(), value.value()) {
            Ok((row, _)) => {
                latest = latest.max(latest_of(&row));
                live.extend((!row.columns.state.is_terminal()).then_some(row.id));
                ram.find(&row, &mut all);
            }
            // Written by a newer build: it stays in the file, and this build does not run it.
            Err(error) if error.is_newer() => {}
            Err(_) => damaged.push((key.value().to_vec(), value.value().to_vec())),
        }
    }
    if seen != tables.tasks.open()?.len()? {
        return Err(redb::Error::Corrupted("tasks are missing".into()));
    }
    if seen == 0 && is_emptied(tables.requests.open()?, tables.set_aside.open()?)? {
        return Err(redb::Error::Corrupted(EMPTIED.into()));
    }
    for (key, value) in damaged {
        tables.keep_aside(&ram, Origin::Task, &key, &value)?;
        tables.tasks.open()?.remove(&*key)?;
    }
    // In a damaged tree, iteration may find a task that a look-up by key does not find. Such a task would wait for
    // ever.
    for id in live {
        if tables.tasks.open()?.get(&id.as_bytes()[..])?.is_none() {
            return Err(redb::Error::Corrupted("a task is not where it should be".into()));
        }
    }
    read_controls(tables, &ram)?;
    let clock = Onward::from(latest, clock);
    ram.found(all, set_aside(tables)?, clock.now());
    Ok((ram, clock))
}

/// Reads the named values. Damaged values are set aside: then there are none, and no pool is paused.
fn read_controls(tables: &mut Tables<'_>, ram: &Ram) -> Result<(), redb::Error> {
    let value = tables
        .meta
        .open()?
        .get(CONTROL_KEY)?
        .map(|value| value.value().to_vec());
    let Some(value) = value else { return Ok(()) };
    let values = frame::open(CONTROL_KEY, &value).map(ControlValues::decode);
    match values {
        Ok(Ok(values)) => *ram.controls() = values,
        Ok(Err(DecodeError::Newer(_))) => {}
        Ok(Err(DecodeError::Malformed(_))) | Err(_) => {
            tables.keep_aside(ram, Origin::Control, CONTROL_KEY, &value)?;
            tables.meta.open()?.remove(CONTROL_KEY)?;
        }
    }
    Ok(())
}

/// The latest time in a task's row.
fn latest_of(row: &Row) -> Timestamp {
    let columns = &row.columns;
    let noted = row.record.history.last().map(|event| event.at);
    let times = [columns.started_at, columns.ended_at, noted];
    times.into_iter().flatten().fold(columns.created_at, Timestamp::max)
}

/// The tasks whose row has been set aside, now or earlier.
fn set_aside(tables: &mut Tables<'_>) -> Result<HashSet<RequestId>, redb::Error> {
    let origin = [Origin::Task as u8];
    let mut ids = HashSet::new();
    for entry in tables.set_aside.open()?.range::<&[u8]>(&origin[..]..)? {
        let (key, _) = entry?;
        let Some(id) = key.value().strip_prefix(&origin) else {
            break;
        };
        ids.extend(<[u8; 16]>::try_from(id).map(RequestId::from_bytes));
    }
    Ok(ids)
}
