//! Where a change stands, as columns.
use arrow_array::ArrayRef;
use arrow_schema::{ArrowError, DataType, TimeUnit};

use super::column::Column;
use crate::batch::{Batch, Record};
use crate::json::Scratch;
use crate::row::Refused;
use crate::value::Invalid;

/// `_position`, `_commit_lsn`, `_commit_time` of each change.
#[derive(Debug)]
pub struct Place {
    position: Column,
    commit_lsn: Column,
    commit_time: Column,
}

impl Place {
    /// The names and types.
    pub fn types() -> [(&'static str, DataType); 3] {
        let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        [("_position", DataType::Utf8), ("_commit_lsn", DataType::UInt64), ("_commit_time", instant)]
    }

    /// None so far.
    pub fn new() -> Self {
        let [position, commit_lsn, commit_time] = Self::types().map(|(_, data_type)| Column::new(&data_type));
        Self { position, commit_lsn, commit_time }
    }

    /// Append those of one change; null where they are not known.
    ///
    /// # Errors
    /// When the commit time is later than Arrow's timestamps reach.
    pub fn push(&mut self, batch: &Batch, record: &Record, scratch: &mut Scratch) -> Result<(), Refused> {
        let (Some(transaction), Some(index)) = (batch.transaction(record), record.index) else {
            self.position.push_null();
            self.commit_lsn.push_null();
            self.commit_time.push_null();
            return Ok(());
        };
        let refused = |invalid: Invalid| Refused::Value { reason: invalid.0, column: usize::MAX, offset: 0 };
        scratch.text.clear();
        crate::json::position_text(&mut scratch.text, (transaction.commit_lsn, index));
        self.position.push_bytes(&scratch.text).map_err(refused)?;
        self.commit_lsn.push_u64(transaction.commit_lsn);
        match transaction.commit_time {
            None => self.commit_time.push_null(),
            Some(time) => self.commit_time.push_instant(time).map_err(refused)?,
        }
        Ok(())
    }

    /// The columns.
    ///
    /// # Errors
    /// Never, unless something here is wrong.
    pub fn finish(self) -> Result<[ArrayRef; 3], ArrowError> {
        Ok([self.position.finish()?, self.commit_lsn.finish()?, self.commit_time.finish()?])
    }
}
