//! The moments at which a process can kill or freeze itself.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

/// A moment between two steps of a process: the second step must not count as done, and the first must not be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Point {
    /// The request is read, and not yet stored.
    BeforeInsert,
    /// The task is stored, and its 202 not yet sent.
    AfterInsert,
    BeforeClaim,
    /// The task is claimed, and its handler not yet called.
    AfterClaim,
    /// The handler runs.
    InHandler,
    /// The handler has answered, and its result is not yet stored.
    BeforeSettle,
    /// The result is stored, and no hook is called yet.
    AfterSettle,
    BeforeHook,
    /// The hook was called, and that is not yet stored.
    AfterHook,
    AfterDelivery,
    BeforePrune,
    AfterPrune,
    /// The shutdown is about to hand a task back.
    BeforeRelease,
    AfterRelease,
    /// The shutdown is about to close the store.
    BeforeClose,
    AfterClose,
}

impl Point {
    /// The points that a process passes while it serves.
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

    /// The points that a process passes when it is asked to end.
    pub const ENDING: [Self; 4] = [
        Self::BeforeRelease,
        Self::AfterRelease,
        Self::BeforeClose,
        Self::AfterClose,
    ];
}

/// What a process does to itself, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub point: Point,
    /// On which pass of the point, counted from 1.
    pub passage: u32,
    pub act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// SIGKILL: not one more instruction runs.
    Die,
    /// SIGSTOP, until a SIGCONT arrives.
    Freeze,
}

/// Counts the passes of each point, and acts at the mark.
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

    /// Passes a point. Returns `true` if the process was frozen there.
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
            // The signal may take a moment to arrive on a busy machine; this thread must not go on.
            loop {
                std::thread::park();
            }
        }
        true
    }
}
