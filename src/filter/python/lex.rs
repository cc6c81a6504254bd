//! From the text of an expression to its tokens, as Python's tokenizer and `eval` find them.

use num_bigint::BigInt;

use super::{load::push, value::Value};
use crate::rules::Wrong;

/// A token, and where in the text it lies, in bytes.
#[derive(Clone, Debug)]
pub struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// A name, or a word of the language.
    Name,
    Number(Value),
    Text(Vec<u8>),
    Symbol(&'static str),
    End,
}

/// Longer ones before those that they begin with.
const SYMBOLS: [&str; 15] = ["==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", "{", "}", ",", ".", "-"];

/// The tokens of a text whose lines end with `\n`, `Kind::End` last.
pub fn tokens(text: &str) -> Result<Vec<Token>, Wrong> {
    let mut lexer = Lexer { text, at: 0, open: 0 };
    // `eval` takes these away
    lexer.skip(" \t");
    let mut tokens = lexer.line(Vec::new())?;
    while tokens.is_empty() && lexer.at < text.len() {
        lexer.begin_line()?;
        tokens = lexer.line(tokens)?;
    }
    while lexer.at < text.len() {
        lexer.begin_line()?;
        lexer.comment();
        if lexer.peek().is_some_and(|next| next != '\n') {
            return Err(lexer.wrong(lexer.at, "a second line: what goes on there must be in parentheses"));
        }
        lexer.at = (lexer.at + 1).min(text.len());
    }
    tokens.push(Token { kind: Kind::End, start: text.len(), end: text.len() });
    Ok(tokens)
}

/// What is wrong at a place of `text` that is given in bytes.
pub fn wrong(text: &str, at: usize, what: impl Into<String>) -> Wrong {
    let before = text.get(..at).unwrap_or(text).chars();
    let place = before.fold((1, 1), |(line, column), c| if c == '\n' { (line + 1, 1) } else { (line, column + 1) });
    Wrong { what: what.into(), place: Some(place) }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Brackets that are open: within them lines mean nothing.
    open: usize,
}

