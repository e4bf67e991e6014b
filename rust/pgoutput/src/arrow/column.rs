//! One column that is being filled: values from the wire are appended to it.
//!
//! Over 400 lines because what a column can hold, how each of it is appended and what array it becomes are one list, said
//! three times.
use std::sync::Arc;

use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType, UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, FixedSizeBinaryArray, ListArray, PrimitiveArray,
    StringArray,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Field};

use super::plan::{EXTENSION, JSON, Plan};
use crate::json::fields::has_half_a_pair;
use crate::json::{Scratch, write_value};
use crate::oid::{Kind, Scalar};
use crate::value::list::List;
use crate::value::number::float4_text;
use crate::value::print::{decode_numbers, print};
use crate::value::{Format, Invalid, Result, Value, array, decode, instant, numeric, vector};

/// Days and microseconds from 1970-01-01 to 2000-01-01.
pub(super) const EPOCH_DAYS: i32 = 10_957;
pub(super) const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;
const DAY: i64 = 86_400_000_000;
const LARGE: Invalid = Invalid("more than 2 GiB in one column of one batch");
const NOT_UTF8: Invalid = Invalid("not UTF-8, which Arrow's strings must be");
const HALF: Invalid = Invalid("half of a surrogate pair, which readers of Arrow's JSON refuse");
const LATE: Invalid = Invalid("an instant later than Arrow's timestamps reach");
const INFINITE: Invalid = Invalid("infinite, which Arrow has no value for");

/// Values of one Arrow type.
#[derive(Debug)]
pub enum Values {
    /// bool
    Bool(Vec<bool>),
    /// int16
    Int16(Vec<i16>),
    /// int32
    Int32(Vec<i32>),
    /// int64
    Int64(Vec<i64>),
    /// uint32
    UInt32(Vec<u32>),
    /// uint64
    UInt64(Vec<u64>),
    /// float
    Float32(Vec<f32>),
    /// double
    Float64(Vec<f64>),
    /// decimal128
    Decimal(Vec<i128>, u8, i8),
    /// date32
    Date(Vec<i32>),
    /// time64 in microseconds
    Time(Vec<i64>),
    /// timestamp in microseconds, with or without a zone
    Timestamp(Vec<i64>, Option<Arc<str>>),
    /// fixed-size binary
    Uuid(Vec<[u8; 16]>),
    /// utf8
    Utf8(Vec<i32>, Vec<u8>),
    /// binary
    Binary(Vec<i32>, Vec<u8>),
    /// list
    List(Vec<i32>, Arc<Field>, Box<Column>),
}

/// A column that is being filled.
#[derive(Debug)]
pub struct Column {
    pub(super) values: Values,
    pub(super) nulls: NullBufferBuilder,
    /// How many values at the end are no NULLs, which is not written into `nulls` yet: bits cost more than numbers.
    pub(super) present: usize,
    /// Whether each string is looked at when it comes; else all are, when the column is whole.
    checked: bool,
    /// Whether strings are JSON, which has characters only.
    is_json: bool,
}

impl Column {
    /// Make room for so many bytes of strings.
    pub fn reserve_bytes(&mut self, bytes: usize) {
        if let Values::Utf8(_, data) = &mut self.values {
            data.reserve(bytes);
        }
    }

