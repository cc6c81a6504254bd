//! From tokens to a [`Node`].

use super::{
    lex::{Kind, Token, tokens, wrong},
    value::Value,
};
use crate::rules::{DEEPEST, LONGEST, Wrong};

/// A part of an expression. What is written in a row lies in a row, so that it is as deep as its brackets.
#[derive(Clone, Debug)]
pub enum Node {
    Constant(Value),
    Data,
    List(Vec<Node>),
    Tuple(Vec<Node>),
    Path(Box<Node>, Vec<Step>),
    Negate(Box<Node>),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    /// A chain: each operator stands between its operand and the one before.
    Compare(Box<Node>, Vec<(Operator, Node)>),
}

#[derive(Clone, Debug)]
pub enum Step {
    /// `[index]`
    Subscript(Node),
    /// `.get(key)`, `.get(key, default)`
    Get(Node, Option<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
    /// Of which one side is `None`, `True` or `False`.
    Is,
    IsNot,
}

/// Parses an expression.
pub fn parse(text: &str) -> Result<Node, Wrong> {
    if text.len() > LONGEST {
        return Err(Wrong { what: format!("has {} bytes, more than {LONGEST}", text.len()), place: None });
    }
    // As Python reads lines
    let text = &text.replace("\r\n", "\n").replace('\r', "\n");
    if let Some(at) = text.find('\0') {
        return Err(wrong(text, at, "`\\0` is not understood"));
    }
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, depth: 0 };
    let node = parser.or()?;
    parser.expect_end()?;
    Ok(node)
}

