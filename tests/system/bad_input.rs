//! What bad input gets, from outside: each outcome that the README promises, on every bus where the bus matters.

mod configuration;
mod dat_files;
mod database;
mod disk;
mod drops;
mod fuzz;
mod handlers;
mod headers;
mod records;
mod services;
mod sizes;
mod traffic;