    /// An empty column of a type, with room for so many values. Strings are checked to be UTF-8 one by one if `checked`,
    /// else all at once by `finish`, which costs less and does not say which one it was.
    pub fn new(data_type: &DataType, room: usize, checked: bool) -> Self {
        let offsets = || {
            let mut offsets = Vec::with_capacity(room.saturating_add(1));
            offsets.push(0);
            offsets
        };
        let values = match data_type {
            DataType::Boolean => Values::Bool(Vec::with_capacity(room)),
            DataType::Int16 => Values::Int16(Vec::with_capacity(room)),
            DataType::Int32 => Values::Int32(Vec::with_capacity(room)),
            DataType::Int64 => Values::Int64(Vec::with_capacity(room)),
            DataType::UInt32 => Values::UInt32(Vec::with_capacity(room)),
            DataType::UInt64 => Values::UInt64(Vec::with_capacity(room)),
            DataType::Float32 => Values::Float32(Vec::with_capacity(room)),
            DataType::Float64 => Values::Float64(Vec::with_capacity(room)),
            DataType::Decimal128(precision, scale) => Values::Decimal(Vec::with_capacity(room), *precision, *scale),
            DataType::Date32 => Values::Date(Vec::with_capacity(room)),
            DataType::Time64(_) => Values::Time(Vec::with_capacity(room)),
            DataType::Timestamp(_, zone) => Values::Timestamp(Vec::with_capacity(room), zone.clone()),
            DataType::FixedSizeBinary(_) => Values::Uuid(Vec::with_capacity(room)),
            DataType::Binary => Values::Binary(offsets(), Vec::new()),
            DataType::List(item) => {
                Values::List(offsets(), Arc::clone(item), Box::new(Self::new(item.data_type(), 0, checked)))
            }
            _ => Values::Utf8(offsets(), Vec::new()),
        };
        Self { values, nulls: NullBufferBuilder::new(room), present: 0, checked, is_json: false }
    }

    /// An empty column for a field, which says more than its type.
    pub fn of(field: &Field, room: usize, checked: bool) -> Self {
        let mut column = Self::new(field.data_type(), room, checked);
        column.is_json = is_json(field);
        if let Values::List(_, item, items) = &mut column.values {
            items.is_json = is_json(item);
        }
        column
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.nulls.len().saturating_add(self.present)
    }

    #[inline]
    fn is_present(&mut self) {
        self.present = self.present.saturating_add(1);
    }

    /// Append NULL.
    #[inline]
    pub fn push_null(&mut self) {
        self.push_nulls(1);
    }

    /// Append so many NULLs.
    #[inline]
    pub fn push_nulls(&mut self, count: usize) {
        fn zeros<T: Copy + Default>(values: &mut Vec<T>, count: usize) {
            values.resize(values.len().saturating_add(count), T::default());
        }
        match &mut self.values {
            Values::Bool(values) => zeros(values, count),
            Values::Int16(values) => zeros(values, count),
            Values::Int32(values) | Values::Date(values) => zeros(values, count),
            Values::Int64(values) | Values::Time(values) | Values::Timestamp(values, _) => zeros(values, count),
            Values::UInt32(values) => zeros(values, count),
            Values::UInt64(values) => zeros(values, count),
            Values::Float32(values) => zeros(values, count),
            Values::Float64(values) => zeros(values, count),
            Values::Decimal(values, ..) => zeros(values, count),
            Values::Uuid(values) => zeros(values, count),
            Values::Utf8(offsets, _) | Values::Binary(offsets, _) | Values::List(offsets, ..) => {
                let end = offsets.last().copied().unwrap_or(0);
                offsets.resize(offsets.len().saturating_add(count), end);
            }
        }
        self.nulls.append_n_non_nulls(std::mem::take(&mut self.present));
        self.nulls.append_n_nulls(count);
    }

    /// Append a number to a column of uint64, so many times.
    pub fn push_u64(&mut self, number: u64, count: usize) {
        if let Values::UInt64(values) = &mut self.values {
            values.resize(values.len().saturating_add(count), number);
            self.present = self.present.saturating_add(count);
        }
    }

    /// Append an instant, in microseconds after 2000-01-01 UTC, to a column of them, so many times.
    ///
    /// # Errors
    /// When it is later than Arrow's timestamps reach.
    pub fn push_instant(&mut self, microseconds: i64, count: usize) -> Result<()> {
        if let Values::Timestamp(values, _) = &mut self.values {
            let instant = microseconds.checked_add(EPOCH_MICROSECONDS).ok_or(LATE)?;
            values.resize(values.len().saturating_add(count), instant);
            self.present = self.present.saturating_add(count);
        }
        Ok(())
    }

    /// Append a boolean to a column of them.
    pub fn push_bool(&mut self, value: bool) {
        if let Values::Bool(values) = &mut self.values {
            values.push(value);
            self.is_present();
        }
    }

