//! The page's session: an event comes in by HTTP and goes out as a webhook, the receiver breaks, and what failed is sent again.

use std::process::Command;

use super::{Reader, blocks, commands};
use crate::{
    fleet::DEADLINE,
    support::{Metrobus, Process, Signal, free_port, wait_until},
};

const SECTION: &str = "In by HTTP, out by webhook";

/// The three programs of the session, and the shell in which the rest is typed.
struct Session {
    reader: Reader,
    /// What stands on the page, and what is free here.
    ports: [(&'static str, String); 2],
    running: Vec<(String, Process)>,
}

impl Session {
    fn new() -> Session {
        let [gateway, receiver] = [free_port(), free_port()];
        let ports = [("8000", gateway.to_string()), ("9000", receiver.to_string())];
        let reader = Reader::new();
        let toml = blocks().into_iter().find(|block| block.section == SECTION && block.language == "toml");
        let toml = toml.expect("TOML").text.replace("9000", &ports[1].1);
        assert!(toml.contains(&ports[1].1), "the receiver is where the page says");
        reader.folder.write("doors.toml", toml);
        Session { reader, ports, running: Vec::new() }
    }

    /// Types a command of the page; gives what it printed, where it ends by itself.
    fn types(&mut self, command: &str) -> String {
        match command.split(' ').collect::<Vec<_>>().as_slice() {
            ["export", _] => String::new(),
            ["metrobus", role @ ("gateway" | "deliver" | "listen"), arguments @ ..] => {
                self.starts(role, arguments);
                String::new()
            }
            _ => self.shell(command),
        }
    }

    /// Starts it in place of the one that runs.
    fn starts(&mut self, role: &str, arguments: &[&str]) {
        self.ends(role);
        let [gateway, receiver] = &self.ports;
        let mut call = Metrobus::new().cwd(self.reader.folder.root()).arg(role).args(arguments.iter().copied());
        call = call.env("METROBUS_CONFIG", "doors.toml").env("METROBUS__GATEWAY__LISTEN", &gateway.1);
        if role == "listen" {
            call = call.args(["--port", &receiver.1]);
        }
        let mut process = call.spawn();
        match role {
            "gateway" => process.wait_for_stderr("gateway on http://", DEADLINE),
            "listen" => process.wait_for_stderr("listens on http://", DEADLINE),
            _ => {}
        }
        self.running.push((role.to_owned(), process));
    }

    fn ends(&mut self, role: &str) {
        if let Some(index) = self.running.iter().position(|(running, _)| running == role) {
            let (_, mut process) = self.running.remove(index);
            process.signal(Signal::INT);
            process.wait(DEADLINE).assert_code(0);
        }
    }

    fn shell(&self, command: &str) -> String {
        let command = self.ports.iter().fold(command.to_owned(), |command, (from, to)| command.replace(from, to));
        let paths = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(&command).current_dir(self.reader.folder.root()).env("METROBUS_CONFIG", "doors.toml");
        shell.env("PATH", format!("{}:{paths}", self.reader.programs.root().display()));
        let output = shell.output().expect("run a shell");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// What the receiver prints, once it has shown what is asked for.
    fn listened(&self, what: &str, times: usize) -> String {
        let (_, process) = self.running.iter().find(|(role, _)| role == "listen").expect("a receiver");
        wait_until(&format!("{what} {times} times"), DEADLINE, || {
            Some(process.stdout_text()).filter(|text| text.matches(what).count() >= times)
        })
    }
}

#[test]
fn an_event_comes_in_and_goes_out_and_what_failed_is_sent_again() {
    let mut session = Session::new();
    let mut commands = commands(SECTION).into_iter();
    let mut until = |session: &mut Session, end: &str| {
        let mut printed = String::new();
        for command in commands.by_ref() {
            printed = session.types(&command);
            if command.starts_with(end) {
                return printed;
            }
        }
        panic!("the page has no more {end}: {printed}");
    };
    let id = |answer: &str| serde_json::from_str::<serde_json::Value>(answer).expect("JSON")["id"].clone();
    let first = until(&mut session, "curl");
    let first = id(&first).as_str().expect("an id").to_owned();
    let shown = session.listened(&first, 1);
    until(&mut session, "curl");

    until(&mut session, "metrobus listen");
    let third = until(&mut session, "curl");
    let third = id(&third).as_str().expect("an id").to_owned();
    session.listened(&third, 3);
    let letter = wait_until("a dead letter", DEADLINE, || {
        Some(session.shell("metrobus dead ls")).filter(|listed| listed.contains("subscriber shop: 500"))
    });
    assert!(until(&mut session, "metrobus dead ls").contains("500"), "{letter}");

    until(&mut session, "metrobus listen");
    assert!(until(&mut session, "metrobus dead replay").starts_with("replayed 1"));
    let mended = session.listened(&third, 1);
    assert!(mended.contains("300") && !mended.contains("\"amount\": 20"), "{mended}");
    assert!(until(&mut session, "metrobus subscriber ls").contains("shop"));

    // What the page shows is what is printed, but for times and ids
    let page = blocks().into_iter().find(|block| block.section == SECTION && block.language == "text");
    let shape = |text: &str| -> Vec<String> {
        let fixed =
            |line: &str| line.split(" in ").next().unwrap_or_default().replace(|c: char| c.is_ascii_hexdigit(), "");
        text.lines().map(fixed).collect()
    };
    assert_eq!(shape(&page.expect("what it prints").text), shape(&shown));
    for role in ["gateway", "deliver", "listen"] {
        session.ends(role);
    }
}
