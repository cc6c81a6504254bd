//! The binary as a user runs it: arguments, environment, folder and standard input in, exit code and output out.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::server::signal_child;
use super::{Scratch, Signal, read_text, try_until};

/// One call of `metrobus`, with its log as text. It inherits the environment but for METROBUS_* and RUST_LOG.
#[derive(Debug)]
#[must_use]
pub struct Metrobus {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    stdin: Input,
    stdout: Option<PathBuf>,
    file_limit: Option<u64>,
    open_files: Option<u64>,
    deadline: Duration,
}

#[derive(Debug)]
enum Input {
    Nothing,
    Bytes(Vec<u8>),
    Pipe,
}

impl Metrobus {
    /// The binary without arguments, in the folder of the test runner, reading nothing.
    pub fn new() -> Metrobus {
        Metrobus {
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: None,
            stdin: Input::Nothing,
            stdout: None,
            file_limit: None,
            open_files: None,
            deadline: Duration::from_secs(60),
        }
    }

    pub fn arg(mut self, argument: impl Into<OsString>) -> Metrobus {
        self.arguments.push(argument.into());
        self
    }

    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Metrobus {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Metrobus {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The folder it runs in.
    pub fn cwd(mut self, folder: impl AsRef<Path>) -> Metrobus {
        self.folder = Some(folder.as_ref().to_path_buf());
        self
    }

    /// What it reads, to the end of the input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Metrobus {
        self.stdin = Input::Bytes(bytes.into());
        self
    }

    /// It reads what the test writes to [`Process::take_stdin`] while it runs.
    pub fn stdin_pipe(mut self) -> Metrobus {
        self.stdin = Input::Pipe;
        self
    }

    /// Where standard output goes instead of the file that [`Output`] is read from.
    pub fn stdout(mut self, path: impl Into<PathBuf>) -> Metrobus {
        self.stdout = Some(path.into());
        self
    }

    /// No file may grow beyond that many bytes: writing fails as on a full disk, though with another error.
    pub fn file_limit(mut self, bytes: u64) -> Metrobus {
        self.file_limit = Some(bytes);
        self
    }

    /// So many files it may have open at once, as long as it does not ask for more.
    pub fn open_files(mut self, count: u64) -> Metrobus {
        self.open_files = Some(count);
        self
    }

    /// How long [`run`](Metrobus::run) waits, 60 s unless said.
    pub fn deadline(mut self, deadline: Duration) -> Metrobus {
        self.deadline = deadline;
        self
    }

    /// Runs it to its end. Panics with its output where it is still running at the deadline.
    pub fn run(self) -> Output {
        let deadline = self.deadline;
        self.spawn().wait(deadline)
    }

    /// Starts it.
    pub fn spawn(self) -> Process {
        let scratch = Scratch::new();
        let binary = env!("CARGO_BIN_EXE_metrobus");
        // In blocks of 512 bytes; the signal that comes with the error would end the process
        let file_limit = self.file_limit.map(|bytes| format!("trap '' XFSZ; ulimit -S -f {}; ", bytes / 512));
        let open_files = self.open_files.map(|count| format!("ulimit -S -n {count}; "));
        let limits: String = [file_limit, open_files].into_iter().flatten().collect();
        let mut command = match limits.is_empty() {
            true => Command::new(binary),
            false => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{limits}exec \"$0\" \"$@\""), binary]);
                shell
            }
        };
        command.args(&self.arguments);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("METROBUS_") || text == "RUST_LOG" {
                command.env_remove(&name);
            }
        }
        // What a person would read, though nobody's terminal is here
        command.env("METROBUS_LOG_FORMAT", "text").envs(self.environment);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        // Files, not pipes: nobody has to read along for the process to go on, and a test can look at any time.
        let create = |name| File::create(scratch.path(name)).expect("make a file for output");
        let open = |path| File::options().write(true).open(path).expect("open what standard output goes to");
        let captured = create("stdout");
        command.stdout(self.stdout.map_or(captured, open)).stderr(create("stderr"));
        command.stdin(match self.stdin {
            Input::Nothing => Stdio::null(),
            Input::Pipe => Stdio::piped(),
            Input::Bytes(bytes) => Stdio::from(File::open(scratch.write("stdin", bytes)).expect("open the input")),
        });
        let child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        Process { call: format!("metrobus {}", display(&self.arguments)), child, scratch }
    }
}

fn display(arguments: &[OsString]) -> String {
    let words: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
    words.join(" ")
}

/// A running `metrobus`. Dropping it kills it.
pub struct Process {
    call: String,
    child: Child,
    scratch: Scratch,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.status().is_none()
    }

    /// The writing end of [`Metrobus::stdin_pipe`]; dropping it ends the input.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("started with stdin_pipe, taken once")
    }

    /// What it has written to standard output so far.
    pub fn stdout_text(&self) -> String {
        self.scratch.read("stdout")
    }

    /// What it has written to standard error so far.
    pub fn stderr_text(&self) -> String {
        self.scratch.read("stderr")
    }

    /// The file that standard output goes to, for output too large to read again and again.
    pub fn stdout_path(&self) -> PathBuf {
        self.scratch.path("stdout")
    }

    /// SIGKILL, and wait for the end.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, such as `Signal::TERM`. Nothing happens where it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            signal_child(&self.child, signal);
        }
    }

    /// Waits until `needle` is in standard error. Panics at the deadline, or when the process ends without it.
    pub fn wait_for_stderr(&mut self, needle: &str, deadline: Duration) {
        let found = try_until(deadline, || {
            let ended = !self.is_running();
            let found = self.stderr_text().contains(needle);
            (found || ended).then_some(found)
        });
        if found != Some(true) {
            self.give_up(&format!("never said {needle:?} within {deadline:?}"));
        }
    }

    /// Waits for the end. Panics with what it printed where it is still running at the deadline.
    pub fn wait(mut self, deadline: Duration) -> Output {
        // An input still open here is one that the test has finished writing to.
        drop(self.child.stdin.take());
        let Some(status) = try_until(deadline, || self.status()) else {
            self.give_up(&format!("still ran after {deadline:?}"));
        };
        let stdout = std::fs::read(self.scratch.path("stdout")).expect("read standard output");
        Output {
            call: self.call.clone(),
            code: status.code(),
            signal: status.signal(),
            stdout,
            stderr: read_text(&self.scratch.path("stderr")),
        }
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("ask for the state of a child")
    }

    fn give_up(&mut self, what: &str) -> ! {
        self.kill9();
        panic!(
            "{} {what}\nstdout:\n{}\nstderr:\n{}",
            self.call,
            end_of(&self.stdout_text()),
            end_of(&self.stderr_text())
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The last lines of a text that may be long.
fn end_of(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(50)..].join("\n")
}

/// How a call ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub call: String,
    /// The exit code, `None` where a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Output {
    /// Panics with everything it printed unless it ended with this exit code. Returns itself for further assertions.
    #[track_caller]
    pub fn assert_code(self, code: i32) -> Output {
        assert!(
            self.code == Some(code),
            "{} ended with {:?} (signal {:?}), expected {code}\nstdout:\n{}\nstderr:\n{}",
            self.call,
            self.code,
            self.signal,
            end_of(&self.stdout_text()),
            end_of(&self.stderr)
        );
        self
    }

    /// Standard output as text, what is not UTF-8 replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as one JSON value a line.
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", self.call));
        self.stdout_text().lines().map(parse).collect()
    }
}
