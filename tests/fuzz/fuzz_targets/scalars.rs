//! Fuzzes durations, sizes, dates and other single values.
#![no_main]

#[path = "../claims.rs"]
mod claims;

libfuzzer_sys::fuzz_target!(|text: &str| claims::scalars(text));
