//! The page of `metrobus web`, as far as programs see it: what is answered, to whom, and what is done.

mod acting;
mod answers;
pub mod client;
mod guard;
mod life;

use std::net::SocketAddr;

use client::Client;

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Output, Process, Signal},
};

/// What those who may act have.
const TOKEN: &str = "a-token-of-32-characters-or-so..";

/// A process with a page, and somebody who asks it.
struct Served {
    process: Process,
    client: Client,
}

impl Served {
    /// `metrobus` with these arguments, on a port that is free.
    fn start(fleet: &Fleet, arguments: &[&str]) -> Served {
        Self::by(fleet.metrobus(arguments).env("METROBUS__WEB__LISTEN", "0").spawn(), "page on http://")
    }

    fn web(fleet: &Fleet) -> Served {
        Self::start(fleet, &["web"])
    }

    /// A process that tells behind `words` where its page is.
    fn by(mut process: Process, words: &str) -> Served {
        process.wait_for_stderr(words, DEADLINE);
        let said = process.stderr_text();
        let rest = said.split_once(words).expect("an address").1;
        let address: Option<SocketAddr> = rest.split([' ', '\n', '/']).next().and_then(|text| text.parse().ok());
        Served { process, client: Client::new(address.unwrap_or_else(|| panic!("no address: {said}"))) }
    }

    fn end(mut self) -> Output {
        self.process.signal(Signal::INT);
        self.process.wait(DEADLINE).assert_code(0)
    }
}

/// A bus on which two messages have found their ways and none is left.
fn travelled(engine: Engine) -> Option<Fleet> {
    let mut fleet = Fleet::shared(engine)?;
    fleet.set("JOURNAL__FIELDS", "account_number");
    fleet.set("WEB__TOKEN", TOKEN);
    fleet.scratch.write("data/emails.dat", "1,user1@example.com\n2,user2@example.com\n");
    fleet.scratch.write("data/whitelist.dat", "user1@example.com\n");
    crate::repair::push(&fleet, "{\"account_number\":1}\n{\"account_number\":3}\n");
    fleet.drain("a");
    Some(fleet)
}
