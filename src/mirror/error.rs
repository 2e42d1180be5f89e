//! Why a mirror cannot be opened, or its store not be worked on.
use crate::{state::StateError, trouble::Trouble};
use std::path::PathBuf;

/// Why a mirror cannot be opened, or its store not be worked on.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes to the data directory.
    #[error("{} is in use by another cvdmirror (process {holder})", data_dir.display())]
    Locked {
        /// The data directory.
        data_dir: PathBuf,
        /// Its process id, as it wrote it.
        holder: String,
    },
    /// The state file cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] cvdmirror_store::Error),
    /// There is no store to look into.
    #[error("{}: nothing is held there yet", data_dir.display())]
    NoStore {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// A file or directory cannot be used.
    #[error("{}: {}", path.display(), crate::units::os(source))]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl From<&OpenError> for Trouble {
    fn from(e: &OpenError) -> Self {
        match e {
            OpenError::Locked { .. } => Self::locked(e),
            OpenError::State(e) => e.into(),
            OpenError::Store(e) => e.into(),
            OpenError::NoStore { data_dir } => Self::no_store(data_dir),
            OpenError::Io { path, source } => crate::trouble::disk(path, source),
        }
    }
}
