//! What ends a command: one variant a stage, each with its subject and cause.
//!
//! In: the stages' own errors. Out: [`Error`], its chain as one line, and the
//! exit code. Nothing else prints an error.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::command::build::WriteImageError;
use crate::command::collisions::{CollisionError, Collisions};
use crate::command::kernel_modules::KernelModuleError;
use crate::command::unpack::UnpackError;
use crate::config::Problems;
use crate::fetch::{FetchError, FileError};
use crate::layer::manifest::HostError;
use crate::layer::rules::RulesError;
use crate::layer::{BuildError, Unfit};
use crate::mount::OverlayError;
use crate::store::{BlobError, GenerationError, LayerError, RecordError, StoreError, SweepError};
use crate::sys::{self, kmsg};
use crate::text::Escaped;

/// Why a command could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("the configuration is not usable:\n{0}")]
    Config(Problems),
    #[error("cannot read {}", Escaped::path(.path))]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", Escaped::path(.path))]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Rules(#[from] RulesError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    FetchFile(#[from] FileError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("the layer of {image} in the store cannot be used")]
    Unfit { image: String, source: Unfit },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Generation(#[from] GenerationError),
    #[error("extensions collide:{0}")]
    Collisions(Collisions),
    #[error("cannot look for collisions")]
    Collision(#[from] CollisionError),
    #[error("{} has {free} bytes free, {needed} are needed", Escaped::path(.path))]
    NoSpace { path: PathBuf, needed: u64, free: u64 },
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error("the store is damaged in {count} places")]
    Damaged { count: usize },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    #[error(transparent)]
    System(#[from] sys::Error),
    #[error(transparent)]
    WriteImage(#[from] WriteImageError),
    #[error("extension {extension} does not fit this machine")]
    KernelModule { extension: String, source: KernelModuleError },
    #[error("cannot unpack {image}")]
    Unpack { image: String, source: UnpackError },
    #[error("cannot {what}")]
    Boot { what: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("cannot hand off")]
    NoInit(#[source] sys::switch_root::SwitchRootError),
    #[error("{0}")]
    NotBootable(String),
    #[error("plywood did not boot this machine: there is no {}", Escaped::path(.report))]
    NotBooted { report: PathBuf },
}

impl Error {
    /// 2 for a wrong command line, 1 for everything else.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// The error and its causes: `subject: place: cause`.
    pub fn chain(&self) -> String {
        kmsg::chain(self)
    }
}
