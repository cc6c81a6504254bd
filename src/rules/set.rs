//! A rule set: compiled from the configuration, with a hash by which messages name it.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

use super::{
    OnError, Options,
    compile::{self, Fields, Wrong},
    evaluate::Evaluation,
    node::{Node, Root},
    options::RuleOptions,
    routing::Routing,
    value::Fault,
};
use crate::{bus::Topic, config::Config, error::Misconfigured, slip::Itinerary};

/// Most rules of a set.
const MOST: usize = 1000;

/// Most copies that one rule sends.
const MOST_COPIES: usize = 16;

/// The shortest deadline.
const SHORTEST: Duration = Duration::from_millis(1);

/// All rules in their order. Where the configuration has none there is one without a name, whose route is
/// `busdriver.route`.
#[derive(Debug)]
pub struct Rules {
    topic: Topic,
    rules: Vec<Rule>,
    fields: Fields,
    on_error: OnError,
    /// Of rules that have none of their own.
    deadline: Option<Duration>,
    hash: String,
}

/// The fields that a rule sets in one payload, and the value of each in JSON.
pub type Assignments<'a> = Vec<(&'a str, Box<RawValue>)>;

/// One rule.
#[derive(Debug)]
pub struct Rule {
    name: String,
    condition: Option<Node>,
    action: Action,
    set: Vec<(String, Node)>,
}

/// What becomes of the messages that a rule matches.
#[derive(Debug)]
pub enum Action {
    /// They set out.
    Route(Routing),
    /// They are dropped, for this reason.
    Drop(String),
    /// They are rejected, for this reason.
    Reject(String),
}

impl Rules {
    /// Compiles what stands in `[busdriver]`; the error is the first one.
    pub fn new(config: &Config) -> Result<Self, Misconfigured> {
        Self::compile(config).map_err(|mut errors| match errors.is_empty() {
            true => Misconfigured("no rules".into()),
            false => errors.swap_remove(0),
        })
    }

    /// [`Rules::new`] with all errors, in their order.
    pub fn compile(config: &Config) -> Result<Self, Vec<Misconfigured>> {
        let options: Options = config.section("busdriver").map_err(|error| vec![error])?;
        let hash = hash(&options);
        let mut set = Self {
            topic: options.topic,
            rules: Vec::new(),
            fields: Fields::default(),
            on_error: options.on_error,
            deadline: Some(options.deadline).filter(|deadline| !deadline.is_zero()),
            hash,
        };
        if set.deadline.is_some_and(|deadline| deadline < SHORTEST) {
            return Err(vec![config.error("busdriver.deadline", "must be 1ms or more, or 0s for none")]);
        }
        if options.rule.is_empty() {
            config.check_route().map_err(|error| vec![error])?;
            let route = Itinerary::new(&options.route);
            let action = Action::Route(Routing { route, copies: Vec::new(), deadline: set.deadline });
            set.rules.push(Rule { name: String::new(), condition: None, action, set: Vec::new() });
            return Ok(set);
        }
        if options.rule.len() > MOST {
            let message = format!("has {} rules, more than {MOST}", options.rule.len());
            return Err(vec![config.error("busdriver.rule", message)]);
        }
        let mut errors = Vec::new();
        for (index, rule) in options.rule.into_iter().enumerate() {
            match set.rule(config, &format!("busdriver.rule[{index}]"), rule) {
                Ok(rule) => set.rules.push(rule),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(set) } else { Err(errors) }
    }

    fn rule(&mut self, config: &Config, key: &str, options: RuleOptions) -> Result<Rule, Misconfigured> {
        let RuleOptions { name, when, route, copies, deadline, drop, reject, set } = options;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=64).contains(&name.len()) || !name.chars().all(legal) {
            let message = format!("{name:?} is no name of a rule: 1 to 64 of A-Z a-z 0-9 . _ - are");
            return Err(config.error(&format!("{key}.name"), message));
        }
        if self.rules.iter().any(|other| other.name == name) {
            return Err(config.error(&format!("{key}.name"), format!("there is a rule {name} before")));
        }
        let error = |part: &str, message: String| config.error(&format!("{key}{part}"), message);
        let whole = |message: String| error("", format!("rule {name} {message}"));
        let condition = when.map(|when| {
            let compiled = compile::condition(&when, Root::ALL, &mut self.fields);
            compiled.map_err(|wrong| expression_error(config, &format!("{key}.when"), &name, &when, &wrong))
        });
        let condition = condition.transpose()?;
        let mut compiled = Vec::new();
        for (field, text) in set {
            let part = format!("{key}.set.{}", crate::config::name_text(&field));
            let node = compile::expression(&text, Root::ALL, &mut self.fields);
            compiled.push((field, node.map_err(|wrong| expression_error(config, &part, &name, &text, &wrong))?));
        }
        let action = match (route, drop, reject) {
            (Some(route), None, None) => {
                config.check_stops(&format!("{key}.route"), &route)?;
                if copies.len() > MOST_COPIES {
                    let message = format!("names {} routes, more than {MOST_COPIES}", copies.len());
                    return Err(error(".copies", message));
                }
                for (index, route) in copies.iter().enumerate() {
                    config.check_stops(&format!("{key}.copies[{index}]"), route)?;
                }
                if deadline.is_some_and(|deadline| deadline < SHORTEST) {
                    return Err(error(".deadline", "must be 1ms or more: every message would be late".into()));
                }
                let itinerary = |route: &Vec<Topic>| Itinerary::ruled(route, &name, &self.hash);
                let copies = copies.iter().map(itinerary).collect();
                Action::Route(Routing { route: itinerary(&route), copies, deadline: deadline.or(self.deadline) })
            }
            (None, Some(reason), None) => Action::Drop(reason),
            (None, None, Some(reason)) => Action::Reject(reason),
            (None, None, None) => return Err(whole("has neither a route nor drop nor reject".into())),
            _ => return Err(whole("has more than one of route, drop and reject".into())),
        };
        if let Action::Drop(reason) | Action::Reject(reason) = &action {
            if reason.trim().is_empty() {
                return Err(whole("gives no reason".into()));
            }
            for (given, what) in [
                (!compiled.is_empty(), "sets fields of"),
                (!copies.is_empty(), "copies"),
                (deadline.is_some(), "gives a deadline to"),
            ] {
                if given {
                    return Err(whole(format!("{what} messages that go no further")));
                }
            }
        }
        Ok(Rule { name, condition, action, set: compiled })
    }

