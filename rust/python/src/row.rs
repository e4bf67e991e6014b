//! One tuple to one row, one value to one Python object.
use std::sync::Arc;

use pgoutput::error::Reason;
use pgoutput::message::Old;
use pgoutput::oid::{Array, Composite, Kind, Scalar};
use pgoutput::tuple::{Datum, Tuple};
use pgoutput::value::array::{self, Dimension};
use pgoutput::value::calendar::Time;
use pgoutput::value::{self, Format, Invalid, Value};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyDate, PyDateTime, PyDelta, PyFloat, PyInt, PyList, PyString, PyTime, PyTuple, PyTzInfo,
};

use crate::construct;
use crate::error::{Failure, is_about_value};
use crate::format::{Json, Plan, RowShape};
use crate::imports::Imports;

/// What a tuple is of its change, which decides what a null or unchanged column means.
#[derive(Clone, Copy)]
pub enum Role<'a> {
    /// The row after the change; what was sent of the old one holds the unchanged TOAST values, if anything does.
    New { old: Option<Old<'a>> },
    /// The old key: columns outside it were not sent.
    Key,
    /// The whole old row.
    OldRow,
}

/// Makes rows.
pub struct Maker<'py> {
    pub py: Python<'py>,
    pub imports: &'py Imports,
    pub json: Json,
    pub unset: Bound<'py, PyAny>,
    pub utc: Bound<'py, PyTzInfo>,
    arguments: Vec<Bound<'py, PyAny>>,
    pub elements: Vec<Bound<'py, PyAny>>,
    pub scratch: Vec<u8>,
    /// Whether a value that Python's type for it cannot hold is an error.
    refuse_out_of_range: bool,
    /// The classes of the composite types that were seen.
    pub composites: Vec<(Arc<Composite>, Bound<'py, PyAny>)>,
}

/// Why a value gave no object: the bytes, or Python.
pub enum Refused {
    Bytes(&'static str),
    Python(PyErr),
}

impl From<Invalid> for Refused {
    fn from(invalid: Invalid) -> Self {
        Self::Bytes(invalid.0)
    }
}

impl From<PyErr> for Refused {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

pub type Object<'py> = Result<Bound<'py, PyAny>, Refused>;

impl<'py> Maker<'py> {
    pub fn new(py: Python<'py>, imports: &'py Imports, json: Json, refuse_out_of_range: bool) -> PyResult<Self> {
        Ok(Self {
            py,
            imports,
            json,
            unset: imports.unset.bind(py).clone(),
            utc: PyTzInfo::utc(py)?.to_owned(),
            arguments: Vec::new(),
            elements: Vec::new(),
            scratch: Vec::new(),
            refuse_out_of_range,
            composites: Vec::new(),
        })
    }

    /// Make a row. `message` is the whole message, for offsets in errors.
    pub fn row(
        &mut self,
        plan: &Plan,
        message: &[u8],
        tuple: Tuple<'_>,
        role: Role<'_>,
    ) -> Result<Bound<'py, PyAny>, Failure> {
        if tuple.len() != plan.kinds.len() {
            let offset = 0;
            return Err(pgoutput::Error {
                reason: Reason::ColumnCount(tuple.len()),
                field: "number of columns",
                offset,
            }
            .into());
        }
        let py = self.py;
        self.arguments.clear();
        if let RowShape::Struct { class, columns, names } = &plan.row {
            self.columns(plan, message, tuple, role, Some(columns))?;
            let row = construct::call(class.bind(py), &self.arguments, names.as_ref().map(|names| names.bind(py)));
            self.arguments.clear();
            return row.map_err(|error| self.refused_row(class, error));
        }
        self.columns(plan, message, tuple, role, None)?;
        let values = self.arguments.drain(..);
        match &plan.row {
            RowShape::Dict { keys, empty } => {
                // A copy has room for all keys, and they are not hashed again.
                let dict = empty.bind(py).copy()?;
                for (key, value) in keys.iter().zip(values) {
                    dict.set_item(key, value)?;
                }
                Ok(dict.into_any())
            }
            _ => Ok(PyTuple::new(py, values)?.into_any()),
        }
    }

    /// A user's class may refuse a row in `__post_init__`.
    fn refused_row(&self, class: &Py<PyAny>, error: PyErr) -> Failure {
        if !is_about_value(self.py, &error) {
            return Failure::Python(error);
        }
        match class.bind(self.py).getattr("__qualname__").and_then(|name| name.extract()) {
            Ok(class) => Failure::Row { class, cause: error },
            Err(error) => Failure::Python(error),
        }
    }

