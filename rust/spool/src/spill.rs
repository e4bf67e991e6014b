//! Files for transactions that are still open: compressed blocks, each with a checksum, in files that have no name.
//!
//! A file is made with permissions for its owner only and has no name from the beginning, or loses it at once, so that nothing is
//! left behind whatever happens to the process. It holds no state that anybody needs after a crash: the server sends again
//! what was not confirmed. Therefore nothing is synced to disk either.
//!
//! A block is its length, its length compressed, the CRC-32 of its compressed bytes (4 bytes each, big-endian), and these,
//! in LZ4's block format. See `docs/decisions/0009-spill-files.md`.
use std::fmt;
use std::fs;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgoutput::assembler::storage;
use pgoutput::cursor::Cursor;

/// What comes before a block, in bytes.
const HEADER: usize = 12;

/// Why a block could not be written or read.
#[derive(Debug)]
pub enum Error {
    /// More than all files together may take.
    Full {
        /// That limit, in bytes.
        limit: u64,
        /// What the files take, in bytes.
        stored: u64,
    },
    /// The operating system refused.
    Io {
        /// The directory of the file.
        directory: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// What was read is not what was written.
    Damaged {
        /// The directory of the file.
        directory: PathBuf,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { limit, stored } => {
                write!(f, "spill files take {stored} bytes and may take no more than {limit}")
            }
            Self::Io { directory, doing, source } => {
                write!(f, "a spill file in {} cannot be {doing}: {source}", directory.display())
            }
            Self::Damaged { directory } => {
                write!(f, "a spill file in {} does not hold what was written to it", directory.display())
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

/// A directory for spill files.
#[derive(Debug)]
pub struct Spill {
    directory: Arc<Path>,
    limit: u64,
    stored: Arc<AtomicU64>,
}

impl Spill {
    /// Files in this directory (of the system's for temporary files when None) that together take no more than `limit` bytes.
    /// Nothing is made before it is needed.
    pub fn new(directory: Option<PathBuf>, limit: u64) -> Self {
        let directory = directory.unwrap_or_else(std::env::temp_dir);
        Self { directory: directory.into(), limit, stored: Arc::default() }
    }

    /// What all files take, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }
}

/// One file.
#[derive(Debug)]
pub struct File {
    handle: fs::File,
    directory: Arc<Path>,
    limit: u64,
    /// What all files take, and what this one does.
    all: Arc<AtomicU64>,
    own: u64,
    /// What of this one is left to read.
    unread: u64,
}

impl Drop for File {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

impl File {
    fn io(&self, doing: &'static str, source: io::Error) -> Error {
        Error::Io { directory: self.directory.to_path_buf(), doing, source }
    }

    fn damaged(&self) -> Error {
        Error::Damaged { directory: self.directory.to_path_buf() }
    }
}

#[cfg(unix)]
fn for_owner_only(handle: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    handle.set_permissions(fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn for_owner_only(_: &fs::File) -> io::Result<()> {
    Ok(())
}

impl storage::Storage for Spill {
    type File = File;
    type Error = Error;

    fn create(&mut self) -> Result<File, Error> {
        let made = tempfile::tempfile_in(&self.directory).and_then(|handle| for_owner_only(&handle).map(|()| handle));
        let handle =
            made.map_err(|source| Error::Io { directory: self.directory.to_path_buf(), doing: "made", source })?;
        Ok(File {
            handle,
            directory: Arc::clone(&self.directory),
            limit: self.limit,
            all: Arc::clone(&self.stored),
            own: 0,
            unread: 0,
        })
    }
}

impl storage::File for File {
    type Error = Error;

    fn append(&mut self, block: &[u8]) -> Result<(), Error> {
        let most = lz4_flex::block::get_maximum_output_size(block.len());
        // Not kept from one block to the next: there may be many files, and their blocks may be large.
        let mut packed = vec![0; most.saturating_add(HEADER)];
        let (header, body) = packed.split_at_mut(HEADER);
        let length = lz4_flex::block::compress_into(block, body).map_err(|_| self.damaged())?;
        let sum = crc32fast::hash(body.get(..length).unwrap_or_default());
        let lengths = [block.len(), length].map(u32::try_from);
        let [Ok(whole), Ok(length)] = lengths else { return Err(self.damaged()) };
        for (place, number) in header.chunks_exact_mut(4).zip([whole, length, sum]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        let size = (HEADER as u64).saturating_add(u64::from(length));
        packed.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        let stored = self.all.load(Ordering::Relaxed);
        if stored.saturating_add(size) > self.limit {
            return Err(Error::Full { limit: self.limit, stored });
        }
        self.handle.write_all(&packed).map_err(|source| self.io("written", source))?;
        self.all.fetch_add(size, Ordering::Relaxed);
        self.own = self.own.saturating_add(size);
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), Error> {
        self.handle.rewind().map_err(|source| self.io("read", source))?;
        self.unread = self.own;
        Ok(())
    }

    fn read(&mut self, block: &mut Vec<u8>) -> Result<bool, Error> {
        if self.unread == 0 {
            return Ok(false);
        }
        let mut header = [0; HEADER];
        self.handle.read_exact(&mut header).map_err(|source| self.io("read", source))?;
        let mut fields = Cursor::new(&header);
        let mut field = |name| fields.u32(name).map_err(|_| self.damaged());
        let [whole, length, sum] = [field("length")?, field("compressed length")?, field("CRC-32")?];
        // Lengths are believed only as far as the file and LZ4's best ratio go.
        let size = (HEADER as u64).saturating_add(u64::from(length));
        if size > self.unread || u64::from(whole) > u64::from(length).saturating_mul(256).saturating_add(64) {
            return Err(self.damaged());
        }
        let [Ok(whole), Ok(length)] = [whole, length].map(usize::try_from) else { return Err(self.damaged()) };
        let mut packed = vec![0; length];
        self.handle.read_exact(&mut packed).map_err(|source| self.io("read", source))?;
        if crc32fast::hash(&packed) != sum {
            return Err(self.damaged());
        }
        block.resize(whole, 0);
        if lz4_flex::block::decompress_into(&packed, block).ok() != Some(whole) {
            return Err(self.damaged());
        }
        self.unread = self.unread.saturating_sub(size);
        Ok(true)
    }

    fn stored_bytes(&self) -> u64 {
        self.own
    }
}
