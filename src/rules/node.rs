//! A compiled expression, and its text.

use std::fmt;

use regex::Regex;

use super::functions::Function;

/// A part of an expression. Names are resolved, macros and functions known, so that evaluating it looks nothing up.
#[derive(Clone, Debug)]
pub enum Node {
    Constant(Constant),
    Root(Root),
    /// The variable of a macro, by how many macros lie around the one that made it.
    Local(usize, String),
    /// A field of the payload, by its index in the rule set's [`Fields`](super::compile::Fields).
    Field(usize, String),
    /// `has(payload.name)`
    HasField(usize, String),
    Select(Box<Node>, String),
    Has(Box<Node>, String),
    Index(Box<Node>, Box<Node>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    /// `condition ? then : otherwise`
    Conditional(Box<[Node; 3]>),
    Binary(Operator, Box<Node>, Box<Node>),
    Call(Function, Vec<Node>),
    /// `text.matches(pattern)`, the pattern compiled at start.
    Matches(Box<Node>, Box<Regex>),
    Macro(Box<Macro>),
}

/// One of the macros over a list, or over the keys of a map.
#[derive(Clone, Debug)]
pub struct Macro {
    pub kind: MacroKind,
    pub range: Node,
    pub variable: String,
    /// The condition, of `map` what each element becomes.
    pub body: Node,
    /// Of `map` with three arguments, which elements it takes.
    pub filter: Option<Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacroKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
}

/// What is at hand in every expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    Payload,
    Headers,
    Key,
    Topic,
    Now,
}

/// What an expression may name, and what that is.
pub type Names = &'static [(&'static str, Root)];

impl Root {
    pub const ALL: Names = &[
        ("payload", Self::Payload),
        ("headers", Self::Headers),
        ("key", Self::Key),
        ("topic", Self::Topic),
        ("now", Self::Now),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, root)| *root == self).map_or("", |(name, _)| name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

impl Operator {
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
        }
    }

    /// Whether it gives true or false.
    pub fn compares(self) -> bool {
        !matches!(self, Self::Add | Self::Subtract | Self::Multiply | Self::Divide | Self::Remainder)
    }

    fn binds(self) -> u8 {
        match self {
            Self::Add | Self::Subtract => 5,
            Self::Multiply | Self::Divide | Self::Remainder => 6,
            _ => 4,
        }
    }
}

impl Node {
    /// How strongly its outermost operator binds, as in the grammar of CEL.
    fn binds(&self) -> u8 {
        match self {
            Self::Conditional(_) => 1,
            Self::Or(..) => 2,
            Self::And(..) => 3,
            Self::Binary(operator, ..) => operator.binds(),
            Self::Not(_) | Self::Negate(_) => 7,
            // A sign is part of the number, and yet binds no stronger than one before anything else
            Self::Constant(Constant::Int(..0)) => 7,
            Self::Constant(Constant::Double(number)) if number.is_sign_negative() => 7,
            _ => 8,
        }
    }

    /// As it stands where what is around it binds with `least`.
    fn within(&self, least: u8) -> Within<'_> {
        Within(self, least)
    }
}

struct Within<'a>(&'a Node, u8);

impl fmt::Display for Within<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.binds() < self.1 { write!(f, "({})", self.0) } else { self.0.fmt(f) }
    }
}

/// The expression as it could have been written: the same one, whatever white space and brackets it was written with.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(constant) => constant.fmt(f),
            Self::Root(root) => f.write_str(root.name()),
            Self::Local(_, name) => f.write_str(name),
            Self::Field(_, name) if is_identifier(name) => write!(f, "payload.{name}"),
            Self::Field(_, name) => write!(f, "payload[{}]", Quoted(name)),
            Self::HasField(_, name) => write!(f, "has(payload.{name})"),
            Self::Select(of, name) => write!(f, "{}.{name}", of.within(8)),
            Self::Has(of, name) => write!(f, "has({}.{name})", of.within(8)),
            Self::Index(of, at) => write!(f, "{}[{at}]", of.within(8)),
            Self::List(items) => write!(f, "[{}]", Listed(items)),
            Self::Map(entries) => {
                f.write_str("{")?;
                for (i, (key, value)) in entries.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
            Self::And(left, right) => write!(f, "{} && {}", left.within(3), right.within(3)),
            Self::Or(left, right) => write!(f, "{} || {}", left.within(2), right.within(2)),
            Self::Not(of) => write!(f, "!{}", of.within(8)),
            Self::Negate(of) => write!(f, "-{}", of.within(8)),
            Self::Conditional(parts) => {
                let [condition, then, otherwise] = &**parts;
                write!(f, "{} ? {} : {}", condition.within(2), then.within(2), otherwise.within(1))
            }
            Self::Binary(operator, left, right) => {
                let binds = operator.binds();
                write!(f, "{} {} {}", left.within(binds), operator.symbol(), right.within(binds + 1))
            }
            Self::Call(function, arguments) => match (function.is_method(), arguments.split_first()) {
                (true, Some((of, rest))) => write!(f, "{}.{}({})", of.within(8), function.name(), Listed(rest)),
                _ => write!(f, "{}({})", function.name(), Listed(arguments)),
            },
            Self::Matches(of, pattern) => write!(f, "{}.matches({})", of.within(8), Quoted(pattern.as_str())),
            Self::Macro(call) => {
                let Macro { kind, range, variable, body, filter } = &**call;
                let name = match kind {
                    MacroKind::All => "all",
                    MacroKind::Exists => "exists",
                    MacroKind::ExistsOne => "exists_one",
                    MacroKind::Map => "map",
                    MacroKind::Filter => "filter",
                };
                write!(f, "{}.{name}({variable}, ", range.within(8))?;
                if let Some(filter) = filter {
                    write!(f, "{filter}, ")?;
                }
                write!(f, "{body})")
            }
        }
    }
}

struct Listed<'a>(&'a [Node]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.0.iter().enumerate() {
            write!(f, "{}{node}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Text as CEL writes it.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(truth) => truth.fmt(f),
            Self::Int(number) => number.fmt(f),
            Self::Uint(number) => write!(f, "{number}u"),
            Self::Double(number) => write!(f, "{number:?}"),
            Self::Text(text) => Quoted(text).fmt(f),
            Self::Bytes(bytes) => {
                f.write_str("b\"")?;
                bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
                f.write_str("\"")
            }
        }
    }
}

fn is_identifier(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
