//! Fuzzes the text of a host's report.
#![no_main]

#[path = "../claims.rs"]
mod claims;

libfuzzer_sys::fuzz_target!(|text: &str| claims::report(text));
