//! Many cells of one column at once: most values are, in binary, numbers or bytes that Arrow has as they are.
//!
//! For those there is a loop for each type that does nothing else. A cell that such a loop does not know (a value
//! in text, another type, something malformed) is `Column::push`'s, which has the words for what it refuses.
use arrow_buffer::NullBufferBuilder;

use super::column::{Column, EPOCH_DAYS, EPOCH_MICROSECONDS, Values};
use super::plan::Plan;
use crate::json::Scratch;
use crate::oid::{Kind, Scalar};
use crate::row::Cell;
use crate::value::list::List;
use crate::value::{Format, Result, numeric};

/// The most bytes that are reserved for strings before they come.
const MOST_ROOM: usize = 64 << 10;

/// How many values are made room for at once: where a cell that is no plain value ends a piece, the rest of its room was
/// made in vain.
const PIECE: usize = 64;

/// The cells of one column among rows of cells.
#[derive(Clone, Copy, Debug)]
pub struct Run<'r, 'a> {
    /// All cells, from the row on that comes next.
    rows: &'r [Cell<'a>],
    number: usize,
    width: usize,
}

/// Which values of a column are NULL: bits cost more than numbers, so those that are not are counted first.
struct Nulls<'c> {
    bits: &'c mut NullBufferBuilder,
    present: &'c mut usize,
}

impl Nulls<'_> {
    #[inline]
    fn present(&mut self, count: usize) {
        *self.present = self.present.saturating_add(count);
    }

    fn absent(&mut self) {
        self.bits.append_n_non_nulls(std::mem::take(self.present));
        self.bits.append_null();
    }
}

