//! The place of a message in a trace, in its record headers.
//!
//! Source: <https://www.w3.org/TR/trace-context/#traceparent-header>.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use crate::bus::Headers;

pub const PARENT: &str = "traceparent";
pub const STATE: &str = "tracestate";

/// Bytes of version 00; later versions begin with the like.
const LENGTH: usize = 55;

/// The flags that are passed on: sampled, and that the id of the trace is random.
const FLAGS: u8 = 0b11;

/// What a message says of its trace.
#[derive(Debug, PartialEq)]
pub enum Received {
    Nothing,
    /// A header that is broken, or more than one.
    Broken,
    Context(SpanContext),
}

/// Reads what a message says. Costs a look at the name of each header.
pub fn read(headers: &Headers<'_>) -> Received {
    let mut found = headers.into_iter().filter(|(name, _)| *name == PARENT);
    let Some((_, value)) = found.next() else { return Received::Nothing };
    match value.filter(|_| found.next().is_none()).and_then(parse) {
        Some((trace, span, flags)) => {
            let state = headers.get(STATE).and_then(|state| std::str::from_utf8(state).ok()?.parse().ok());
            Received::Context(SpanContext::new(trace, span, flags, true, state.unwrap_or(TraceState::NONE)))
        }
        None => Received::Broken,
    }
}

fn parse(value: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    let version = hex(&known[..2])? as u8;
    // A later version may go on behind another dash
    let ends = rest.is_empty() || (version > 0 && rest[0] == b'-');
    if !dashes || !ends || version == 0xff {
        return None;
    }
    let trace = TraceId::from(hex(&known[3..35])?);
    let span = SpanId::from(hex(&known[36..52])? as u64);
    let flags = TraceFlags::new(hex(&known[53..55])? as u8 & FLAGS);
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span, flags))
}

/// A number in lower-case hexadecimal digits, 32 at most.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// Appends `headers` with `context` as the parent of who reads them, in the place of what stood there; the state of the
/// trace only passes where the trace does.
pub fn write(headers: Headers<'_>, context: &SpanContext, passes_state: bool, out: &mut Vec<u8>) {
    let parent =
        format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8() & FLAGS);
    let mut written = false;
    for (name, value) in headers {
        match name {
            PARENT if written => {}
            PARENT => {
                Headers::push(out, PARENT, Some(parent.as_bytes()));
                written = true;
            }
            STATE if !passes_state => {}
            _ => Headers::push(out, name, value),
        }
    }
    if !written {
        Headers::push(out, PARENT, Some(parent.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(all: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        all.iter().for_each(|(name, value)| Headers::push(&mut bytes, name, Some(value.as_bytes())));
        bytes
    }

    fn received(all: &[(&str, &str)]) -> Received {
        read(&Headers::from_encoded(&headers(all)))
    }

    #[test]
    fn a_traceparent_is_read_as_the_specification_has_it() {
        let Received::Context(context) = received(&[("a", "1"), (PARENT, GOOD), (STATE, "x=1,y=2")]) else {
            panic!("it is good")
        };
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(context.trace_state().header(), "x=1,y=2");
        let Received::Context(unsampled) = received(&[(PARENT, &GOOD.replace("-01", "-02"))]) else {
            panic!("it is good")
        };
        assert!(!unsampled.is_sampled());
        let later = [GOOD.replacen("00", "01", 1), format!("{}-what is to come", GOOD.replacen("00", "cc", 1))];
        for later in later {
            assert!(matches!(received(&[(PARENT, &later)]), Received::Context(_)), "{later}");
        }
    }

    #[test]
    fn what_is_no_traceparent_is_broken_and_none_is_nothing() {
        assert_eq!(received(&[("Traceparent", GOOD), (STATE, "x=1")]), Received::Nothing);
        let broken = [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-more"),
            GOOD.replacen("00", "ff", 1),
            GOOD.replace('a', "A"),
            GOOD.replace('-', "_"),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("-01", "-0g"),
            format!("{}.", GOOD.replacen("00", "01", 1)),
        ];
        for broken in broken {
            assert_eq!(received(&[(PARENT, &broken)]), Received::Broken, "{broken}");
        }
        assert_eq!(received(&[(PARENT, GOOD), (PARENT, GOOD)]), Received::Broken, "which one counts?");
    }

    #[test]
    fn only_the_parent_is_replaced_in_its_place() {
        let Received::Context(context) = received(&[(PARENT, GOOD)]) else { panic!("it is good") };
        let written = |before: &[(&str, &str)], passes_state| {
            let mut out = Vec::new();
            write(Headers::from_encoded(&headers(before)), &context, passes_state, &mut out);
            out
        };
        let before = [("a", "1"), (PARENT, "old"), ("b", "2"), (PARENT, "older"), (STATE, "x=1"), ("a", "1")];
        assert_eq!(
            written(&before, true),
            headers(&[("a", "1"), (PARENT, GOOD), ("b", "2"), (STATE, "x=1"), ("a", "1")])
        );
        assert_eq!(written(&before, false), headers(&[("a", "1"), (PARENT, GOOD), ("b", "2"), ("a", "1")]));
        assert_eq!(written(&[("a", "1")], true), headers(&[("a", "1"), (PARENT, GOOD)]));
    }
}
