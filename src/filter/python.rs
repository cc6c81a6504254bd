//! The part of Python 3 in which filters are written, parsed and never run.
//!
//! ```text
//! or          = and {"or" and}
//! and         = not {"and" not}
//! not         = "not" not | comparison
//! comparison  = negation {("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not" "in" | "is" | "is" "not") negation}
//! negation    = "-" negation | path
//! path        = atom {"[" or "]" | ".get(" or ["," or] [","] ")"}
//! atom        = "data" | "True" | "False" | "None" | number | text {text} | "(" or ")" | "{" "}"
//!             | "[" [or {"," or} [","]] "]" | "(" [or "," [or {"," or} [","]]] ")"
//! ```
//!
//! Numbers are spelt as in Python, text in single or double quotes with Python's escapes but `\N{…}`; `is` takes `None`,
//! `True` or `False` on one side, since whether two other values are one object cannot be known. All of it means what it
//! does in Python 3: `and` and `or` give an operand, chains evaluate no operand twice, numbers compare by what they are
//! (`1 == True == 1.0`, whole numbers of any size), text by code points, lone surrogates among them; what Python raises
//! ends the whole filter. Where Python takes more than that, this refuses it, and where Python refuses, so does this.
//!
//! The message is what `json.loads` makes of it: a number with neither fraction nor exponent is whole, `1E400` is infinite,
//! the last of two equal keys counts, a whole number of more than 4300 digits fails. (It takes `NaN` too, which is no JSON.)
//!
//! The crates that parse Python take all of it, with statements and an allocator of trees; a grammar of one page is
//! smaller than the list of what would have to be refused of theirs.

mod evaluate;
mod lex;
mod load;
mod parse;
mod value;

pub use value::Value;

use crate::rules::{Fault, Wrong, allowance};

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Expression(parse::Node);

impl Expression {
    /// Parses it; the error says what is not understood and where.
    pub fn new(text: &str) -> Result<Self, Wrong> {
        parse::parse(text).map(Self)
    }

    /// Whether what it gives counts as true. `bytes` is how large the message is, and bounds the work.
    pub fn holds(&self, data: &Value, bytes: usize) -> Result<bool, Fault<'static>> {
        let mut work = allowance(bytes);
        Ok(self.0.value(data, &mut work)?.truth())
    }
}
