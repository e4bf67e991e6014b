//! Where transactions go that memory has no room for: somebody else's files, so that this crate does no I/O.

/// Makes files.
pub trait Storage {
    /// One file; what it holds is gone when it is dropped.
    type File: File<Error = Self::Error>;
    /// Why it could not be done.
    type Error;

    /// A new, empty file.
    ///
    /// # Errors
    /// When there is none to be had.
    fn create(&mut self) -> Result<Self::File, Self::Error>;
}

/// Blocks of bytes, written one after the other and then read in the same order.
pub trait File {
    /// Why it could not be done.
    type Error;

    /// Write one more block.
    ///
    /// # Errors
    /// When it was not written whole.
    fn append(&mut self, block: &[u8]) -> Result<(), Self::Error>;

    /// Go back to the first block; nothing is written any more.
    ///
    /// # Errors
    /// When what was written cannot be read again.
    fn rewind(&mut self) -> Result<(), Self::Error>;

    /// Read the next block in place of what is in `block`. False after the last one.
    ///
    /// # Errors
    /// When it is not there as it was written.
    fn read(&mut self, block: &mut Vec<u8>) -> Result<bool, Self::Error>;

    /// The room that the file takes, in bytes.
    fn stored_bytes(&self) -> u64;
}
