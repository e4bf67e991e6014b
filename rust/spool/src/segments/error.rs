//! Why a spool could not be written or read.
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a spool could not be written or read.
#[derive(Debug)]
pub enum Error {
    /// Another process, or another object of this one, has the directory.
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// Less is left of what the spool may take than the block needs; there is room when something was released.
    Full {
        /// The directory.
        directory: PathBuf,
        /// What all files may take, in bytes.
        limit: u64,
        /// What they take, in bytes.
        stored: u64,
    },
    /// The block needs more than the spool may take at all.
    TooLarge {
        /// The directory.
        directory: PathBuf,
        /// What all files may take, in bytes.
        limit: u64,
        /// The block's size in bytes.
        size: usize,
    },
    /// The operating system refused.
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// What is there is not what was written.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// An earlier call could not make durable what was written, or undo it: what there is only opening it again can tell.
    Failed {
        /// The directory.
        directory: PathBuf,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { directory } => write!(f, "the spool in {} belongs to another process", directory.display()),
            Self::Full { directory, limit, stored } => {
                let directory = directory.display();
                write!(f, "the spool in {directory} takes {stored} bytes and may take no more than {limit}")
            }
            Self::TooLarge { directory, limit, size } => {
                let directory = directory.display();
                write!(f, "{size} bytes are more than the spool in {directory} may take, which is {limit}")
            }
            Self::Io { path, doing, source } => write!(f, "{} cannot be {doing}: {source}", path.display()),
            Self::Damaged { path, offset, reason } => {
                write!(f, "{} does not hold what was written to it: at byte {offset} {reason}", path.display())
            }
            Self::Failed { directory } => {
                let directory = directory.display();
                write!(f, "the spool in {directory} could not be written before, and must be opened again")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
