//! Smart routing on a dumb bus: each message carries its own itinerary.
//!
//! A topic on a message bus stores records and hands them out, nothing more. Each message carries a *slip*: the stops
//! that it is still to visit and those that it has visited. A *stop* reads one topic, does one thing to each message, and
//! sends it on to whatever its slip names next; it knows neither where a message came from nor where it goes.
//!
//! ```text
//!  pusher ──▶ Source ──▶ busdriver        the busdriver gives the raw record its slip:
//!                            │            route = [Log, WhiteList, AddEmail], the next stop last
//!                            ▼
//!                        AddEmail ──▶ contactpoint   adds the email of the account, or drops
//!                                         │
//!                                         ▼
//!                                    WhiteList ──▶ whitelist   lets listed emails pass, drops the others
//!                                                      │
//!                                                      ▼
//!                                                     Log ──▶ logstop   the end of the line
//!
//!  what no stop can handle ──▶ Error, byte for byte, the reason in its record headers
//! ```
//!
//! # Reading order
//!
//! 1. [`slip`] and [`payload`]: the wire format, taken apart and put together again by splicing bytes.
//! 2. [`handler`]: what a stop does, messages in and verdicts out.
//! 3. [`stop`]: the loop around it: poll, handle, advance, settle. Helped by [`dead_letter`], [`drain`], [`backoff`],
//!    [`shutdown`] and [`stats`]; what it tells of itself is in [`health`], [`http`], [`log`] and [`trace`].
//! 4. [`rules`]: which route a message takes. [`filter`]: which messages a subscriber wants.
//! 5. [`bus`]: the contract that the loop relies on, and its engines: [`bus::sqlite`], [`bus::kafka`], [`bus::memory`].
//!    `sqlite_file` tells SQLite files of ours from others', here and in 7 and 8.
//! 6. [`cache`]: look-ups by key, in files, LMDB and Redis.
//! 7. [`journal`]: what happened at each hop, published with the hop itself; its index, and journeys found in it.
//!    [`traffic`]: what goes on at present, read from it; [`web`]: the page that shows both.
//! 8. [`gateway`]: messages come in by HTTP. [`deliver`]: they go out, to whoever [`subscriber`] knows, by [`webhook`];
//!    [`listen`] is a receiver to try that with.
//! 9. [`roles`]: the subcommands, a file each; [`cli`] and [`config`] wire them, `terminal` draws what they print.
//!    [`descriptors`]: how many files and connections a process may have open.
//!
//! # A stop of your own
//!
//! ```
//! use metrobus::{Config, Drain, Shutdown, Stop, Topic, Verdict, bus, each};
//!
//! # let folder = tempfile::tempdir()?;
//! # let environment = [("METROBUS__SQLITE__PATH", folder.path().join("bus.db"))];
//! # /*
//! let environment = std::env::vars_os();
//! # */
//! let config = Config::load(None, environment)?;
//! let shout = each(|message| {
//!     let Some(name) = message.payload.text("name") else { return Verdict::drop("no name") };
//!     match message.payload.set("name", &name.to_uppercase()) {
//!         Ok(()) => Verdict::Forward,
//!         Err(error) => Verdict::reject(error.to_string()),
//!     }
//! });
//! let stop = Stop::new("shout", &Topic::new("Shout")?, shout, &config);
//! // Without this it runs until `Shutdown` is asked for
//! let stop = stop.drain(Drain::default().join());
//! stop.run(&*bus::open(&config)?, &Shutdown::on_signals()?)?;
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! `examples/shout.rs` is the same as a program.

pub mod backoff;
pub mod bus;
pub mod cache;
pub mod cli;
pub mod config;
pub mod dead_letter;
pub mod deliver;
pub mod descriptors;
pub mod drain;
pub mod error;
pub mod filter;
pub mod gateway;
pub mod handler;
pub mod health;
pub mod http;
pub mod journal;
mod json;
pub mod listen;
pub mod log;
pub mod payload;
mod progress;
pub mod roles;
pub mod rules;
pub mod shutdown;
pub mod slip;
mod sqlite_file;
pub mod stats;
pub mod stop;
pub mod subscriber;
mod terminal;
mod tls;
pub mod trace;
pub mod traffic;
pub mod web;
pub mod webhook;

/// The Rust in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use bus::Topic;
pub use config::Config;
pub use drain::Drain;
pub use handler::{Handler, Verdict, each};
pub use shutdown::Shutdown;
pub use slip::{Message, Revision};
pub use stop::Stop;
