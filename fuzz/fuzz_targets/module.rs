#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plywood_fuzz::targets::module(data));
