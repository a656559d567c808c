//! What cargo-fuzz runs; `tests/fuzz_corpus.rs` runs the same on stable Rust.

pub mod targets;
