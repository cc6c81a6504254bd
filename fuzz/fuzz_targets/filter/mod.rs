//! What holds for filters of both languages.

use metrobus::filter::{Data, Filter, NotAFilter};

/// What most filters are about, and some that are about nothing.
const MESSAGES: [&str; 4] = [
    r#"{"body":{"a":1,"b":2.5,"t":"text","l":[1,"a",null,{"x":[]}],"n":null,"big":123456789012345678901234567890},"headers":{"k":"v"}}"#,
    r#"{"a":1e400,"b":-0.0,"c":"\ud800","d":{"a":{"a":{}}}}"#,
    "{}",
    "[[],0]",
];

/// `input` is a filter, and behind a zero byte the message that it judges. `negated` gives the filter that wants what this one
/// does not.
pub fn check(input: &[u8], parse: fn(&str) -> Result<Filter, NotAFilter>, negated: fn(&str) -> String) {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let Some(Ok(text)) = parts.next().map(std::str::from_utf8) else { return };
    let filter = match parse(text) {
        Ok(filter) => filter,
        Err(refused) => return assert_is_told(text, &refused),
    };
    assert_eq!(filter.text(), text);
    let again = parse(text).expect("it was a filter before");
    let negated = parse(&negated(text)).ok();
    let own = parts.next().and_then(|message| std::str::from_utf8(message).ok());
    for message in own.into_iter().chain(MESSAGES) {
        let Ok(data) = Data::parse(message) else { continue };
        let verdict = filter.judge(&data);
        // Whatever it said it says again, of the same bytes, read anew or not
        assert_eq!(filter.judge(&data), verdict);
        let anew = Data::parse(message).expect("it was JSON before");
        assert_eq!(format!("{:?}", again.judge(&anew)), format!("{verdict:?}"));
        assert_eq!(filter.matches(&data), verdict.as_ref().is_ok_and(|wanted| *wanted));
        let opposite = negated.as_ref().map(|negated| negated.judge(&data));
        match (&verdict, opposite) {
            // An empty filter is none, and so is no operand
            (Ok(wanted), Some(Ok(opposite))) if !text.trim().is_empty() => assert_ne!(*wanted, opposite),
            (Err(error), _) => assert!(!error.to_string().contains('\n'), "an error is one line: {error}"),
            _ => {}
        }
    }
}

/// What is refused says where, and the place is one of the text.
fn assert_is_told(text: &str, refused: &NotAFilter) {
    assert!(!refused.what.is_empty() && !refused.what.contains('\n'), "{:?}", refused.what);
    let Some((line, column)) = refused.place else { return };
    let [lines, columns] = [text.split(['\n', '\r']).count(), text.chars().count()];
    assert!((1..=lines + 1).contains(&line), "line {line} of {lines}");
    assert!((1..=columns + 2).contains(&column), "column {column} of at most {columns}");
}
