//! What pgcdc keeps in files. The only crate here that does I/O.
//!
//! | module | what |
//! |---|---|
//! | [`spill`] | transactions that are still open and too large for memory: files without a name, gone with the process |
#![forbid(unsafe_code)]

pub mod spill;
