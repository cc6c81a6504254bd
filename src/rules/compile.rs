//! From the text of an expression to a [`Node`].
//!
//! The crate cel parses. It does not evaluate here: its evaluation has no bound on work, memory or recursion, and some
//! of its errors panic when they are printed. What is compiled is small, and of names and functions that exist.

use std::{collections::HashMap, fmt, thread};

use cel::{
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators},
    parser::Parser,
};
use regex::RegexBuilder;

use super::{
    functions::Function,
    node::{Constant, Macro, MacroKind, Names, Node, Operator, Root},
};

/// Longest expression, in bytes.
pub const LONGEST: usize = 4096;

/// Deepest nesting of an expression.
pub const DEEPEST: usize = 64;

/// Largest compiled pattern of `matches`, in bytes; what it costs to match grows with it.
const PATTERN: usize = 256 << 10;

/// The parser calls itself for each level, and a chain of operators or fields makes as many as it has links.
const STACK: usize = 64 << 20;

/// The fields of the payload that the expressions of a rule set name, each found and converted once a message.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    names: Vec<String>,
    indexes: HashMap<String, usize>,
}

impl Fields {
    fn index(&mut self, name: &str) -> usize {
        if let Some(index) = self.indexes.get(name) {
            return *index;
        }
        self.indexes.insert(name.to_owned(), self.names.len());
        self.names.push(name.to_owned());
        self.names.len() - 1
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn name(&self, index: usize) -> &str {
        &self.names[index]
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.indexes.get(name).copied()
    }
}

/// Why an expression does not compile, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub what: String,
    /// Line of the expression and column, in characters, both from 1.
    pub place: Option<(usize, usize)>,
}

impl Wrong {
    fn whole(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), place: None }
    }

    /// The line of `expression` that is wrong, with a mark under the place; nothing where the whole of it is.
    pub fn marked(&self, expression: &str) -> String {
        let Some((line, column)) = self.place else { return String::new() };
        let Some(text) = expression.lines().nth(line - 1) else { return String::new() };
        // Tabs stay, so that the mark stands right however wide they are
        let before: String = text.chars().take(column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
        format!("\n  {text}\n  {before}^")
    }
}

/// Compiles a condition: what is known not to be true or false is refused.
pub fn condition(text: &str, names: Names, fields: &mut Fields) -> Result<Node, Wrong> {
    let node = expression(text, names, fields)?;
    match gives(&node) {
        None | Some("true or false") => Ok(node),
        Some(other) => Err(Wrong::whole(format_args!("gives {other}, must give true or false"))),
    }
}

/// Compiles an expression in which `names` are at hand; `fields` takes the fields of the payload that it names.
pub fn expression(text: &str, names: Names, fields: &mut Fields) -> Result<Node, Wrong> {
    if text.trim().is_empty() {
        return Err(Wrong::whole("is empty"));
    }
    if text.len() > LONGEST {
        return Err(Wrong::whole(format_args!("has {} bytes, more than {LONGEST}", text.len())));
    }
    let parse = || -> Result<Node, Wrong> {
        let parser = Parser::new().max_recursion_depth(DEEPEST as u16);
        let (parsed, source) = parser.parse_with_source_info(text).map_err(|errors| syntax(&errors))?;
        let mut compiler = Compiler { text, source: &source, names, fields, locals: Vec::new() };
        compiler.node(&parsed, 0)
    };
    let parsed = thread::scope(|scope| {
        let thread = thread::Builder::new().name("rule".into()).stack_size(STACK).spawn_scoped(scope, parse);
        thread.map(|thread| thread.join())
    });
    match parsed {
        Ok(Ok(node)) => node,
        Ok(Err(_)) => Err(Wrong::whole("cannot be parsed")),
        Err(error) => Err(Wrong::whole(format_args!("cannot be parsed: {error}"))),
    }
}

