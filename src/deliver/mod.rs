//! Messages go out: each to those who subscribe to its topic, as a request to their URL.

pub mod options;
