//! Which tasks wait, which completions are due, what ended when: the indexes that a store keeps in memory beside its
//! records.
//!
//! They are never the truth. A [`Footprint`] is all that they know of a record; whoever changes one takes it before and
//! after, and lets the indexes follow.

mod footprint;
mod outbox;
mod queue;
mod tally;
mod timeline;

pub(in crate::store) use self::{
    footprint::Footprint,
    outbox::{Due, Outbox},
    queue::{Candidate, Place, Queue},
    tally::Tally,
    timeline::{Moment, Timeline},
};
