//! Processes that are measured: started quietly, watched through /proc, ended with their owner.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::run::Bench;

/// Nothing that is waited for takes longer.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// A process that is killed when its owner lets go of it, in a panic too.
pub struct Running(Child);

impl Running {
    pub fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}")))
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        until("a process ends", || self.has_ended());
    }

    /// Seconds of processor time that it has used, its threads that have ended included.
    pub fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        // The name before it is in brackets, and may have spaces
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / TICKS
    }

    /// The same of the threads that live, to the nanosecond.
    pub fn cpu_exactly(&self) -> f64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0.id())).into_iter().flatten().flatten();
        let nanos = threads.filter_map(|thread| {
            let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<f64>().ok()
        });
        nanos.sum::<f64>() / 1e9
    }

    /// Megabytes of memory in the line `field` of /proc/PID/status: VmHWM is the most that it had, VmRSS what it has.
    pub fn memory(&self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kilobytes.unwrap_or(0.0) / 1024.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Linux counts processor time in hundredths of a second on every machine of today.
const TICKS: f64 = 100.0;

/// `metrobus` in the bench's folder, quiet, with METROBUS__ settings.
pub fn metrobus(bench: &Bench, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metrobus"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("METROBUS_")) {
        command.env_remove(name);
    }
    command.current_dir(bench.folder()).args(arguments).arg("-q").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::inherit()).env("METROBUS_LOG_FORMAT", "text");
    let fixtures = [("CONTACTPOINT__FILE", "emails.dat"), ("WHITELIST__FILE", "whitelist.dat")];
    for (name, value) in fixtures.iter().chain(&[("REDIS__COUNTERS", "off")]).chain(settings) {
        command.env(format!("METROBUS__{name}"), value);
    }
    command
}

/// Seconds that `command` takes from its start to its end.
pub fn time(mut command: Command) -> f64 {
    let start = Instant::now();
    let status = command.status().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
    start.elapsed().as_secs_f64()
}

/// The pusher says how much it sent, which nobody here needs to read.
pub fn time_silently(mut command: Command) -> f64 {
    command.stderr(Stdio::null());
    time(command)
}

/// Looks every few milliseconds whether `what` has come true.
pub fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_true() {
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
