//! Webhooks: requests that go out to subscribers when something happens.
//!
//! What decides is here, without a socket or a clock of its own: to which addresses a request may go ([`address`], [`target`]),
//! how it is signed ([`signature`]), when it is tried again and when a subscriber is left in peace ([`schedule`],
//! [`breaker`]), and which request a message in switch's shape asks for ([`template`]).

pub mod address;
pub mod breaker;
pub mod schedule;
pub mod signature;
pub mod target;
pub mod template;