/// The first of the parser's errors, in its words up to where they list what it would have taken.
fn syntax(errors: &cel::parser::ParseErrors) -> Wrong {
    let Some(error) = errors.errors.first() else { return Wrong::whole("cannot be parsed") };
    let what = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    let what = what.split(" expecting ").next().unwrap_or_default().replace(['\n', '\r'], " ");
    let place = |(line, column): (isize, isize)| Some((usize::try_from(line).ok()?, usize::try_from(column).ok()?));
    let place = place(error.pos).filter(|(line, column)| *line > 0 && *column > 0);
    Wrong { what: what.trim().to_owned(), place }
}

struct Compiler<'a> {
    text: &'a str,
    source: &'a SourceInfo,
    names: Names,
    fields: &'a mut Fields,
    /// The variables of the macros around.
    locals: Vec<String>,
}

impl Compiler<'_> {
    fn wrong(&self, at: &IdedExpr, what: impl fmt::Display) -> Wrong {
        // Counted in bytes
        let place = self.source.offset_for(at.id).map(|(start, _)| {
            let before = self.text.get(..start as usize).unwrap_or_default().chars();
            before.fold((1, 1), |(line, column), c| if c == '\n' { (line + 1, 1) } else { (line, column + 1) })
        });
        Wrong { what: what.to_string(), place }
    }

    fn node(&mut self, at: &IdedExpr, depth: usize) -> Result<Node, Wrong> {
        if depth > DEEPEST {
            return Err(self.wrong(at, format_args!("is nested deeper than {DEEPEST} levels")));
        }
        let depth = depth + 1;
        Ok(match &at.expr {
            Expr::Literal(literal) => Node::Constant(constant(literal)),
            Expr::Ident(name) => self.name(at, name)?,
            Expr::Select(select) => {
                let name = select.field.clone();
                match (self.node(&select.operand, depth)?, select.test) {
                    (Node::Root(Root::Payload), false) => Node::Field(self.fields.index(&name), name),
                    (Node::Root(Root::Payload), true) => Node::HasField(self.fields.index(&name), name),
                    (of, false) => Node::Select(Box::new(of), name),
                    (of, true) => Node::Has(Box::new(of), name),
                }
            }
            Expr::List(list) if list.optional_indices.is_empty() => {
                Node::List(list.elements.iter().map(|item| self.node(item, depth)).collect::<Result<_, _>>()?)
            }
            Expr::Map(map) => {
                let entry = |entry: &_| match entry {
                    EntryExpr::MapEntry(entry) if !entry.optional => {
                        Ok((self.node(&entry.key, depth)?, self.node(&entry.value, depth)?))
                    }
                    _ => Err(self.wrong(at, "has an optional entry, which rules do not know")),
                };
                Node::Map(map.entries.iter().map(|ided| &ided.expr).map(entry).collect::<Result<_, _>>()?)
            }
            Expr::Call(call) => self.call(at, call, depth)?,
            Expr::Comprehension(comprehension) => self.comprehension(at, comprehension, depth)?,
            Expr::Struct(_) => return Err(self.wrong(at, "makes a message, which rules do not know")),
            Expr::List(_) | Expr::Unspecified => return Err(self.wrong(at, "is no expression that rules know")),
        })
    }

    fn name(&self, at: &IdedExpr, name: &str) -> Result<Node, Wrong> {
        if let Some(local) = self.locals.iter().rposition(|local| local == name) {
            return Ok(Node::Local(local, name.to_owned()));
        }
        let root = self.names.iter().find(|(known, _)| *known == name);
        let root = root.ok_or_else(|| {
            let known: Vec<_> = self.names.iter().map(|(known, _)| *known).collect();
            let known = match known.as_slice() {
                [only] => format!("{only} is"),
                [rest @ .., last] => format!("{} and {last} are", rest.join(", ")),
                [] => "nothing is".to_owned(),
            };
            self.wrong(at, format_args!("unknown name `{name}`; {known} at hand"))
        })?;
        Ok(Node::Root(root.1))
    }

    fn call(&mut self, at: &IdedExpr, call: &CallExpr, depth: usize) -> Result<Node, Wrong> {
        let mut arguments = Vec::new();
        for argument in call.target.as_deref().into_iter().chain(&call.args) {
            arguments.push(self.node(argument, depth)?);
        }
        let name = call.func_name.as_str();
        let arguments = match self.operator(name, arguments) {
            Ok(node) => return Ok(node),
            Err(arguments) => arguments,
        };
        if name == "matches" {
            return self.matches(at, arguments);
        }
        let Some(function) = Function::find(name, call.target.is_some()) else {
            let near = Function::nearest(name);
            return Err(self.wrong(at, format_args!("unknown function `{name}`; did you mean `{near}`?")));
        };
        if arguments.len() != function.arguments() {
            let (wanted, given) = (function.arguments(), arguments.len());
            return Err(self.wrong(at, format_args!("`{name}` takes {wanted} arguments, has {given}")));
        }
        Ok(Node::Call(function, arguments))
    }

    /// The operator `name` on its arguments; these again where there is none.
    fn operator(&mut self, name: &str, mut arguments: Vec<Node>) -> Result<Node, Vec<Node>> {
        let binary = match name {
            operators::ADD => Some(Operator::Add),
            operators::SUBSTRACT => Some(Operator::Subtract),
            operators::MULTIPLY => Some(Operator::Multiply),
            operators::DIVIDE => Some(Operator::Divide),
            operators::MODULO => Some(Operator::Remainder),
            operators::EQUALS => Some(Operator::Equal),
            operators::NOT_EQUALS => Some(Operator::NotEqual),
            operators::LESS => Some(Operator::Less),
            operators::LESS_EQUALS => Some(Operator::LessOrEqual),
            operators::GREATER => Some(Operator::Greater),
            operators::GREATER_EQUALS => Some(Operator::GreaterOrEqual),
            operators::IN => Some(Operator::In),
            _ => None,
        };
        match (name, arguments.len()) {
            (operators::CONDITIONAL, 3) => {
                let parts: [Node; 3] = arguments.try_into()?;
                return Ok(Node::Conditional(Box::new(parts)));
            }
            (operators::LOGICAL_NOT, 1) => return Ok(Node::Not(Box::new(arguments.remove(0)))),
            (operators::NEGATE, 1) => return Ok(Node::Negate(Box::new(arguments.remove(0)))),
            (_, 2) => {}
            _ => return Err(arguments),
        }
        let [left, right]: [Node; 2] = arguments.try_into()?;
        Ok(match (name, binary) {
            (_, Some(operator)) => Node::Binary(operator, Box::new(left), Box::new(right)),
            (operators::LOGICAL_AND, _) => Node::And(Box::new(left), Box::new(right)),
            (operators::LOGICAL_OR, _) => Node::Or(Box::new(left), Box::new(right)),
            (operators::INDEX, _) => match (left, right) {
                (Node::Root(Root::Payload), Node::Constant(Constant::Text(name))) => {
                    Node::Field(self.fields.index(&name), name)
                }
                (left, right) => Node::Index(Box::new(left), Box::new(right)),
            },
            _ => return Err(vec![left, right]),
        })
    }

    fn matches(&self, at: &IdedExpr, arguments: Vec<Node>) -> Result<Node, Wrong> {
        let [of, Node::Constant(Constant::Text(pattern))]: [Node; 2] =
            arguments.try_into().map_err(|_| self.wrong(at, "`matches` takes one pattern"))?
        else {
            return Err(self.wrong(at, "the pattern of `matches` must be written out: it is compiled at start"));
        };
        let pattern = RegexBuilder::new(&pattern).size_limit(PATTERN).build().map_err(|error| {
            let what = match error {
                regex::Error::CompiledTooBig(_) => "is too large".to_owned(),
                other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
            };
            self.wrong(at, format_args!("the pattern of `matches`: {what}"))
        })?;
        Ok(Node::Matches(Box::new(of), Box::new(pattern)))
    }

    /// The macro that the parser has expanded.
    fn comprehension(&mut self, at: &IdedExpr, from: &ComprehensionExpr, depth: usize) -> Result<Node, Wrong> {
        let range = self.node(&from.iter_range, depth)?;
        let Some((kind, body, filter)) = macro_of(from) else {
            return Err(self.wrong(at, "is no macro that rules know"));
        };
        self.locals.push(from.iter_var.clone());
        let body = self.node(body, depth);
        let filter = filter.map(|filter| self.node(filter, depth)).transpose();
        self.locals.pop();
        let (body, filter) = (body?, filter?);
        Ok(Node::Macro(Box::new(Macro { kind, range, variable: from.iter_var.clone(), body, filter })))
    }
}