    /// Put the values of a tuple's columns into `arguments`: all, or the chosen ones in the chosen order.
    fn columns(
        &mut self,
        plan: &Plan,
        message: &[u8],
        tuple: Tuple<'_>,
        role: Role<'_>,
        chosen: Option<&[usize]>,
    ) -> Result<(), Failure> {
        let Some(chosen) = chosen.filter(|chosen| chosen.len() < plan.kinds.len() || !chosen.is_sorted()) else {
            let mut columns = tuple.columns();
            for (number, kind) in plan.kinds.iter().enumerate() {
                let datum = columns.next().ok_or(Failure::NOT_WHOLE)?;
                let value = match datum {
                    Datum::Binary(bytes) => self.plain(kind, bytes),
                    _ => None,
                };
                let value = match value {
                    Some(value) => value,
                    None => self.column(plan, message, number, kind, datum, role)?,
                };
                self.arguments.push(value);
            }
            return if columns.is_at_end() { Ok(()) } else { Err(Failure::NOT_WHOLE) };
        };
        // Columns lie one after the other without an index, so they are found once and then taken in any order.
        let mut datums = Vec::with_capacity(tuple.len());
        let mut columns = tuple.columns();
        datums.extend(columns.by_ref());
        if datums.len() != tuple.len() || !columns.is_at_end() {
            return Err(Failure::NOT_WHOLE);
        }
        for &number in chosen {
            let (Some(&datum), Some(kind)) = (datums.get(number), plan.kinds.get(number)) else { continue };
            let value = match datum {
                Datum::Binary(bytes) => self.plain(kind, bytes),
                _ => None,
            };
            let value = match value {
                Some(value) => value,
                None => self.column(plan, message, number, kind, datum, role)?,
            };
            self.arguments.push(value);
        }
        Ok(())
    }

    fn column(
        &mut self,
        plan: &Plan,
        message: &[u8],
        number: usize,
        kind: &Kind,
        datum: Datum<'_>,
        role: Role<'_>,
    ) -> Result<Bound<'py, PyAny>, Failure> {
        let (format, bytes) = match datum {
            Datum::Binary(bytes) => (Format::Binary, bytes),
            Datum::Text(bytes) => (Format::Text, bytes),
            // In a key tuple the server writes null for every column outside the key: not sent.
            Datum::Null if matches!(role, Role::Key) && plan.keys.get(number) != Some(&true) => {
                return Ok(self.unset.clone());
            }
            Datum::Null => return Ok(self.py.None().into_bound(self.py)),
            Datum::Unchanged => {
                let from_old = match role {
                    Role::New { old: Some(Old::Row(old)) } => {
                        old.columns().nth(number).map(|datum| (datum, Role::OldRow))
                    }
                    Role::New { old: Some(Old::Key(old)) } => old.columns().nth(number).map(|datum| (datum, Role::Key)),
                    _ => None,
                };
                return match from_old {
                    None | Some((Datum::Unchanged, _)) => Ok(self.unset.clone()),
                    Some((datum, role)) => self.column(plan, message, number, kind, datum, role),
                };
            }
        };
        self.object(kind, format, bytes).map_err(|refused| {
            let offset = bytes.as_ptr().addr().saturating_sub(message.as_ptr().addr());
            match refused {
                Refused::Bytes(reason) => Failure::Value { reason, column: number, offset, cause: None },
                Refused::Python(error) if is_about_value(self.py, &error) => {
                    Failure::Value { reason: "not a value of its type", column: number, offset, cause: Some(error) }
                }
                Refused::Python(error) => Failure::Python(error),
            }
        })
    }

