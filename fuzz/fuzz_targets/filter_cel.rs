//! The same as `filter_python`, for filters in CEL.

#![no_main]

use libfuzzer_sys::fuzz_target;
use metrobus::filter::Filter;

#[path = "filter/mod.rs"]
mod filter;

fuzz_target!(|input: &[u8]| {
    filter::check(input, Filter::cel, |text| format!("!({text}\n)"));
});