impl<'r, 'a> Run<'r, 'a> {
    /// Those with this number in each row of so many.
    pub fn new(rows: &'r [Cell<'a>], number: usize, width: usize) -> Self {
        Self { rows, number, width: width.max(1) }
    }

    #[inline]
    fn peek(&self) -> Option<&'r Cell<'a>> {
        self.rows.get(self.number)
    }

    #[inline]
    fn skip(&mut self, count: usize) {
        self.rows = self.rows.get(count.saturating_mul(self.width)..).unwrap_or_default();
    }

    /// Append values as long as `read` knows them. It is asked for what stands for NULL with None.
    #[inline]
    fn fill<T: Copy + Default>(
        &mut self,
        values: &mut Vec<T>,
        nulls: &mut Nulls<'_>,
        mut read: impl FnMut(Option<&'a [u8]>) -> Option<T>,
    ) {
        // Room for a piece of them at once: asked for one by one it costs as much as the values.
        while let Some(Cell::Value(Format::Binary, _) | Cell::Null | Cell::Unset) = self.peek() {
            let before = values.len();
            let rows = self.rows.chunks_exact(self.width);
            let piece = rows.len().min(PIECE);
            values.resize(before.saturating_add(piece), T::default());
            let places = values.get_mut(before..).unwrap_or_default().iter_mut();
            // How many are appended, and where those begin that are not counted in `nulls` yet.
            let (mut count, mut uncounted) = (piece, 0);
            for (at, (place, row)) in places.zip(rows).enumerate() {
                let value = match row.get(self.number) {
                    Some(&Cell::Value(Format::Binary, bytes)) => read(Some(bytes)),
                    Some(Cell::Null | Cell::Unset) => {
                        nulls.present(at.saturating_sub(uncounted));
                        nulls.absent();
                        uncounted = at.saturating_add(1);
                        read(None)
                    }
                    _ => None,
                };
                let Some(value) = value else {
                    count = at;
                    break;
                };
                *place = value;
            }
            nulls.present(count.saturating_sub(uncounted));
            values.truncate(before.saturating_add(count));
            self.skip(count);
            if count < piece {
                return;
            }
        }
    }

    /// Likewise numbers and what else has a size of its own.
    #[inline]
    fn fill_sized<T: Copy + Default>(
        &mut self,
        values: &mut Vec<T>,
        nulls: &mut Nulls<'_>,
        read: impl Fn(&'a [u8]) -> Option<T>,
    ) {
        self.fill(values, nulls, |bytes| bytes.map_or_else(|| Some(T::default()), &read));
    }

    /// Likewise values of any length, of which `read` gives the bytes.
    #[inline]
    fn fill_bytes(
        &mut self,
        offsets: &mut Vec<i32>,
        data: &mut Vec<u8>,
        nulls: &mut Nulls<'_>,
        read: impl Fn(&'a [u8]) -> Option<&'a [u8]>,
    ) {
        if data.capacity() == 0
            && let Some(Cell::Value(_, first)) = self.peek()
        {
            data.reserve(room(first, offsets));
        }
        self.fill(offsets, nulls, |bytes| {
            data.extend_from_slice(bytes.map_or(Some([].as_slice()), &read)?);
            i32::try_from(data.len()).ok()
        });
    }

    /// Likewise arrays of text that are lists. Where one turns out not to be, some of its elements are there already:
    /// `Column::push`, to which it goes next, refuses it.
    fn fill_lists(&mut self, offsets: &mut Vec<i32>, items: &mut Column, nulls: &mut Nulls<'_>) {
        let Column { values: Values::Utf8(ends, data), nulls: bits, present, .. } = items else { return };
        let mut item_nulls = Nulls { bits, present };
        if data.capacity() == 0
            && let Some(Cell::Value(_, first)) = self.peek()
        {
            let room = room(first, offsets);
            data.reserve(room);
            // An element has four bytes in front of it, and a few of its own.
            ends.reserve(room / 8);
        }
        self.fill(offsets, nulls, |bytes| {
            if let Some(bytes) = bytes {
                for element in List::parse(bytes)? {
                    match element.ok()? {
                        Some(bytes) => {
                            data.extend_from_slice(bytes);
                            item_nulls.present(1);
                        }
                        None => item_nulls.absent(),
                    }
                    ends.push(i32::try_from(data.len()).ok()?);
                }
            }
            // The first is where the first element begins.
            i32::try_from(ends.len().saturating_sub(1)).ok()
        });
    }
}

/// The room for the bytes of a column, as if all values were like the first, up to a size that costs nothing where they
/// are not.
fn room(first: &[u8], offsets: &Vec<i32>) -> usize {
    first.len().saturating_mul(offsets.capacity()).min(MOST_ROOM)
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
            self.push_plain(plan, &mut run);
            match run.peek() {
                None => return Ok(()),
                Some(Cell::Value(format, bytes)) => self.push(plan, *format, bytes, scratch)?,
                Some(Cell::Null | Cell::Unset) => self.push_null(),
            }
            run.skip(1);
        }
    }

    /// Append cells as long as they are NULL or of one of these types, in binary and well formed.
    fn push_plain(&mut self, plan: &Plan, run: &mut Run<'_, '_>) {
        let mut nulls = Nulls { bits: &mut self.nulls, present: &mut self.present };
        let nulls = &mut nulls;
        let scalar = match &plan.kind {
            Kind::Scalar(scalar) => *scalar,
            Kind::Array(array) if matches!(array.element, Kind::Scalar(Scalar::Text)) => {
                if let Values::List(offsets, _, items) = &mut self.values {
                    run.fill_lists(offsets, items, nulls);
                }
                return;
            }
            _ => return,
        };
        match (&mut self.values, scalar) {
            (Values::Int16(values), Scalar::Int2) => {
                run.fill_sized(values, nulls, |bytes| bytes.try_into().ok().map(i16::from_be_bytes));
            }
            (Values::Int32(values), Scalar::Int4) => {
                run.fill_sized(values, nulls, |bytes| bytes.try_into().ok().map(i32::from_be_bytes));
            }
            (Values::Int64(values), Scalar::Int8) => {
                run.fill_sized(values, nulls, |bytes| bytes.try_into().ok().map(i64::from_be_bytes));
            }
            (Values::Float32(values), Scalar::Float4) => {
                run.fill_sized(values, nulls, |bytes| bytes.try_into().ok().map(f32::from_be_bytes));
            }
            (Values::Float64(values), Scalar::Float8) => {
                run.fill_sized(values, nulls, |bytes| bytes.try_into().ok().map(f64::from_be_bytes));
            }
            (Values::Bool(values), Scalar::Bool) => run.fill_sized(values, nulls, truth),
            (Values::Timestamp(values, _), Scalar::Timestamp | Scalar::TimestampTz) => {
                run.fill_sized(values, nulls, instant);
            }
            (Values::Date(values), Scalar::Date) => run.fill_sized(values, nulls, day),
            (Values::Uuid(values), Scalar::Uuid) => run.fill_sized(values, nulls, |bytes| bytes.try_into().ok()),
            (Values::Decimal(values, precision, _), Scalar::Numeric) => {
                // Where a column has more digits than these powers, `push` looks.
                let limit = numeric::POWERS.get(usize::from(*precision)).copied().unwrap_or(0).unsigned_abs();
                let scale = plan.scale;
                run.fill_sized(values, nulls, |bytes| {
                    let units = numeric::scaled_small(bytes, scale)?;
                    (units.unsigned_abs() < limit).then(|| i128::from(units))
                });
            }
            (Values::Utf8(offsets, data), Scalar::Text | Scalar::Json)
            | (Values::Binary(offsets, data), Scalar::Bytea) => run.fill_bytes(offsets, data, nulls, Some),
            (Values::Utf8(offsets, data), Scalar::Jsonb) => {
                run.fill_bytes(offsets, data, nulls, |bytes| bytes.strip_prefix(&[1]));
            }
            _ => {}
        }
    }
}
