//! What a user sees, tested from outside: the binary on real services. `make test` starts those.

mod bad_input;
mod cli;
mod commands;
mod compose;
mod dead;
mod faults;
mod fleet;
mod http;
mod journal;
mod library;
mod life;
mod lmdb;
mod logs;
mod monitoring;
mod page;
mod pusher;
mod readme;
mod repair;
mod routes;
mod rules;
mod secure;
mod sinks;
mod support;
mod traces;
mod vectors;
mod web;
