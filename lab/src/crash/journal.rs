//! The journal: a file to which every process appends one line per event.
//!
//! A line is written with one call and without a buffer in the process, before the event can have consequences. Written
//! data is with the operating system, and stays when the process is killed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tower_respond_async::RequestId;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// The store has handed out a task; the engine has not received it yet.
    Claimed {
        id: RequestId,
        generation: u32,
        token: u64,
    },
    /// The handler was called.
    Started {
        id: RequestId,
        attempt: u32,
        token: u64,
        nonce: String,
    },
    /// The store has answered a settlement: with the state, or (`None`) that it was fenced.
    Settled {
        id: RequestId,
        token: u64,
        state: Option<String>,
    },
    /// A process is about to call its store. The answer follows under the same number, unless there was none.
    Asked {
        call: u64,
        what: Asked,
    },
    Answered {
        call: u64,
        answer: Answered,
    },
    /// The hook was called.
    Told(Told),
    /// A webhook for an end arrived and was verified.
    Received {
        id: RequestId,
        generation: u32,
    },
    /// A webhook arrived and could not be verified.
    Unverified {
        what: String,
    },
    /// A shutdown has ended.
    Drained {
        finished: usize,
        handed_back: usize,
        dropped: usize,
    },
}

/// A call to a store about tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// Stores a task. `at` is the task as stored, except for the token, which the store assigns. `known_by` is its name
    /// and its key.
    Insert {
        id: RequestId,
        at: At,
        known_by: Vec<String>,
    },
    Claim,
    Change(Vec<Wanted>),
    /// Renews these claims.
    Renew(Vec<(RequestId, u64)>),
}

/// A change of one task: the version that it must have, and its new position. `None` removes the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub id: RequestId,
    pub from: u64,
    /// Whether the guard is more than the version: a lapsed lease, or the state of a completion.
    pub more: bool,
    pub to: Option<At>,
}

/// The position of a task in its life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct At {
    pub version: u64,
    pub generation: u32,
    pub token: u64,
    pub state: String,
}

/// The answer of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answered {
    /// An error: the call may have taken effect or not.
    Failed,
    Stored(At),
    /// An earlier insert has this name or key. This is the position of its task, if the task is still there.
    Known(RequestId, Option<At>),
    /// Not stored: the store is full, or the name and the key belong to two different tasks.
    Refused,
    Claimed(Vec<(RequestId, At)>),
    Changed(Vec<Changed>),
    /// Which of the claims hold.
    Renewed(Vec<bool>),
}

/// The result of a change. An `Option` in an `Option` would not survive serialization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changed {
    Done,
    /// The change was not made. This is the position of the task, if it is there.
    Refused(Option<At>),
}

/// A call of the hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub webhook_id: String,
    pub id: RequestId,
    pub generation: u32,
    pub state: String,
    pub attempt: u32,
    pub error: Option<String>,
    /// The handler's answer, as the response has it.
    pub answer: Option<Answer>,
}

/// The handler's answer: the nonce that it was sent, and the claim under which it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub nonce: String,
    pub token: u64,
}

/// The writing side. Clones write to the same file.
#[derive(Clone, Debug)]
pub struct Journal(Arc<File>);

impl Journal {
    pub fn open(path: &Path) -> io::Result<Self> {
        let journal = Self(Arc::new(OpenOptions::new().append(true).create(true).open(path)?));
        // A kill may have cut the last line short.
        (&*journal.0).write_all(b"\n")?;
        Ok(journal)
    }

    pub fn write(&self, line: &Line) {
        let mut text = serde_json::to_vec(line).expect("a line is made of numbers and text");
        text.push(b'\n');
        (&*self.0).write_all(&text).expect("the journal can be written");
    }
}

/// The reading side: returns what was written since the last read.
#[derive(Debug)]
pub struct Reader {
    file: File,
    read: u64,
    /// Lines that a kill cut short.
    pub torn: u32,
}

impl Reader {
    pub fn open(path: &Path) -> io::Result<Self> {
        // No process may have created it yet.
        OpenOptions::new().append(true).create(true).open(path)?;
        let file = File::open(path)?;
        Ok(Self { file, read: 0, torn: 0 })
    }

    /// The new lines. An incomplete line is left for the next read.
    pub fn lines(&mut self) -> io::Result<Vec<Line>> {
        self.file.seek(SeekFrom::Start(self.read))?;
        let mut text = Vec::new();
        self.file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        let mut lines = Vec::new();
        for line in text[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            match serde_json::from_slice(line) {
                Ok(line) => lines.push(line),
                Err(_) => self.torn += 1,
            }
        }
        Ok(lines)
    }
}
