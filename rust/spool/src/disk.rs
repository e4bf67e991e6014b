//! What a spool asks of the operating system, as few kinds of calls as will do, so that tests can let each of them fail.
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// One directory with files in it, which has one owner at a time.
pub trait Disk {
    /// A file that is open.
    type File: File;

    /// The directory, for messages.
    fn path(&self) -> &Path;

    /// The names of all files.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Make an empty file, or make an existing one empty.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Open a file that is there.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Give a file another name, in place of the file that has it.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Remove a file.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Make durable which files there are.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn sync(&self) -> io::Result<()>;
}

/// A file that is open for reading and writing.
pub trait File {
    /// Its length in bytes.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn length(&self) -> io::Result<u64>;

    /// Fill some bytes with what is there from an offset on.
    ///
    /// # Errors
    /// When there are fewer, or the operating system refuses.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Write bytes from an offset on.
    ///
    /// # Errors
    /// When the operating system refuses; some of them may have been written.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cut it to a length.
    ///
    /// # Errors
    /// When the operating system refuses.
    fn truncate(&mut self, length: u64) -> io::Result<()>;

    /// Make durable what was written.
    ///
    /// # Errors
    /// When the operating system refuses. Nobody knows then what is durable of what was written since the last time, and
    /// calling it again may succeed without making it durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file by whose lock others see that a directory has an owner.
pub const LOCK: &str = "lock";

/// A directory of the operating system.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Open, and so locked, as long as this is; the operating system unlocks what a process leaves behind.
    _lock: fs::File,
}

impl Directory {
    /// Make the directory where it is not there, for its owner only, and lock it.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when somebody else has it, this process included; else when the operating system refuses.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !path.is_dir() {
            make(path)?;
            // The name is durable when the directory that it is in is.
            let above = path.canonicalize()?.parent().map(Path::to_path_buf);
            above.map_or(Ok(()), |above| sync(&above))?;
        }
        let lock = for_owner(fs::OpenOptions::new().write(true).create(true).truncate(false)).open(path.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => io::Error::from(io::ErrorKind::WouldBlock),
            fs::TryLockError::Error(error) => error,
        })?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }
}

#[cfg(unix)]
fn make(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(unix)]
fn for_owner(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.mode(0o600)
}

#[cfg(unix)]
fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn make(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

#[cfg(not(unix))]
fn for_owner(options: &mut fs::OpenOptions) -> &mut fs::OpenOptions {
    options
}

/// Where directories cannot be synced the file system keeps them in order itself.
#[cfg(not(unix))]
fn sync(_: &Path) -> io::Result<()> {
    Ok(())
}

impl Disk for Directory {
    type File = fs::File;

    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        fs::read_dir(&self.path)?.map(name).collect()
    }

    fn create(&self, name: &str) -> io::Result<fs::File> {
        let mut options = fs::OpenOptions::new();
        for_owner(options.read(true).write(true).create(true).truncate(true)).open(self.path.join(name))
    }

    fn open(&self, name: &str) -> io::Result<fs::File> {
        fs::OpenOptions::new().read(true).write(true).open(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        sync(&self.path)
    }
}

impl File for fs::File {
    fn length(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset))?;
        self.read_exact(bytes)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset))?;
        self.write_all(bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
