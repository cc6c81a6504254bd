//! What goes on at present: which ways messages take, how many, how fast, what waits, what is dropped and why.
//!
//! Read from the journal as it grows, and from the bus for what waits; nothing is written, and no stop knows of it. So it
//! is the same picture whether stops run in this process, in others or on other machines.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `ledger` | adds up the entries of the journal |
//! | `rate` | how many a second, of late |
//! | `minutes` | the last hour of a stop, a minute at a time |
//! | `picture` | what is shown, as the page and `metrobus top` take it |
//! | `watch` | the threads that read |
//!
//! It costs memory for what there is to tell apart (stops, ways, reasons), all of it bounded, and none for messages.

mod ledger;
mod minutes;
mod picture;
mod rate;
mod watch;

pub use picture::{
    Edge, JournalState, Minute, Percentiles, Picture, Reason, Recent, State, Stop, StopHistory, TopicKind, TopicState,
    Volume,
};
pub use watch::{Watch, watch};