    #[inline]
    pub fn object(&mut self, kind: &Kind, format: Format, bytes: &[u8]) -> Object<'py> {
        match kind {
            Kind::Scalar(scalar) => self.scalar(*scalar, format, bytes),
            Kind::Array(array) => self.array(array, format, bytes),
            rare => self.rare(rare, format, bytes),
        }
    }

    fn scalar(&mut self, scalar: Scalar, format: Format, bytes: &[u8]) -> Object<'py> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let object = match value::decode(scalar, format, bytes, &mut scratch) {
            Ok(value) => self.value(value),
            Err(invalid) => Err(invalid.into()),
        };
        self.scratch = scratch;
        object
    }

    #[inline]
    fn value(&self, value: Value<'_>) -> Object<'py> {
        let (py, imports) = (self.py, self.imports);
        Ok(match value {
            Value::Int(value) => PyInt::new(py, value).into_any(),
            Value::Text(bytes) => construct::text(py, bytes)?,
            Value::Bool(value) => PyBool::new(py, value).to_owned().into_any(),
            Value::Float(value) => PyFloat::new(py, value).into_any(),
            Value::Numeric(text) => {
                construct::call(imports.decimal.bind(py), &[PyString::new(py, text).into_any()], None)?
            }
            Value::TimestampTz(date, time) => self.timestamp(date, time, Some(&self.utc))?,
            Value::Timestamp(date, time) => self.timestamp(date, time, None)?,
            Value::Date(date) => PyDate::new(py, date.year, date.month, date.day)?.into_any(),
            Value::Time(time) => self.time(time, None)?,
            Value::TimeTz(time, 0) => self.time(time, Some(&self.utc))?,
            Value::TimeTz(time, east) => {
                let zone = PyTzInfo::fixed_offset(py, PyDelta::new(py, 0, east, 0, true)?)?;
                self.time(time, Some(&zone))?
            }
            Value::Uuid(bytes) => construct::uuid(py, imports, bytes)?,
            Value::Json(bytes) => match self.json {
                Json::Decode => {
                    let arguments = [PyBytes::new(py, bytes).into_any()];
                    match construct::call(imports.json.bind(py), &arguments, None) {
                        Err(error) if is_about_value(py, &error) => {
                            construct::call(imports.json_slowly.bind(py), &arguments, None)?
                        }
                        decoded => decoded?,
                    }
                }
                Json::Raw => construct::call(imports.raw.bind(py), &[PyBytes::new(py, bytes).into_any()], None)?,
                Json::Text => construct::text(py, bytes)?,
            },
            Value::Bytes(bytes) => PyBytes::new(py, &bytes).into_any(),
            Value::PgText(_) if self.refuse_out_of_range => {
                return Err(Refused::Bytes("a value that Python's type for it cannot hold"));
            }
            Value::PgText(text) => {
                construct::call(imports.pg_text.bind(py), &[PyString::new(py, text).into_any()], None)?
            }
            rare => return self.rare_value(rare),
        })
    }

    #[inline]
    pub fn timestamp(
        &self,
        date: value::calendar::Date,
        time: Time,
        zone: Option<&Bound<'py, PyTzInfo>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Time { hour, minute, second, microsecond } = time;
        PyDateTime::new(self.py, date.year, date.month, date.day, hour, minute, second, microsecond, zone)
            .map(Bound::into_any)
    }

    fn time(&self, time: Time, zone: Option<&Bound<'py, PyTzInfo>>) -> PyResult<Bound<'py, PyAny>> {
        PyTime::new(self.py, time.hour, time.minute, time.second, time.microsecond, zone).map(Bound::into_any)
    }

    fn array(&mut self, array: &Array, format: Format, bytes: &[u8]) -> Object<'py> {
        let py = self.py;
        let mut elements = std::mem::take(&mut self.elements);
        elements.clear();
        let dimensions = array::decode(array.delimiter, format, bytes, |element| {
            elements.push(match element {
                Some(bytes) => self.object(&array.element, format, bytes)?,
                None => py.None().into_bound(py),
            });
            Ok::<(), Refused>(())
        })?;
        let dimensions = dimensions.as_slice();
        let list = nest(py, dimensions, &mut elements.drain(..))?;
        self.elements = elements;
        if dimensions.iter().all(|dimension| dimension.lower_bound == 1) {
            return Ok(list.into_any());
        }
        let lower_bounds = PyTuple::new(py, dimensions.iter().map(|dimension| dimension.lower_bound))?;
        Ok(self.imports.pg_array.bind(py).call1((list, lower_bounds))?)
    }

    /// An instant in microseconds since 2000-01-01 UTC; None outside the years 1 to 9999.
    pub fn instant(&self, microseconds: i64) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (date, time) = value::calendar::civil(microseconds);
        if !(1..=9999).contains(&date.year) {
            return Ok(None);
        }
        self.timestamp(date, time, Some(&self.utc)).map(Some)
    }
}

/// The innermost lists take the elements in turn, the outer ones the inner.
fn nest<'py>(
    py: Python<'py>,
    dimensions: &[Dimension],
    elements: &mut std::vec::Drain<'_, Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    match dimensions {
        [] => Ok(PyList::empty(py)),
        [dimension] => PyList::new(py, elements.take(dimension.length)),
        [dimension, inner @ ..] => {
            let list = PyList::empty(py);
            for _ in 0..dimension.length {
                list.append(nest(py, inner, elements)?)?;
            }
            Ok(list)
        }
    }
}

/// A number in JSON: a float where that says the same, else a Decimal.
#[pyfunction]
pub fn json_number<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    if let Some(number) = value::number::exact_float(text) {
        return Ok(PyFloat::new(py, number).into_any());
    }
    crate::imports::imports(py)?.decimal.bind(py).call1((text,))
}
