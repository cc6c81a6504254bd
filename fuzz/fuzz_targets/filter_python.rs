//! A filter comes from whoever may subscribe, and what it judges from whoever may publish: neither may stop the other.

#![no_main]

use libfuzzer_sys::fuzz_target;
use metrobus::filter::Filter;

#[path = "filter/mod.rs"]
mod filter;

fuzz_target!(|input: &[u8]| {
    // Behind a comment, the parenthesis would be one of the comment
    filter::check(input, Filter::python, |text| format!("not ({text}\n)"));
});