    /// Append bytes to a column of strings or binaries.
    ///
    /// # Errors
    /// When they are not UTF-8 in a column of strings, or the column gets too large.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let (offsets, data) = match &mut self.values {
            Values::Utf8(offsets, data) => {
                if self.checked {
                    std::str::from_utf8(bytes).map_err(|_| NOT_UTF8)?;
                    if self.is_json && has_half_a_pair(bytes) {
                        return Err(HALF);
                    }
                }
                (offsets, data)
            }
            Values::Binary(offsets, data) => (offsets, data),
            _ => return Err(Invalid("a column of another type")),
        };
        let end = i32::try_from(data.len().saturating_add(bytes.len())).map_err(|_| LARGE)?;
        data.extend_from_slice(bytes);
        offsets.push(end);
        self.is_present();
        Ok(())
    }

    /// Append a string that is ASCII and of a known length to a column of strings.
    ///
    /// # Errors
    /// When the column gets too large.
    #[inline]
    pub fn push_ascii<const N: usize>(&mut self, text: &[u8; N]) -> Result<()> {
        if let Values::Utf8(offsets, data) = &mut self.values {
            data.extend_from_slice(text);
            offsets.push(i32::try_from(data.len()).map_err(|_| LARGE)?);
            self.is_present();
        }
        Ok(())
    }

    /// Append what was put into the item column as one list.
    ///
    /// # Errors
    /// When the column gets too large.
    pub fn push_list(&mut self, fill: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let Values::List(offsets, _, items) = &mut self.values else {
            return Err(Invalid("a column of another type"));
        };
        fill(items)?;
        offsets.push(i32::try_from(items.len()).map_err(|_| LARGE)?);
        self.is_present();
        Ok(())
    }

    /// Append so many empty lists to a column of lists.
    pub fn push_empty_lists(&mut self, count: usize) {
        if let Values::List(offsets, ..) = &mut self.values {
            let end = offsets.last().copied().unwrap_or(0);
            offsets.resize(offsets.len().saturating_add(count), end);
            self.present = self.present.saturating_add(count);
        }
    }

    /// Append one value from the wire.
    ///
    /// # Errors
    /// When it is not a value of its type, or not one that the Arrow type can hold.
    pub fn push(&mut self, plan: &Plan, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
        self.push_value(&plan.kind, plan.scale, format, bytes, scratch)
    }

    fn push_value(
        &mut self,
        kind: &Kind,
        scale: u8,
        format: Format,
        bytes: &[u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        match kind {
            Kind::Scalar(scalar) => self.push_scalar(*scalar, scale, format, bytes, scratch),
            Kind::Array(array) if matches!(self.values, Values::List(..)) => self.push_list(|items| {
                if format == Format::Binary
                    && let Some(list) = List::parse(bytes)
                {
                    let is_text = matches!(array.element, Kind::Scalar(Scalar::Text));
                    for element in list {
                        match element? {
                            Some(bytes) if is_text => items.push_bytes(bytes)?,
                            Some(bytes) => items.push_value(&array.element, scale, format, bytes, scratch)?,
                            None => items.push_null(),
                        }
                    }
                    return Ok(());
                }
                let dimensions = array::decode(array.delimiter, format, bytes, |element| match element {
                    Some(bytes) => items.push_value(&array.element, scale, format, bytes, scratch),
                    None => {
                        items.push_null();
                        Ok(())
                    }
                })?;
                match dimensions.as_slice() {
                    [] => Ok(()),
                    [dimension] if dimension.lower_bound == 1 => Ok(()),
                    _ => Err(Invalid("an array with other dimensions than one from 1, which is no list")),
                }
            }),
            Kind::Numbers(scalar) if matches!(self.values, Values::List(..)) => self.push_list(|items| {
                decode_numbers(*scalar, format, bytes, |number| {
                    push_decoded(&mut items.values, Value::Int(number))?;
                    items.is_present();
                    Ok(())
                })
            }),
            Kind::Floats(width) if matches!(self.values, Values::List(..)) => self.push_list(|items| {
                vector::decode(*width, format, bytes, |number| {
                    let Values::Float32(values) = &mut items.values else {
                        return Err(Invalid("a column of another type"));
                    };
                    values.push(number);
                    items.is_present();
                    Ok(())
                })
            }),
            kind => self.push_text(kind, format, bytes, scratch),
        }
    }

    #[inline]
    fn push_scalar(
        &mut self,
        scalar: Scalar,
        scale: u8,
        format: Format,
        bytes: &[u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        match &mut self.values {
            Values::Utf8(..) => return self.push_text(&Kind::Scalar(scalar), format, bytes, scratch),
            Values::Binary(..) => {
                return match decode(scalar, format, bytes, &mut scratch.value)? {
                    Value::Bytes(bytes) => self.push_bytes(&bytes),
                    _ => Err(Invalid("not a bytea")),
                };
            }
            Values::Timestamp(_, zone) => {
                let instant = instant::microseconds(format, zone.is_some(), bytes)?.ok_or(INFINITE)?;
                return self.push_instant(instant, 1);
            }
            Values::Date(values) => {
                let days = instant::days(format, bytes)?.ok_or(INFINITE)?;
                values.push(days.checked_add(EPOCH_DAYS).ok_or(Invalid("a day later than Arrow's dates reach"))?);
            }
            Values::Time(values) => {
                let time = instant::microseconds_of_day(format, bytes)?;
                values.push(
                    Some(time).filter(|&time| time < DAY).ok_or(Invalid("24:00:00, which Arrow has no value for"))?,
                );
            }
            Values::Decimal(values, precision, _) => {
                let units = match scalar {
                    Scalar::Money => match decode(scalar, format, bytes, &mut scratch.value)? {
                        Value::Numeric(text) => numeric::scaled(Format::Text, text.as_bytes(), 2)?,
                        _ => return Err(Invalid("money that was printed in another locale than C")),
                    },
                    _ => numeric::scaled(format, bytes, scale)?,
                };
                let units = units.ok_or(Invalid("NaN, which Arrow has no value for"))?;
                let limit = 10_u128.saturating_pow(u32::from(*precision));
                values.push(
                    Some(units)
                        .filter(|units| units.unsigned_abs() < limit)
                        .ok_or(Invalid("a number with more digits than its column has"))?,
                );
            }
            Values::Float32(values) => values.push(match format {
                Format::Binary => {
                    let bytes = bytes.try_into().map_err(|_| Invalid("a value of another size than its type"))?;
                    f32::from_be_bytes(bytes)
                }
                Format::Text => float4_text(bytes)?,
            }),
            values => push_decoded(values, decode(scalar, format, bytes, &mut scratch.value)?)?,
        }
        self.is_present();
        Ok(())
    }

    /// What JSON lines have between the quotes; a JSON document as it was sent; what is more than one value as PostgreSQL
    /// prints it.
    fn push_text(&mut self, kind: &Kind, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
        match (kind, format) {
            (Kind::Scalar(Scalar::Text), _) | (Kind::Opaque, Format::Text) => return self.push_bytes(bytes),
            (Kind::Scalar(scalar @ (Scalar::Char | Scalar::Json | Scalar::Jsonb | Scalar::Numeric)), _) => {
                return match decode(*scalar, format, bytes, &mut scratch.value)? {
                    Value::Text(text) | Value::Json(text) => self.push_bytes(text),
                    Value::Numeric(text) => self.push_bytes(text.as_bytes()),
                    _ => Err(Invalid("not text")),
                };
            }
            _ => {}
        }
        let mut written = std::mem::take(&mut scratch.text);
        written.clear();
        if is_printed(kind) {
            print(&mut written, kind, format, bytes)?;
            let pushed = self.push_bytes(&written);
            scratch.text = written;
            return pushed;
        }
        write_value(&mut written, kind, format, bytes, scratch)?;
        let text = written.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(&written);
        // Of the types that are left only bytea has anything that JSON escapes: the backslash in front.
        let text = if text.starts_with(b"\\\\x") { text.get(1..).unwrap_or_default() } else { text };
        let pushed = self.push_bytes(text);
        scratch.text = written;
        pushed
    }

    /// The column as an array.
    ///
    /// # Errors
    /// Never, unless something here is wrong.
    pub fn finish(mut self) -> std::result::Result<ArrayRef, ArrowError> {
        self.nulls.append_n_non_nulls(self.present);
        let nulls = self.nulls.finish();
        Ok(match self.values {
            Values::Bool(values) => Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls)),
            Values::Int16(values) => primitive::<Int16Type>(values, nulls)?,
            Values::Int32(values) => primitive::<Int32Type>(values, nulls)?,
            Values::Int64(values) => primitive::<Int64Type>(values, nulls)?,
            Values::UInt32(values) => primitive::<UInt32Type>(values, nulls)?,
            Values::UInt64(values) => primitive::<UInt64Type>(values, nulls)?,
            Values::Float32(values) => primitive::<Float32Type>(values, nulls)?,
            Values::Float64(values) => primitive::<Float64Type>(values, nulls)?,
            Values::Date(values) => primitive::<Date32Type>(values, nulls)?,
            Values::Time(values) => primitive::<Time64MicrosecondType>(values, nulls)?,
            Values::Decimal(values, precision, scale) => {
                let array = PrimitiveArray::<Decimal128Type>::try_new(values.into(), nulls)?;
                Arc::new(array.with_precision_and_scale(precision, scale)?)
            }
            Values::Timestamp(values, zone) => {
                let array = PrimitiveArray::<TimestampMicrosecondType>::try_new(values.into(), nulls)?;
                Arc::new(array.with_timezone_opt(zone))
            }
            Values::Uuid(values) => {
                let length = values.len();
                Arc::new(FixedSizeBinaryArray::try_new_with_len(
                    16,
                    Buffer::from_vec(values.into_flattened()),
                    nulls,
                    length,
                )?)
            }
            Values::Utf8(_, data) if self.is_json && has_half_a_pair(&data) => {
                return Err(ArrowError::InvalidArgumentError(HALF.0.to_owned()));
            }
            Values::Utf8(offsets, data) => {
                Arc::new(StringArray::try_new(ends(offsets), Buffer::from_vec(data), nulls)?)
            }
            Values::Binary(offsets, data) => {
                Arc::new(BinaryArray::try_new(ends(offsets), Buffer::from_vec(data), nulls)?)
            }
            Values::List(offsets, item, items) => {
                Arc::new(ListArray::try_new(item, ends(offsets), items.finish()?, nulls)?)
            }
        })
    }
}

