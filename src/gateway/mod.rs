//! The gateway: events that come in over HTTP.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `server` | which request is answered by what |
//! | `accept` | from a request to its answer: who, the body, once, and what is said then |
//! | `topics` | `POST /topics/{topic}` |
//! | [`event`] | what a request brings, as a record |
//! | `publish` | events of all connections on their way to the bus, together |
//! | `access`, [`caller`], [`api_key`], [`jwt`] | who calls, and how much they may send |
//! | [`idempotency`], `ledger` | what came before, and what of quotas is used up |
//! | [`cloud_events`], [`command`], [`switch`] | requests in other shapes |
//! | `options`, `budget`, `stats` | the configuration; what requests may take of memory; what is counted |
//!
//! docs/gateway.openapi.json describes what is answered.

mod accept;
mod access;
pub mod api_key;
mod budget;
pub mod caller;
pub mod cloud_events;
pub mod command;
pub mod event;
pub mod idempotency;
pub mod jwt;
mod ledger;
mod options;
mod publish;
pub(crate) mod server;
pub(crate) mod stats;
pub mod switch;
mod topics;
