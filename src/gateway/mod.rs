//! The gateway: events that come in over HTTP.
//!
//! Who calls is found out here, without a socket or a clock of its own: [`caller`] by what is in the headers of a request, with
//! [`jwt`] for tokens and [`api_key`] for keys. What they bring becomes an [`event::Event`]: a body as it is, one of [`cloud_events`], a
//! [`command`], or what a publisher of [`switch`] sends. [`idempotency`] knows what was brought before.

pub mod api_key;
pub mod caller;
pub mod cloud_events;
pub mod command;
pub mod event;
pub mod idempotency;
pub mod jwt;
pub mod switch;
