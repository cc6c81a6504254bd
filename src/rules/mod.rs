//! Rules: which route a message takes, by what is in it.
//!
//! A rule has a condition in CEL, the [Common Expression Language](https://cel.dev), and says what becomes of the messages
//! for which it holds: a route, a drop or a rejection. The first rule that matches counts. They are compiled at start;
//! what does not compile is an error with its place.
//!
//! Flow: `options` is what stands in the configuration, `compile` makes `node`s of it, `evaluate` gives them `value`s,
//! `explain` says why one did not hold. The busdriver and the commands that ask what it would do share [`Rules::judge`].

mod check;
mod compile;
mod condition;
mod evaluate;
mod explain;
mod functions;
mod node;
mod options;
pub mod reload;
mod routing;
mod set;
#[cfg(test)]
mod tests;
mod time;
mod value;

use smallvec::SmallVec;
use uuid::Uuid;

pub use check::{Checked, check, notes};
pub(crate) use compile::{DEEPEST, LONGEST, Wrong};
pub(crate) use condition::Condition;
pub(crate) use evaluate::allowance;
use evaluate::{Evaluation, Subject};
pub use explain::{Explained, Part};
pub use options::{OnError, Options, TestOptions};
pub use routing::Routing;
pub use set::{Action, Assignments, Rule, Rules};
pub use time::Timestamp;
pub(crate) use value::{Fault, Work, double};

use crate::{handler::Verdict, slip::Message};

/// Why a message is rejected that no rule wants.
pub const NO_MATCH: &str = "no rule matches";

/// What the rules make of one message.
#[derive(Debug)]
pub struct Judgement<'a> {
    /// The rule that matched, or whose failure decided.
    pub rule: Option<&'a Rule>,
    pub outcome: Outcome<'a>,
    /// Rules that failed before, and why.
    pub failures: SmallVec<[Failure<'a>; 1]>,
}

#[derive(Debug)]
pub enum Outcome<'a> {
    /// The action of the rule, and the fields that it sets.
    Matched(&'a Action, Assignments<'a>),
    /// The failure of a rule decides.
    Failed(Failure<'a>),
    NoMatch,
}

/// A rule that could not be evaluated.
#[derive(Clone, Debug)]
pub struct Failure<'a> {
    pub rule: &'a Rule,
    fault: Fault<'a>,
}

impl std::fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rule {} failed: {}", self.rule.name(), self.fault)
    }
}

impl Rules {
    /// Judges a message as it came to the busdriver at the time `now`. The message stays as it is; [`Judgement::carry_out`]
    /// changes it.
    pub fn judge<'a, 'b: 'a>(&'a self, message: &Message<'b>, now: Timestamp) -> Judgement<'a> {
        let mut failures = SmallVec::new();
        let mut evaluation = Evaluation::new(Subject::new(message, self.topic().as_str(), now), self.fields());
        for rule in self.iter() {
            match rule.matches(&mut evaluation) {
                Ok(None) => {}
                Ok(Some(set)) => {
                    return Judgement { rule: Some(rule), outcome: Outcome::Matched(rule.action(), set), failures };
                }
                Err(fault) => {
                    let decides = self.decides(&fault);
                    let failure = Failure { rule, fault };
                    if decides {
                        return Judgement { rule: Some(rule), outcome: Outcome::Failed(failure), failures };
                    }
                    failures.push(failure);
                }
            }
        }
        Judgement { rule: None, outcome: Outcome::NoMatch, failures }
    }
}

impl Rules {
    /// Whether no other rule is asked after a failure: without work that is left, none can be.
    fn decides(&self, fault: &Fault<'_>) -> bool {
        self.on_error() == OnError::Reject || *fault == Fault::TooMuchWork
    }
}

impl<'a> Judgement<'a> {
    /// The rule that matched or decided; `None` for `busdriver.route` too.
    pub fn rule_name(&self) -> Option<&'a str> {
        self.rule.map(Rule::name).filter(|name| !name.is_empty())
    }

    /// Why the message goes no further; `None` where it does.
    pub fn reason(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Matched(Action::Route(_), _) => None,
            Outcome::Matched(Action::Drop(reason) | Action::Reject(reason), _) => Some(reason.clone()),
            Outcome::Failed(failure) => Some(failure.to_string()),
            Outcome::NoMatch => Some(match self.failures.last() {
                None => NO_MATCH.to_owned(),
                Some(failure) => format!("{NO_MATCH}: {failure}"),
            }),
        }
    }

    /// What the journal is to tell beside the reason: the rules that failed while another one was asked.
    fn remark(&self) -> Option<String> {
        /// Rules that are named.
        const NAMED: usize = 8;
        // Where none matched the reason tells of the last
        let told = usize::from(matches!(self.outcome, Outcome::NoMatch));
        let names: Vec<_> = self.failures.iter().map(|failure| failure.rule.name()).collect();
        let names = &names[..names.len().saturating_sub(told)];
        let (named, more) = names.split_at(names.len().min(NAMED));
        let named = named.join(", ");
        match (names.len(), more.len()) {
            (0, _) => None,
            (1, _) => Some(format!("rule {named} failed")),
            (_, 0) => Some(format!("rules {named} failed")),
            (_, more) => Some(format!("rules {named} and {more} more failed")),
        }
    }

    /// Does with the message what was judged at the time `now`; where it departs, it does with `id`.
    pub fn carry_out(
        &self,
        message: &mut Message<'_>,
        now: Timestamp,
        id: impl FnOnce(&Message<'_>) -> Uuid,
    ) -> Verdict {
        if let Some(remark) = self.remark() {
            message.remark(remark);
        }
        match &self.outcome {
            Outcome::Matched(Action::Route(routing), set) => {
                for (name, value) in set {
                    if let Err(error) = message.payload.set(name, value) {
                        return Verdict::reject(format!("set a field: {error}"));
                    }
                }
                let id = id(message);
                message.depart(&routing.route, id);
                routing.expires(now).into_iter().for_each(|deadline| message.expire(deadline));
                routing.copies.iter().for_each(|copy| message.send_copy(copy));
                Verdict::Forward
            }
            Outcome::Matched(Action::Drop(reason), _) => Verdict::drop(reason.clone()),
            _ => Verdict::reject(self.reason().unwrap_or_default()),
        }
    }
}

/// The present, as rules know it.
pub fn now() -> Timestamp {
    Timestamp::from_ms(crate::dead_letter::now_ms()).unwrap_or(Timestamp(0))
}