    /// What the busdriver reads.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.rules.iter()
    }

    pub(super) fn fields(&self) -> &Fields {
        &self.fields
    }

    pub(super) fn on_error(&self) -> OnError {
        self.on_error
    }

    /// Whether both are no more than the same `busdriver.route`, or both have rules.
    pub(super) fn same_route(&self, other: &Self) -> bool {
        fn plain(rules: &Rules) -> Option<&Routing> {
            match rules.rules.as_slice() {
                [Rule { name, action: Action::Route(routing), .. }] if name.is_empty() => Some(routing),
                _ => None,
            }
        }
        plain(self) == plain(other)
    }

    /// 16 hexadecimal digits that are the same for the same rules, however the file is laid out.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

impl Rule {
    /// Empty for `busdriver.route`.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn action(&self) -> &Action {
        &self.action
    }

    pub(super) fn condition(&self) -> Option<&Node> {
        self.condition.as_ref()
    }

    /// The condition in one spelling; `None` where the rule always matches.
    pub fn when(&self) -> Option<String> {
        self.condition.as_ref().map(Node::to_string)
    }

    /// Where it matches, the fields that it sets.
    pub(super) fn matches<'a>(&'a self, evaluation: &mut Evaluation<'a>) -> Result<Option<Assignments<'a>>, Fault<'a>> {
        if let Some(condition) = &self.condition
            && !evaluation.holds(condition)?
        {
            return Ok(None);
        }
        let mut set = Vec::with_capacity(self.set.len());
        for (field, node) in &self.set {
            let value = to_raw_value(&evaluation.value(node)?);
            set.push((field.as_str(), value.map_err(|_| Fault::Other("a value that JSON does not have"))?));
        }
        Ok(Some(set))
    }
}

/// The place of what is wrong with an expression: file and line, and the expression with a mark under the column.
fn expression_error(config: &Config, key: &str, rule: &str, text: &str, wrong: &Wrong) -> Misconfigured {
    let line = wrong.place.map_or(0, |(line, _)| line - 1);
    config.error_below(key, line, format_args!("rule {rule}: {}{}", wrong.what, wrong.marked(text)))
}

/// SHA-256 over the rules as a JSON text without their layout, its first 16 digits.
fn hash(options: &Options) -> String {
    #[derive(Serialize)]
    struct Canonical<'a> {
        name: &'a str,
        when: Option<&'a str>,
        route: Option<Vec<&'a str>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        copies: Vec<Vec<&'a str>>,
        #[serde(skip_serializing_if = "Duration::is_zero")]
        deadline: Duration,
        drop: Option<&'a str>,
        reject: Option<&'a str>,
        set: &'a std::collections::BTreeMap<String, String>,
    }
    fn names(route: &[Topic]) -> Vec<&str> {
        route.iter().map(Topic::as_str).collect()
    }
    let canonical = |rule: &'_ RuleOptions| {
        serde_json::to_string(&Canonical {
            name: &rule.name,
            when: rule.when.as_deref().map(str::trim),
            route: rule.route.as_deref().map(names),
            copies: rule.copies.iter().map(|route| names(route)).collect(),
            deadline: rule.deadline.or(Some(options.deadline).filter(|_| rule.route.is_some())).unwrap_or_default(),
            drop: rule.drop.as_deref(),
            reject: rule.reject.as_deref(),
            set: &rule.set,
        })
    };
    let mut digest = Sha256::new();
    digest.update(serde_json::to_string(&options.on_error).unwrap_or_default());
    for rule in &options.rule {
        digest.update(canonical(rule).unwrap_or_default());
        digest.update("\n");
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Shared by the handler and whoever rereads the file.
pub type Current = Arc<arc_swap::ArcSwap<Rules>>;
