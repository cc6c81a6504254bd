//! The busdriver: looks at each raw record and decides its route by the rules. Journeys begin here.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{Context, Kind, Role};
use crate::{
    handler::{Handler, Verdict},
    rules::{self, Rules, reload::Watched},
    slip::Message,
    stop::Stop,
};

pub const ROLE: Role =
    Role { name: "busdriver", about: "Give each raw record a slip with its route", kind: Kind::Stop(build) };

/// Between two warnings of rules that fail.
const INTERVAL: Duration = Duration::from_secs(30);

fn build(context: &Context) -> anyhow::Result<Stop> {
    let retry = context.config.section::<rules::Options>(ROLE.name)?.retry;
    let rules = Rules::new(&context.config)?;
    let topic = rules.topic().clone();
    let rules = Watched::new(rules, &context.config)?;
    let handler = Busdriver { rules, failures: BTreeMap::new(), told: None };
    Ok(Stop::new(ROLE.name, &topic, handler, context.settings()).retry(retry))
}

struct Busdriver {
    rules: Watched,
    /// By rule, how often it has failed while another one was asked, since that was told.
    failures: BTreeMap<String, u64>,
    told: Option<Instant>,
}

impl Busdriver {
    fn tell(&mut self) {
        if self.failures.is_empty() || self.told.is_some_and(|told| told.elapsed() < INTERVAL) {
            return;
        }
        self.told = Some(Instant::now());
        for (reason, count) in std::mem::take(&mut self.failures) {
            warn!(stop = ROLE.name, reason, count, "another rule was asked");
        }
    }
}

impl Handler for Busdriver {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        let (rules, now) = (self.rules.current.load_full(), rules::now());
        let mut verdicts = Vec::with_capacity(messages.len());
        for message in messages {
            let judgement = rules.judge(message, now);
            for failure in &judgement.failures {
                // What failed is the payload's affair and no name of it comes into the log
                *self.failures.entry(format!("rule {} failed", failure.rule.name())).or_default() += 1;
            }
            verdicts.push(judgement.carry_out(message, now, |message| message.id_to_depart_with()));
        }
        self.tell();
        Ok(verdicts)
    }

    fn begins_journeys(&self) -> bool {
        true
    }
}

impl Drop for Busdriver {
    fn drop(&mut self) {
        self.told = None;
        self.tell();
    }
}