/// Which macro was expanded to this, its body, and the condition of a `map` with one.
fn macro_of(from: &ComprehensionExpr) -> Option<(MacroKind, &IdedExpr, Option<&IdedExpr>)> {
    let is = |expr: &IdedExpr, name: &str| matches!(&expr.expr, Expr::Ident(found) if found == name);
    let is_result = |expr: &IdedExpr| is(expr, &from.accu_var);
    let Expr::Call(step) = &from.loop_step.expr else { return None };
    // `@result + [item]`
    let appended = |call: &'_ CallExpr| match call.args.as_slice() {
        [result, list] if call.func_name == operators::ADD && is_result(result) => match &list.expr {
            Expr::List(list) => (list.elements.len() == 1).then_some(()),
            _ => None,
        },
        _ => None,
    };
    fn item(call: &CallExpr) -> Option<&IdedExpr> {
        match &call.args.get(1)?.expr {
            Expr::List(list) => list.elements.first(),
            _ => None,
        }
    }
    match (step.func_name.as_str(), step.args.as_slice()) {
        (operators::LOGICAL_AND, [result, body]) if is_result(result) => Some((MacroKind::All, body, None)),
        (operators::LOGICAL_OR, [result, body]) if is_result(result) => Some((MacroKind::Exists, body, None)),
        (operators::ADD, [..]) if appended(step).is_some() => Some((MacroKind::Map, item(step)?, None)),
        (operators::CONDITIONAL, [condition, then, otherwise]) if is_result(otherwise) => {
            let Expr::Call(then) = &then.expr else { return None };
            if !matches!(from.accu_init.expr, Expr::List(_)) {
                return Some((MacroKind::ExistsOne, condition, None));
            }
            appended(then)?;
            let item = item(then)?;
            match is(item, &from.iter_var) {
                true => Some((MacroKind::Filter, condition, None)),
                false => Some((MacroKind::Map, item, Some(condition))),
            }
        }
        _ => None,
    }
}

