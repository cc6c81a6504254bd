//! The binary with a terminal for its standard error, as a person has it in front of them.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Runs `metrobus` in `folder` to its end; gives how it ended and what its terminal was sent, escapes included.
pub fn run_on_terminal(folder: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> (ExitStatus, String) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("open a terminal");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("unlock the terminal");
    let size = Winsize { ws_row: 25, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).expect("set the size of the terminal");
    let name = ptsname(&terminal, Vec::new()).expect("the name of the terminal").into_string().expect("text");
    let end = File::options().read(true).write(true).open(name).expect("open the terminal's end");
    let mut command = Command::new(env!("CARGO_BIN_EXE_metrobus"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("METROBUS") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").env_remove("NO_COLOR").env("TERM", "xterm").envs(settings.iter().copied());
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(end);
    let mut child = command.spawn().expect("start metrobus");
    // It held an end of the terminal too
    drop(command);
    let mut text = Vec::new();
    // A terminal that nobody has open any more ends with an error
    let _ = File::from(terminal).read_to_end(&mut text);
    let status = child.wait().expect("its end");
    (status, String::from_utf8_lossy(&text).into_owned())
}
