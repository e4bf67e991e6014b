//! What pgcdc keeps in files. The only crate here that does I/O.
//!
//! | module | what |
//! |---|---|
//! | [`spill`] | transactions that are still open and too large for memory: files without a name, gone with the process |
//! | [`segments`] | what one consumer has not taken yet: a log that is durable, read in order, and given back piece by piece |
//! | [`disk`] | what of the operating system the latter needs |
#![forbid(unsafe_code)]

pub mod disk;
pub mod segments;
pub mod spill;
