//! The gateway: events that come in over HTTP.
//!
//! Who calls is found out here, without a socket or a clock of its own: [`caller`] by what is in the headers of a request, with
//! [`jwt`] for tokens and [`api_key`] for keys. What they bring becomes an [`event::Event`].

pub mod api_key;
pub mod caller;
pub mod event;
pub mod jwt;
