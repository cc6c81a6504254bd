//! Filters and messages from one input: the first line is the message, what follows the filter. `cargo fuzz run filter`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metrobus::filter::{Data, Filter};

fuzz_target!(|input: &str| {
    let (json, text) = input.split_once('\n').unwrap_or(("{}", input));
    let Ok(filter) = Filter::python(text) else { return };
    if let Ok(data) = Data::parse(json) {
        assert_eq!(filter.matches(&data), filter.judge(&data) == Ok(true));
    }
});
