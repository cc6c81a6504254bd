//! `[busdriver]` as it stands in the configuration.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{bus::Topic, stop::Retry};

/// `[busdriver]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// What the busdriver reads.
    pub topic: Topic,
    /// Where there are no rules: the stops of a journey, in the order of travel.
    pub route: Vec<Topic>,
    pub rule: Vec<RuleOptions>,
    pub on_error: OnError,
    /// How long a message may be on its way; zero is for ever.
    pub deadline: Duration,
    pub test: Vec<TestOptions>,
    pub retry: Retry,
}

/// What a rule does whose evaluation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The next rule is asked.
    Next,
    /// The message is rejected.
    Reject,
}

/// `[[busdriver.rule]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleOptions {
    pub name: String,
    /// CEL; without one, always.
    pub when: Option<String>,
    /// In the order of travel.
    pub route: Option<Vec<Topic>>,
    /// Further routes, each of a copy.
    #[serde(default)]
    pub copies: Vec<Vec<Topic>>,
    /// In place of that of all rules.
    pub deadline: Option<Duration>,
    /// The reason of a drop.
    pub drop: Option<String>,
    /// The reason of a rejection.
    pub reject: Option<String>,
    /// Fields of the payload, and the CEL that gives the value of each.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
}

/// `[[busdriver.test]]`: a message, and what the rules are to make of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestOptions {
    /// The payload as a table, or the value of the record as text.
    pub message: toml::Value,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    pub key: Option<String>,
    /// The time that `now` is, as RFC 3339 has it; without one, the present.
    pub now: Option<String>,
    pub rule: Option<String>,
    pub route: Option<Vec<String>>,
    pub copies: Option<Vec<Vec<String>>>,
    pub drop: Option<String>,
    pub reject: Option<String>,
}
