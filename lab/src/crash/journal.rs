//! What really happened, told by those to whom it happened: a file to which every process appends, a line per event.
//!
//! A line is written with one call and without a buffer of ours, before what it tells of can have consequences. What was
//! written is in the system's hands, and stays when the process is killed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tower_respond_async::RequestId;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// The store has handed a task out; the engine does not know yet.
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
    /// The store has answered a settlement with a state, or that it was fenced.
    Settled {
        id: RequestId,
        token: u64,
        state: Option<String>,
    },
    /// A process is about to ask its store for something. What it is answered follows under the same number, unless nothing was.
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
    /// A webhook has told of an end, in a message that could be verified.
    Received {
        id: RequestId,
        generation: u32,
    },
    /// A webhook has come that could not.
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

/// What a store is asked to do with tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// To store a task as it is then, but for the token, which is the store's; and the name and key that it is known by.
    Insert {
        id: RequestId,
        at: At,
        known_by: Vec<String>,
    },
    Claim,
    Change(Vec<Wanted>),
    /// To let these claims hold longer.
    Renew(Vec<(RequestId, u64)>),
}

/// A change of one task: the version that it must have, and what it is then. `None` removes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub id: RequestId,
    pub from: u64,
    /// Whether more must hold: that its lease has run out, or that a completion is as it was.
    pub more: bool,
    pub to: Option<At>,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct At {
    pub version: u64,
    pub generation: u32,
    pub token: u64,
    pub state: String,
}

/// What a store has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answered {
    /// It cannot say. What it was asked for may have been done.
    Failed,
    Stored(At),
    /// Another insert was before, and this is where its task stands, if it is there.
    Known(RequestId, Option<At>),
    /// It was not stored: there is no room, or its name and its key are those of two tasks.
    Refused,
    Claimed(Vec<(RequestId, At)>),
    Changed(Vec<Changed>),
    /// Which of the claims hold.
    Renewed(Vec<bool>),
}

/// What became of a change. Not an option in an option, which would not be read back as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changed {
    Done,
    /// It was not made: this is where the task stands, if it is there.
    Refused(Option<At>),
}

/// What a hook was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub webhook_id: String,
    pub id: RequestId,
    pub generation: u32,
    pub state: String,
    pub attempt: u32,
    pub error: Option<String>,
    /// Who wrote the response, by its own word.
    pub answer: Option<Answer>,
}

/// What the handler answers with: what it was sent, and under which claim it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub nonce: String,
    pub token: u64,
}

/// The writing end. Clones write to the same file.
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

/// The reading end: hands out what was written since it was last asked.
#[derive(Debug)]
pub struct Reader {
    file: File,
    read: u64,
    /// Lines that a kill cut short.
    pub torn: u32,
}

impl Reader {
    pub fn open(path: &Path) -> io::Result<Self> {
        // Made here if no process has come that far.
        OpenOptions::new().append(true).create(true).open(path)?;
        let file = File::open(path)?;
        Ok(Self { file, read: 0, torn: 0 })
    }

    /// The new lines; what is being written now is left for the next time.
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
