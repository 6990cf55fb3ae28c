//! The moments at which a process can be told to die.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

/// A moment in the life of a process: between two steps of which the second must not be taken for done, nor the first
/// be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Point {
    /// A request is read, and not yet stored.
    BeforeInsert,
    /// A task is stored, and its 202 not yet sent.
    AfterInsert,
    BeforeClaim,
    /// A task is claimed, and its handler not yet called.
    AfterClaim,
    /// The handler is at work.
    InHandler,
    /// The handler has answered, and its result is not yet stored.
    BeforeSettle,
    /// The result is stored, and nobody was told.
    AfterSettle,
    BeforeHook,
    /// The hook has heard, and that it has is not yet stored.
    AfterHook,
    AfterDelivery,
    BeforePrune,
    AfterPrune,
    /// A shutdown is about to hand a task back.
    BeforeRelease,
    AfterRelease,
    /// A shutdown is about to close the store.
    BeforeClose,
    AfterClose,
}

impl Point {
    /// Those that a process passes while it serves.
    pub const SERVING: [Self; 12] = [
        Self::BeforeInsert,
        Self::AfterInsert,
        Self::BeforeClaim,
        Self::AfterClaim,
        Self::InHandler,
        Self::BeforeSettle,
        Self::AfterSettle,
        Self::BeforeHook,
        Self::AfterHook,
        Self::AfterDelivery,
        Self::BeforePrune,
        Self::AfterPrune,
    ];

    /// Those that it passes when it is asked to end.
    pub const ENDING: [Self; 4] = [
        Self::BeforeRelease,
        Self::AfterRelease,
        Self::BeforeClose,
        Self::AfterClose,
    ];
}

/// What a process does to itself at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub point: Point,
    /// At which time it comes by there, from 1.
    pub passage: u32,
    pub act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// SIGKILL: not one instruction more.
    Die,
    /// SIGSTOP, until somebody sends SIGCONT.
    Freeze,
}

/// Counts how often each point was passed, and carries the mark out.
#[derive(Debug)]
pub struct Points {
    mark: Option<Mark>,
    passed: Mutex<HashMap<Point, u32>>,
}

impl Points {
    pub fn new(mark: Option<Mark>) -> Self {
        Self {
            mark,
            passed: Mutex::default(),
        }
    }

    /// Comes by a point. Answers whether the process stood still there.
    pub fn pass(&self, point: Point) -> bool {
        let Some(mark) = self.mark.filter(|mark| mark.point == point) else {
            return false;
        };
        let passage = {
            let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            let passage = passed.entry(point).or_default();
            *passage += 1;
            *passage
        };
        if passage != mark.passage {
            return false;
        }
        let signal = match mark.act {
            Act::Die => Signal::KILL,
            Act::Freeze => Signal::STOP,
        };
        kill_process(getpid(), signal).expect("a process may signal itself");
        if matches!(mark.act, Act::Die) {
            // On a busy machine it may take a moment, in which this thread must not go on.
            loop {
                std::thread::park();
            }
        }
        true
    }
}