struct Parser<'a> {
    text: &'a str,
    /// The last is `Kind::End`.
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn token(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn spelt(&self) -> &str {
        &self.text[self.token().start..self.token().end]
    }

    /// The same for an error, which is one line, whatever is in the text.
    fn shown(&self) -> String {
        let mut shown = String::new();
        for character in self.spelt().chars() {
            match character {
                '\'' | '"' | '\\' => shown.push(character),
                other => shown.extend(other.escape_debug()),
            }
        }
        shown
    }

    /// Passes over the word or symbol, where it comes next.
    fn pass(&mut self, spelt: &str) -> bool {
        let found = matches!(self.token().kind, Kind::Name | Kind::Symbol(_)) && self.spelt() == spelt;
        self.at += usize::from(found);
        found
    }

    fn wrong(&self, what: impl Into<String>) -> Wrong {
        wrong(self.text, self.token().start, what)
    }

    fn expected(&self, what: &str) -> Wrong {
        match self.token().kind {
            Kind::End => self.wrong(format!("ends where {what} is expected")),
            _ => self.wrong(format!("`{}` where {what} is expected", self.shown())),
        }
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Wrong> {
        if self.pass(symbol) { Ok(()) } else { Err(self.expected(&format!("`{symbol}`"))) }
    }

    fn expect_end(&self) -> Result<(), Wrong> {
        match self.token().kind {
            Kind::End => Ok(()),
            _ => Err(self.wrong(format!("`{}` is not understood here", self.shown()))),
        }
    }

    /// One level deeper.
    fn within<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Wrong>) -> Result<T, Wrong> {
        if self.depth == DEEPEST {
            return Err(self.wrong(format!("is nested deeper than {DEEPEST} levels")));
        }
        self.depth += 1;
        let outcome = inner(self);
        self.depth -= 1;
        outcome
    }

    fn or(&mut self) -> Result<Node, Wrong> {
        let mut operands = vec![self.and()?];
        while self.pass("or") {
            operands.push(self.and()?);
        }
        Ok(one(operands).unwrap_or_else(Node::Or))
    }

    fn and(&mut self) -> Result<Node, Wrong> {
        let mut operands = vec![self.not()?];
        while self.pass("and") {
            operands.push(self.not()?);
        }
        Ok(one(operands).unwrap_or_else(Node::And))
    }

    fn not(&mut self) -> Result<Node, Wrong> {
        if self.pass("not") {
            return self.within(|parser| Ok(Node::Not(Box::new(parser.not()?))));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Node, Wrong> {
        let first = self.negation()?;
        let mut rest: Vec<(Operator, Node)> = Vec::new();
        loop {
            let at = self.at;
            let Some(operator) = self.operator()? else { break };
            let right = self.negation()?;
            let left = rest.last().map_or(&first, |(_, node)| node);
            if matches!(operator, Operator::Is | Operator::IsNot) && !single(left) && !single(&right) {
                self.at = at;
                return Err(self.wrong("`is` without None, True or False is not understood"));
            }
            rest.push((operator, right));
        }
        Ok(if rest.is_empty() { first } else { Node::Compare(Box::new(first), rest) })
    }

    /// The operator of a comparison, where one comes next.
    fn operator(&mut self) -> Result<Option<Operator>, Wrong> {
        let operator = match self.token().kind {
            Kind::Name => self.spelt(),
            Kind::Symbol(symbol) => symbol,
            _ => return Ok(None),
        };
        let operator = match operator {
            "==" => Operator::Equal,
            "!=" => Operator::NotEqual,
            "<" => Operator::Less,
            "<=" => Operator::LessOrEqual,
            ">" => Operator::Greater,
            ">=" => Operator::GreaterOrEqual,
            "in" => Operator::In,
            "not" => {
                self.at += 1;
                self.expect("in")?;
                return Ok(Some(Operator::NotIn));
            }
            "is" => {
                self.at += 1;
                return Ok(Some(if self.pass("not") { Operator::IsNot } else { Operator::Is }));
            }
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(operator))
    }

    fn negation(&mut self) -> Result<Node, Wrong> {
        if !self.pass("-") {
            return self.path();
        }
        let of = self.within(Self::negation)?;
        Ok(match &of {
            Node::Constant(value) => match value.negated() {
                Ok(value) => Node::Constant(value),
                Err(_) => Node::Negate(Box::new(of)),
            },
            _ => Node::Negate(Box::new(of)),
        })
    }

    fn path(&mut self) -> Result<Node, Wrong> {
        let of = self.atom()?;
        let mut steps = Vec::new();
        loop {
            if self.pass("[") {
                steps.push(Step::Subscript(self.within(Self::or)?));
                self.expect("]")?;
            } else if self.pass(".") {
                if !self.pass("get") {
                    return Err(self.expected("`get`"));
                }
                self.expect("(")?;
                steps.push(self.within(Self::arguments)?);
            } else if matches!(self.token().kind, Kind::Symbol("(")) {
                return Err(self.wrong("a call of anything but `get` is not understood"));
            } else {
                break;
            }
        }
        Ok(if steps.is_empty() { of } else { Node::Path(Box::new(of), steps) })
    }

    /// What is in the parentheses of `get`, and the closing one.
    fn arguments(&mut self) -> Result<Step, Wrong> {
        let mut arguments = self.items(")", vec![])?.into_iter();
        match (arguments.next(), arguments.next(), arguments.next()) {
            (Some(key), default, None) => Ok(Step::Get(key, default)),
            _ => Err(self.wrong("`get` takes a key, and may take what stands for a missing one")),
        }
    }

    fn atom(&mut self) -> Result<Node, Wrong> {
        let value = match &self.token().kind {
            Kind::Number(number) => number.clone(),
            Kind::Text(_) => return Ok(Node::Constant(self.text())),
            Kind::Name => match self.spelt() {
                "None" => Value::None,
                "True" => Value::Bool(true),
                "False" => Value::Bool(false),
                "data" => {
                    self.at += 1;
                    return Ok(Node::Data);
                }
                _ => return Err(self.name()),
            },
            Kind::Symbol("(") => return self.within(Self::parenthesised),
            Kind::Symbol("[") => {
                self.at += 1;
                let items = self.within(|parser| parser.items("]", Vec::new()))?;
                return Ok(constants(items).map_or_else(Node::List, |values| Node::Constant(Value::List(values))));
            }
            Kind::Symbol("{") => {
                self.at += 1;
                self.expect("}")?;
                return Ok(Node::Constant(Value::Dict([].into())));
            }
            _ => return Err(self.expected("a value")),
        };
        self.at += 1;
        Ok(Node::Constant(value))
    }

    /// What is wrong with a name.
    fn name(&self) -> Wrong {
        const WORDS: [&str; 14] =
            ["and", "or", "not", "in", "is", "if", "else", "for", "lambda", "await", "async", "yield", "from", "del"];
        match self.spelt() {
            word if WORDS.contains(&word) => self.expected("a value"),
            name => self.wrong(format!("unknown name `{name}`; data is at hand")),
        }
    }

    /// One text, or several in a row, which are one.
    fn text(&mut self) -> Value {
        let mut whole = Vec::new();
        while let Kind::Text(text) = &self.token().kind {
            whole.extend_from_slice(text);
            self.at += 1;
        }
        Value::Text(whole.into())
    }

    fn parenthesised(&mut self) -> Result<Node, Wrong> {
        self.at += 1;
        let items = if self.pass(")") {
            Vec::new()
        } else {
            let first = self.or()?;
            if self.pass(")") {
                return Ok(first);
            }
            self.expect(",")?;
            self.items(")", vec![first])?
        };
        Ok(constants(items).map_or_else(Node::Tuple, |values| Node::Constant(Value::Tuple(values))))
    }

    /// Appends items up to and with the closing bracket.
    fn items(&mut self, close: &str, mut items: Vec<Node>) -> Result<Vec<Node>, Wrong> {
        while !self.pass(close) {
            items.push(self.or()?);
            if !self.pass(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(items)
    }
}

/// The only one of `operands`.
fn one(mut operands: Vec<Node>) -> Result<Node, Vec<Node>> {
    match operands.len() {
        1 => operands.pop().ok_or_else(Vec::new),
        _ => Err(operands),
    }
}

/// Their values, where all are constants: so that a list is made once and not for each message.
fn constants(items: Vec<Node>) -> Result<std::sync::Arc<[Value]>, Vec<Node>> {
    let value = |item: &Node| match item {
        Node::Constant(value) => Some(value.clone()),
        _ => None,
    };
    items.iter().map(value).collect::<Option<_>>().ok_or(items)
}

/// Whether it is one of the values of which there is one object each.
fn single(node: &Node) -> bool {
    matches!(node, Node::Constant(Value::None | Value::Bool(_)))
}
