//! How many files and connections a process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files as far as the process may. By default it is 1024 on most systems, for the sake of programs
/// that call `select`, and a hundred subscribers that hang would leave none for the others.
///
/// Where it cannot be raised it stays: what is then too much fails where it is opened.
pub fn allow_many() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
