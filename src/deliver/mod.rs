//! Messages go out: each to those who subscribe to its topic, as a request to their URL.
//!
//! ```text
//!  topic ──▶ intake: who wants it? ──▶ store ──▶ engine: a lane for each subscriber ──▶ POST https://…
//!              (a stop like others)   (SQLite)          │  2xx: forgotten
//!                                        ▲              │  else: due again later
//!                                        └──────────────┤
//!                                                       └─ after the last attempt: dead letter
//! ```
//!
//! A message is taken off the bus once it is in the store, so nobody who is slow holds up the topic. From there it goes out
//! at least once to everybody who wants it: a request of which a crash leaves the outcome unknown is made again, with the
//! same `webhook-id`.
//!
//! - Who is disabled (410, or days of failure) is called no more; what it is to get waits in the store, also what comes meanwhile,
//!   until it is enabled or gone. What waits for one that is gone is forgotten, and counted in the log.
//! - A subscriber that fails is called less and less often (its breaker), and what waits for it costs no memory. The others
//!   do not notice.
//! - One process owns a store; a second one with the same store stands by until the first has ended. Processes with stores of
//!   their own share the partitions of a topic on Kafka, as stops do; each then has breakers, rates and places of its own.
//! - A topic is read as any other stop reads one, so nobody else in the group may read it.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `intake` | the handler of the stop: who wants a message, and what it is called |
//! | `store` | what is to be delivered, and how subscribers do |
//! | `request` | the request that a message makes |
//! | `engine`, `lane`, `sender` | requests go out, each subscriber's by a lane of its own |
//! | `outcomes`, `loads` | threads for what blocks: writing and reading the store |
//! | `letters` | what is given up becomes a dead letter |
//! | `counts` | what is told of it in `/metrics` |

pub(crate) mod counts;
mod engine;
mod intake;
mod lane;
mod letters;
mod loads;
pub mod options;
mod outcomes;
pub mod request;
mod sender;
pub mod store;

pub use counts::Counts;
pub use engine::Engine;
pub use intake::Intake;

/// The record header of a dead letter: whom it was for. Sent again, it goes to nobody else.
pub const SUBSCRIBER_HEADER: &str = "metrobus-subscriber";

/// The record header of a message in switch's shape, whose value is then `switch`.
pub const SHAPE_HEADER: &str = "metrobus-shape";

/// What rejects a message that nobody took: the name in its dead letter.
pub const NAME: &str = "deliver";
