//! Plywood assembles system extensions: it fetches images, checks them, builds
//! each into a squashfs layer and overlays the layers over the root.
//!
//! ```text
//! Config ─▶ Plan ─▶ Image ─▶ Layer ─▶ Generation ─▶ Overlay ─▶ init
//!  YAML     pure    fetched   built    committed     mounted    exec
//! ```
//!
//! Each arrow is one function in one module, and each type is made only by the
//! arrow before it, so to hold one proves that all before it went well. A
//! command is this flow, cut somewhere.
//!
//! | module | owns | may use |
//! |---|---|---|
//! | [`cli`] | the process's arguments as types | oci |
//! | [`command`] | orchestration, info and warn logging, clock, environment | all |
//! | [`config`] | YAML and kernel command line → `Config` | oci, yaml |
//! | [`plan`] | [`plan::Plan`], what has to be done; pure | config, store, oci |
//! | [`fetch`] | reference → verified blobs → `Image` | oci, store |
//! | [`layer`] | image → one squashfs → `Layer` | fetch, oci, store, yaml |
//! | [`store`] | everything on disk, `Generation` | oci, sys |
//! | [`mount`] | `Overlay`: pure, then attached | store, sys |
//! | [`oci`] | the specs' formats as types, no I/O | – |
//! | [`sys`] | the kernel: the only `unsafe` | – |
//! | [`error`] | one variant for each stage, exit codes | the stages |
//! | [`limits`] | every bound on foreign content, and its key | – |
//! | [`text`] | foreign bytes made safe to print | – |
//! | [`yaml`] | YAML with places, all problems at once | – |
//!
//! `limits` and `text` may be used by all; `tests/layout.rs` fails on any other
//! edge.
//!
//! Words: an *extension* is what the user names; its *image* is OCI content;
//! the tars inside an image are *changesets*; a *layer* is a numbered
//! squashfs; a *generation* is an ordered set of layers with the configuration
//! that asked for it. A layer number orders mounting (higher wins); a
//! generation number orders time. *Config* is the machine's YAML; OCI's own is
//! the *image config*.

#![warn(clippy::self_named_module_files)]

pub mod cli;
pub mod command;
pub mod config;
pub mod error;
pub mod fetch;
pub mod layer;
pub mod limits;
pub mod mount;
pub mod oci;
pub mod plan;
pub mod store;
pub mod sys;
pub mod text;
pub mod yaml;