fn constant(literal: &LiteralValue) -> Constant {
    match literal {
        LiteralValue::Null => Constant::Null,
        LiteralValue::Boolean(truth) => Constant::Bool(*truth.inner()),
        LiteralValue::Int(number) => Constant::Int(*number.inner()),
        LiteralValue::UInt(number) => Constant::Uint(*number.inner()),
        LiteralValue::Double(number) => Constant::Double(*number.inner()),
        LiteralValue::String(text) => Constant::Text(text.inner().to_owned()),
        LiteralValue::Bytes(bytes) => Constant::Bytes(bytes.inner().to_vec()),
    }
}

/// What a node gives, where that is certain.
fn gives(node: &Node) -> Option<&'static str> {
    const TRUTH: &str = "true or false";
    Some(match node {
        Node::Constant(Constant::Bool(_)) => TRUTH,
        Node::Constant(Constant::Null) => "null",
        Node::Constant(Constant::Text(_)) => "text",
        Node::Constant(Constant::Bytes(_)) => "bytes",
        Node::Constant(_) => "a number",
        Node::Root(Root::Payload | Root::Headers) => "a map",
        Node::Root(Root::Key | Root::Topic) => "text",
        Node::Root(Root::Now) => "a timestamp",
        Node::List(_) => "a list",
        Node::Map(_) => "a map",
        Node::Macro(call) if matches!(call.kind, MacroKind::Map | MacroKind::Filter) => "a list",
        Node::Call(function, _) => function.gives()?,
        Node::Binary(operator, left, right) if !operator.compares() => gives(left).or_else(|| gives(right))?,
        Node::And(..) | Node::Or(..) | Node::Not(_) | Node::Has(..) | Node::HasField(..) | Node::Matches(..) => TRUTH,
        Node::Binary(..) | Node::Macro(_) => TRUTH,
        _ => return None,
    })
}