impl Lexer<'_> {
    fn wrong(&self, at: usize, what: impl Into<String>) -> Wrong {
        wrong(self.text, at, what)
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Passes over all that is one of `these`; says how many bytes that was.
    fn skip(&mut self, these: &str) -> usize {
        let rest = self.rest();
        let count = rest.len() - rest.trim_start_matches(|c| these.contains(c)).len();
        self.at += count;
        count
    }

    fn comment(&mut self) {
        if self.rest().starts_with('#') {
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    /// Passes over white space at the begin of a line, where only a line without an expression may have some.
    fn begin_line(&mut self) -> Result<(), Wrong> {
        let start = self.at;
        if self.skip(" \t") > 0 && !matches!(self.peek(), Some('\n' | '#')) {
            return Err(self.wrong(start, "unexpected indent"));
        }
        Ok(())
    }

    /// Appends the tokens up to the end of the line, or of that on which the last bracket closes.
    fn line(&mut self, mut tokens: Vec<Token>) -> Result<Vec<Token>, Wrong> {
        loop {
            self.skip(" \t");
            self.comment();
            let start = self.at;
            let Some(next) = self.peek() else { return Ok(tokens) };
            if next == '\n' {
                self.at += 1;
                if self.open == 0 {
                    return Ok(tokens);
                }
                continue;
            }
            let kind = self.token(next)?;
            match kind {
                Kind::Symbol("(" | "[" | "{") => self.open += 1,
                Kind::Symbol(")" | "]" | "}") => self.open = self.open.saturating_sub(1),
                _ => {}
            }
            tokens.push(Token { kind, start, end: self.at });
        }
    }

    fn token(&mut self, next: char) -> Result<Kind, Wrong> {
        let start = self.at;
        let second = self.rest().as_bytes().get(1).copied().unwrap_or_default();
        if next.is_ascii_digit() || (next == '.' && second.is_ascii_digit()) {
            return self.number().map(Kind::Number);
        }
        if let Some(quote @ ('"' | '\'')) = self.peek() {
            return self.quoted(quote).map(Kind::Text);
        }
        if next.is_ascii_alphabetic() || next == '_' {
            self.at += self.rest().find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest().len());
            let name = &self.text[start..self.at];
            return match self.peek() {
                Some(quote @ ('"' | '\'')) if name == "u" || name == "U" => self.quoted(quote).map(Kind::Text),
                Some('"' | '\'') => Err(self.wrong(start, format!("text with `{name}` before it is not understood"))),
                _ => Ok(Kind::Name),
            };
        }
        let symbol = SYMBOLS.iter().find(|symbol| self.rest().starts_with(**symbol));
        let Some(symbol) = symbol else {
            return Err(self.wrong(start, format!("`{}` is not understood", next.escape_debug())));
        };
        self.at += symbol.len();
        Ok(Kind::Symbol(symbol))
    }

    fn number(&mut self) -> Result<Value, Wrong> {
        let start = self.at;
        let radix = match self.rest().get(..2) {
            Some("0x" | "0X") => Some(16),
            Some("0o" | "0O") => Some(8),
            Some("0b" | "0B") => Some(2),
            _ => None,
        };
        let value = match radix {
            Some(radix) => self.whole(radix),
            None => self.decimal(),
        };
        // Python takes `1or 2` for now, and warns
        let behind = self.peek().filter(|c| c.is_alphanumeric() || *c == '_');
        match (value, behind) {
            (Some(value), None) => Ok(value),
            (_, behind) => {
                let end = self.at + behind.map_or(0, char::len_utf8);
                Err(self.wrong(start, format!("`{}` is no number", &self.text[start..end])))
            }
        }
    }

    /// A whole number in hexadecimal, octal or binary digits, behind the two characters that say in which.
    fn whole(&mut self, radix: u32) -> Option<Value> {
        let start = self.at + 2;
        self.at = start;
        self.rest().starts_with('_').then(|| self.at += 1);
        self.digits(radix)?;
        let digits = self.text[start..self.at].replace('_', "");
        BigInt::parse_bytes(digits.as_bytes(), radix).map(Value::int)
    }

    /// A number in decimal digits, whole or not.
    fn decimal(&mut self) -> Option<Value> {
        let start = self.at;
        let mut whole = true;
        if !self.rest().starts_with('.') {
            self.digits(10)?;
        }
        if self.rest().starts_with('.') {
            whole = false;
            self.at += 1;
            if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
                self.digits(10)?;
            }
        }
        if self.rest().starts_with(['e', 'E']) {
            whole = false;
            self.at += 1;
            self.rest().starts_with(['+', '-']).then(|| self.at += 1);
            self.digits(10)?;
        }
        let text = self.text[start..self.at].replace('_', "");
        if !whole {
            return text.parse().ok().map(Value::Float);
        }
        if text.starts_with('0') && text.bytes().any(|digit| digit != b'0') {
            return None;
        }
        text.parse().ok().map(Value::int)
    }

    /// Passes over digits, between any two of which there may be one `_`.
    fn digits(&mut self, radix: u32) -> Option<()> {
        loop {
            self.peek().filter(|c| c.is_digit(radix))?;
            self.at += 1;
            let rest = self.rest();
            if rest.starts_with('_') {
                self.at += 1;
            } else if !rest.starts_with(|c: char| c.is_digit(radix)) {
                return Some(());
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Vec<u8>, Wrong> {
        let start = self.at;
        self.at += 1;
        let twice = [quote, quote].iter().collect::<String>();
        if self.rest().starts_with(&twice) {
            return Err(self.wrong(start, "text in triple quotes is not understood"));
        }
        let mut text = Vec::new();
        loop {
            let at = self.at;
            let next = self.peek().filter(|next| *next != '\n');
            let next = next.ok_or_else(|| self.wrong(start, "text without its closing quote"))?;
            self.at += next.len_utf8();
            match next {
                '\\' => self.escape(at, &mut text)?,
                next if next == quote => return Ok(text),
                next => push(&mut text, next.into()),
            }
        }
    }

    /// Appends what is behind a backslash, which is at `start`.
    fn escape(&mut self, start: usize, text: &mut Vec<u8>) -> Result<(), Wrong> {
        let Some(next) = self.peek() else { return Ok(()) };
        self.at += next.len_utf8();
        let code = match next {
            '\n' => return Ok(()),
            'a' => 7,
            'b' => 8,
            't' => 9,
            'n' => 10,
            'v' => 11,
            'f' => 12,
            'r' => 13,
            '\\' | '\'' | '"' => next.into(),
            'x' => self.hexadecimal(start, 2)?,
            'u' => self.hexadecimal(start, 4)?,
            'U' => self.hexadecimal(start, 8)?,
            'N' => return Err(self.wrong(start, "a character by its name is not understood")),
            '0'..='7' => {
                let digits = self.text[self.at - 1..].bytes().take(3).take_while(|byte| matches!(byte, b'0'..=b'7'));
                let (code, count) =
                    digits.fold((0, 0), |(code, count), digit| (code * 8 + u32::from(digit - b'0'), count + 1));
                self.at += count - 1;
                code
            }
            // What is no escape stays, backslash and all
            other => {
                push(text, '\\'.into());
                other.into()
            }
        };
        push(text, code);
        Ok(())
    }

    fn hexadecimal(&mut self, start: usize, count: usize) -> Result<u32, Wrong> {
        let digits = self.rest().get(..count).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).filter(|code| *code <= 0x10_ffff);
        let code = code.ok_or_else(|| self.wrong(start, "an escape that names no character"))?;
        self.at += count;
        Ok(code)
    }
}
