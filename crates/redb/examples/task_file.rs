//! Shows the tables of a `RedbStore` file, or makes the file as small as possible, while no process has it open.
//!
//! ```text
//! cargo run -p tower-respond-async-redb --example task_file -- look tasks.redb
//! cargo run -p tower-respond-async-redb --example task_file -- compact tasks.redb
//! ```
#![forbid(unsafe_code)]

use std::{env, error::Error, fmt::Write, fs, path::Path, process::ExitCode};

use redb::{Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTableMetadata, TableHandle};

fn main() -> ExitCode {
    let words: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (path, said) = match words[..] {
        ["look", path] => (path, look(path.as_ref())),
        ["compact", path] => (path, compact(path.as_ref())),
        _ => {
            eprintln!("task_file: say `look FILE` or `compact FILE`");
            return ExitCode::FAILURE;
        }
    };
    match said {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("task_file: {path}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The sizes of all tables. Writes nothing.
pub fn look(path: &Path) -> Result<String, Box<dyn Error>> {
    let file = ReadOnlyDatabase::open(path).map_err(|error| match error {
        DatabaseError::RepairAborted => "it was not closed: have the application open it and end".into(),
        other => Box::<dyn Error>::from(other),
    })?;
    let transaction = file.begin_read()?;
    let mut tables: Vec<_> = transaction.list_tables()?.collect();
    tables.sort_by(|a, b| a.name().cmp(b.name()));
    let mut said = format!("{:12}{:>12}{:>16}{:>16}", "table", "entries", "bytes", "of their pages");
    for table in tables {
        let name = table.name().to_owned();
        let table = transaction.open_untyped_table(table)?;
        let stats = table.stats()?;
        let stored = stats.stored_bytes();
        let pages = stored + stats.metadata_bytes() + stats.fragmented_bytes();
        write!(said, "\n{name:12}{:>12}{stored:>16}{pages:>16}", table.len()?)?;
    }
    write!(said, "\n{:12}{:>44}", "file", fs::metadata(path)?.len())?;
    Ok(said)
}

/// Moves pages to the front and truncates the file.
pub fn compact(path: &Path) -> Result<String, Box<dyn Error>> {
    let before = fs::metadata(path)?.len();
    let mut file = Database::open(path)?;
    while file.compact()? {}
    drop(file);
    let after = fs::metadata(path)?.len();
    Ok(format!("{before} bytes before, {after} now"))
}
