//! Many cells of one column at once: most values are, in binary, numbers or bytes that Arrow has as they are.
//!
//! For those there is a loop for each type that does nothing else. A cell that such a loop does not know (NULL, a value in
//! text, another type, something malformed) is `Column::push`'s, which has the words for what it refuses.
use super::column::{Column, EPOCH_DAYS, EPOCH_MICROSECONDS, Values};
use super::plan::Plan;
use crate::json::Scratch;
use crate::oid::{Kind, Scalar};
use crate::row::Cell;
use crate::value::{Format, Result, numeric};

/// The most bytes that are reserved for strings before they come.
const MOST_ROOM: usize = 64 << 10;

/// The cells of one column among rows of cells.
#[derive(Clone, Copy, Debug)]
pub struct Run<'r, 'a> {
    cells: &'r [Cell<'a>],
    next: usize,
    width: usize,
}

impl<'r, 'a> Run<'r, 'a> {
    /// Those with this number in each row of so many.
    pub fn new(cells: &'r [Cell<'a>], number: usize, width: usize) -> Self {
        Self { cells, next: number, width }
    }

    #[inline]
    fn peek(&self) -> Option<&'r Cell<'a>> {
        self.cells.get(self.next)
    }

    #[inline]
    fn skip(&mut self) {
        self.next = self.next.saturating_add(self.width);
    }

    /// Append values as long as `read` knows them, and say how many that were.
    #[inline]
    fn fill<T>(&mut self, values: &mut Vec<T>, read: impl Fn(&'a [u8]) -> Option<T>) -> usize {
        let before = values.len();
        while let Some(&Cell::Value(Format::Binary, bytes)) = self.peek() {
            let Some(value) = read(bytes) else { break };
            values.push(value);
            self.skip();
        }
        values.len().saturating_sub(before)
    }

    /// Likewise for values of any length, of which `read` gives the bytes.
    #[inline]
    fn fill_bytes(
        &mut self,
        offsets: &mut Vec<i32>,
        data: &mut Vec<u8>,
        read: impl Fn(&'a [u8]) -> Option<&'a [u8]>,
    ) -> usize {
        let before = offsets.len();
        if data.capacity() == 0
            && let Some(Cell::Value(_, first)) = self.peek()
        {
            // As if the others were like the first, up to a size that costs nothing where they are not.
            data.reserve(first.len().saturating_mul(offsets.capacity()).min(MOST_ROOM));
        }
        while let Some(&Cell::Value(Format::Binary, bytes)) = self.peek() {
            let Some(bytes) = read(bytes) else { break };
            let Ok(end) = i32::try_from(data.len().saturating_add(bytes.len())) else { break };
            data.extend_from_slice(bytes);
            offsets.push(end);
            self.skip();
        }
        offsets.len().saturating_sub(before)
    }
}

/// An instant, but not an infinite one or one later than Arrow's timestamps reach.
fn instant(bytes: &[u8]) -> Option<i64> {
    let microseconds = bytes.try_into().ok().map(i64::from_be_bytes)?;
    if microseconds == i64::MIN { None } else { microseconds.checked_add(EPOCH_MICROSECONDS) }
}

/// A day, likewise.
fn day(bytes: &[u8]) -> Option<i32> {
    let days = bytes.try_into().ok().map(i32::from_be_bytes)?;
    if days == i32::MIN { None } else { days.checked_add(EPOCH_DAYS) }
}

fn truth(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [value @ (0 | 1)] => Some(*value == 1),
        _ => None,
    }
}

impl Column {
    /// Append all cells of a run; what was not sent is null, as NULL is.
    ///
    /// # Errors
    /// When one is not a value of its type, or not one that the Arrow type can hold.
    pub fn push_all(&mut self, plan: &Plan, run: Run<'_, '_>, scratch: &mut Scratch) -> Result<()> {
        let mut run = run;
        loop {
            if let Kind::Scalar(scalar) = plan.kind {
                let count = self.push_plain(scalar, plan.scale, &mut run);
                self.present = self.present.saturating_add(count);
            }
            match run.peek() {
                None => return Ok(()),
                Some(Cell::Value(format, bytes)) => self.push(plan, *format, bytes, scratch)?,
                Some(Cell::Null | Cell::Unset) => self.push_null(),
            }
            run.skip();
        }
    }

    fn push_plain(&mut self, scalar: Scalar, scale: u8, run: &mut Run<'_, '_>) -> usize {
        match (&mut self.values, scalar) {
            (Values::Int16(values), Scalar::Int2) => {
                run.fill(values, |bytes| bytes.try_into().ok().map(i16::from_be_bytes))
            }
            (Values::Int32(values), Scalar::Int4) => {
                run.fill(values, |bytes| bytes.try_into().ok().map(i32::from_be_bytes))
            }
            (Values::Int64(values), Scalar::Int8) => {
                run.fill(values, |bytes| bytes.try_into().ok().map(i64::from_be_bytes))
            }
            (Values::Float32(values), Scalar::Float4) => {
                run.fill(values, |bytes| bytes.try_into().ok().map(f32::from_be_bytes))
            }
            (Values::Float64(values), Scalar::Float8) => {
                run.fill(values, |bytes| bytes.try_into().ok().map(f64::from_be_bytes))
            }
            (Values::Bool(values), Scalar::Bool) => run.fill(values, truth),
            (Values::Timestamp(values, _), Scalar::Timestamp | Scalar::TimestampTz) => run.fill(values, instant),
            (Values::Date(values), Scalar::Date) => run.fill(values, day),
            (Values::Uuid(values), Scalar::Uuid) => run.fill(values, |bytes| bytes.try_into().ok()),
            (Values::Decimal(values, precision, _), Scalar::Numeric) => {
                // Where a column has more digits than these powers, `push` looks.
                let limit = numeric::POWERS.get(usize::from(*precision)).copied().unwrap_or(0).unsigned_abs();
                run.fill(values, |bytes| {
                    let units = numeric::scaled_small(bytes, scale)?;
                    (units.unsigned_abs() < limit).then(|| i128::from(units))
                })
            }
            (Values::Utf8(offsets, data), Scalar::Text | Scalar::Json)
            | (Values::Binary(offsets, data), Scalar::Bytea) => run.fill_bytes(offsets, data, Some),
            (Values::Utf8(offsets, data), Scalar::Jsonb) => {
                run.fill_bytes(offsets, data, |bytes| bytes.strip_prefix(&[1]))
            }
            _ => 0,
        }
    }
}
