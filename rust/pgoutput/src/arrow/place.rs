//! Where a change stands, as columns.
use arrow_array::ArrayRef;
use arrow_schema::{ArrowError, DataType, TimeUnit};

use super::column::Column;
use crate::batch::{Batch, Record};
use crate::json::{position_head, position_tail, position_text};
use crate::row::Refused;
use crate::session::Transaction;
use crate::value::Invalid;

/// `_position`, `_commit_lsn`, `_commit_time` of each change.
#[derive(Debug)]
pub struct Place {
    position: Column,
    commit_lsn: Column,
    commit_time: Column,
    last: Option<Last>,
}

/// How long a position is.
const POSITION: usize = 25;

/// The transaction that came last, whose changes follow one another.
#[derive(Debug)]
struct Last {
    /// Its number among those of the batch.
    number: usize,
    transaction: Transaction,
    /// The position of a change of it: only the end differs from one to the next.
    position: [u8; POSITION],
    /// How many of its changes are not written into `commit_lsn` and `commit_time` yet.
    count: usize,
}

fn refused(invalid: Invalid) -> Refused {
    Refused::Value { reason: invalid.0, column: usize::MAX, offset: 0 }
}

impl Place {
    /// The names and types.
    pub fn types() -> [(&'static str, DataType); 3] {
        let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        [("_position", DataType::Utf8), ("_commit_lsn", DataType::UInt64), ("_commit_time", instant)]
    }

    /// None so far, with room for so many.
    pub fn new(room: usize) -> Self {
        let [mut position, commit_lsn, commit_time] =
            Self::types().map(|(_, data_type)| Column::new(&data_type, room, false));
        position.reserve_bytes(room.saturating_mul(POSITION));
        Self { position, commit_lsn, commit_time, last: None }
    }

    /// Append those of one change; null where they are not known.
    ///
    /// # Errors
    /// When the commit time is later than Arrow's timestamps reach.
    #[inline]
    pub fn push(&mut self, batch: &Batch, record: &Record) -> Result<(), Refused> {
        let (Some(number), Some(index)) = (record.transaction, record.index) else { return self.push_unknown() };
        if self.last.as_ref().is_none_or(|last| last.number != number) {
            let Some(transaction) = batch.transaction(record) else { return self.push_unknown() };
            self.begin(number, transaction)?;
        }
        let Some(last) = &mut self.last else { return Ok(()) };
        last.count = last.count.saturating_add(1);
        let tail = last.position.last_chunk_mut();
        match (position_tail(index), tail) {
            (Some(tail), Some(place)) => {
                *place = tail;
                self.position.push_ascii(&last.position).map_err(refused)
            }
            _ => self.position.push_bytes(&position_text((last.transaction.commit_lsn, index))).map_err(refused),
        }
    }

    #[cold]
    fn begin(&mut self, number: usize, transaction: Transaction) -> Result<(), Refused> {
        self.flush()?;
        // An instant that cannot be had is refused at the change that has it.
        if let Some(time) = transaction.commit_time {
            self.commit_time.push_instant(time, 0).map_err(refused)?;
        }
        let mut position = [b'0'; POSITION];
        for (place, byte) in position.iter_mut().zip(position_head(transaction.commit_lsn)) {
            *place = byte;
        }
        self.last = Some(Last { number, transaction, position, count: 0 });
        Ok(())
    }

    fn push_unknown(&mut self) -> Result<(), Refused> {
        self.flush()?;
        self.position.push_null();
        self.commit_lsn.push_null();
        self.commit_time.push_null();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Refused> {
        let Some(last) = &mut self.last else { return Ok(()) };
        let count = std::mem::take(&mut last.count);
        self.commit_lsn.push_u64(last.transaction.commit_lsn, count);
        match last.transaction.commit_time {
            None => self.commit_time.push_nulls(count),
            Some(time) => self.commit_time.push_instant(time, count).map_err(refused)?,
        }
        Ok(())
    }

    /// The columns.
    ///
    /// # Errors
    /// Never, unless something here is wrong.
    pub fn finish(mut self) -> Result<[ArrayRef; 3], ArrowError> {
        self.flush().map_err(|_| ArrowError::InvalidArgumentError("a commit time that was taken before".to_owned()))?;
        Ok([self.position.finish()?, self.commit_lsn.finish()?, self.commit_time.finish()?])
    }
}
