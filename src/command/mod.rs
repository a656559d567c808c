//! Orchestration.

pub mod build;
