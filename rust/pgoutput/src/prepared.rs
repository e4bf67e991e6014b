//! Transactions that were prepared and have not ended, with the oldest at hand.
//!
//! At each commit the oldest says how far a restart may be, and there may be very many.
use std::collections::{BTreeSet, HashMap};

/// The LSN of each one's prepare record.
#[derive(Debug, Default)]
pub(crate) struct PreparedTransactions {
    by_xid: HashMap<u32, u64>,
    /// The same, the lowest LSN first.
    by_lsn: BTreeSet<(u64, u32)>,
}

impl PreparedTransactions {
    /// It was prepared at this LSN, whatever was said of it before.
    pub fn insert(&mut self, xid: u32, lsn: u64) {
        if let Some(before) = self.by_xid.insert(xid, lsn) {
            self.by_lsn.remove(&(before, xid));
        }
        self.by_lsn.insert((lsn, xid));
    }

    /// It has ended.
    pub fn remove(&mut self, xid: u32) {
        if let Some(lsn) = self.by_xid.remove(&xid) {
            self.by_lsn.remove(&(lsn, xid));
        }
    }

    /// The lowest LSN.
    pub fn oldest(&self) -> Option<u64> {
        self.by_lsn.first().map(|&(lsn, _)| lsn)
    }
}
