//! Errors that decide the exit code; everything else is `anyhow` and exits with 1.

/// The configuration, or a file that it names, is wrong: exit code 78 (EX_CONFIG). One line: what, where, what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

/// A service could not be reached within `--connect-timeout`, or an address to listen on is taken: exit code 69 (EX_UNAVAILABLE).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);