fn is_json(field: &Field) -> bool {
    field.metadata().get(EXTENSION).is_some_and(|name| name == JSON)
}

fn push_decoded(values: &mut Values, value: Value<'_>) -> Result<()> {
    let outside = |_| Invalid("a number outside its type's range");
    match (values, value) {
        (Values::Bool(values), Value::Bool(value)) => values.push(value),
        (Values::Int16(values), Value::Int(value)) => values.push(i16::try_from(value).map_err(outside)?),
        (Values::Int32(values), Value::Int(value)) => values.push(i32::try_from(value).map_err(outside)?),
        (Values::Int64(values), Value::Int(value)) => values.push(value),
        (Values::UInt32(values), Value::Int(value)) => values.push(u32::try_from(value).map_err(outside)?),
        (Values::UInt64(values), Value::Natural(value) | Value::Lsn(value)) => values.push(value),
        (Values::Float64(values), Value::Float(value)) => values.push(value),
        (Values::Uuid(values), Value::Uuid(bytes)) => values.push(bytes),
        _ => return Err(Invalid("not a value of its type")),
    }
    Ok(())
}

/// Whether strings of a type are what PostgreSQL prints: of those whose JSON is no string of characters that need no escape.
fn is_printed(kind: &Kind) -> bool {
    match kind {
        Kind::Scalar(scalar) => {
            matches!(scalar, Scalar::Versioned | Scalar::TsVector | Scalar::TsQuery | Scalar::Cube | Scalar::Money)
        }
        Kind::Array(_) | Kind::Numbers(_) | Kind::Floats(_) => false,
        _ => true,
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: Vec<T::Native>,
    nulls: Option<NullBuffer>,
) -> std::result::Result<Arc<dyn Array>, ArrowError> {
    Ok(Arc::new(PrimitiveArray::<T>::try_new(ScalarBuffer::from(values), nulls)?))
}

/// Offsets begin with 0 and never fall, which is what this would panic about.
fn ends(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}
