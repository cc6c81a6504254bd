//! A server process of a test: started, stopped, killed and restarted by its process id, its output in a file.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{read_text, try_until};

/// Starts the command that `prepare` makes, as often as asked. Dropping it kills the process.
pub struct Server {
    name: &'static str,
    prepare: Box<dyn Fn() -> Command + Send + Sync>,
    log: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// Nothing runs yet. What the process prints goes to the file `log`, anew with each start.
    pub fn new(name: &'static str, log: PathBuf, prepare: impl Fn() -> Command + Send + Sync + 'static) -> Server {
        Server { name, prepare: Box::new(prepare), log, child: None }
    }

    /// Starts the process and waits until `ready` says true, given what the process has printed so far. The error says
    /// what it printed last.
    pub fn start(&mut self, deadline: Duration, mut ready: impl FnMut(&str) -> bool) -> Result<(), String> {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let output = File::create(&self.log).map_err(|e| format!("{}: {e}", self.log.display()))?;
        let errors = output.try_clone().map_err(|e| e.to_string())?;
        let child = (self.prepare)()
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|e| format!("start {}: {e}", self.name))?;
        self.child = Some(child);

        let state = try_until(deadline, || match self.exited() {
            Some(status) => Some(Err(format!("it ended with {status}"))),
            None => ready(&self.said()).then_some(Ok(())),
        });
        let reason = match state {
            Some(Ok(())) => return Ok(()),
            Some(Err(reason)) => reason,
            None => format!("it was not ready after {deadline:?}"),
        };
        self.kill();
        Err(format!("{} did not start, {reason}:\n{}", self.name, self.said()))
    }

    /// What the process has printed since its last start.
    pub fn said(&self) -> String {
        read_text(&self.log)
    }

    /// The process id. Panics where nothing runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect(self.name).id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.is_some() && self.exited().is_none()
    }

    /// Sends a signal and does not wait for what comes of it.
    pub fn signal(&self, signal: Signal) {
        signal_child(self.child.as_ref().expect(self.name), signal);
    }

    /// SIGTERM, then SIGKILL to a process that is still there after `patience`.
    pub fn stop(&mut self, patience: Duration) {
        if self.is_running() {
            self.signal(Signal::TERM);
            try_until(patience, || self.exited());
        }
        self.kill();
    }

    /// SIGKILL, and wait for the end. Nothing happens where nothing runs.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("ask for the state of a child"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a child that has not been waited for, whose id therefore is still its own.
pub fn signal_child(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).unwrap_or_else(|e| panic!("send {signal:?} to {pid:?}: {e}"));
}
