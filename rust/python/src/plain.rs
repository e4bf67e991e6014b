//! The values that most columns hold, from their binary form, without a step in between.
//!
//! Whatever is refused here (another type, a value that needs a closer look, an exception) goes the long way in `row`, which
//! gives the same objects for all that is done here and has the words for what is wrong.
use pgoutput::oid::{Kind, Scalar};
use pgoutput::value::calendar::{YEARS_1_TO_9999, civil};
use pgoutput::value::list::List;
use pgoutput::value::numeric;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyList};

use crate::construct;
use crate::format::Json;
use crate::row::Maker;

impl<'py> Maker<'py> {
    /// The object of a value that came in binary.
    #[inline]
    pub fn plain(&mut self, kind: &Kind, bytes: &[u8]) -> Option<Bound<'py, PyAny>> {
        match kind {
            Kind::Scalar(scalar) => self.plain_scalar(*scalar, bytes),
            Kind::Array(array) => match array.element {
                Kind::Scalar(scalar) => self.plain_list(scalar, bytes),
                _ => None,
            },
            _ => None,
        }
    }

    fn plain_scalar(&mut self, scalar: Scalar, bytes: &[u8]) -> Option<Bound<'py, PyAny>> {
        let py = self.py;
        Some(match scalar {
            Scalar::Text => construct::text(py, bytes).ok()?,
            Scalar::Int4 => PyInt::new(py, i32::from_be_bytes(bytes.try_into().ok()?)).into_any(),
            Scalar::Int8 => PyInt::new(py, i64::from_be_bytes(bytes.try_into().ok()?)).into_any(),
            Scalar::Bool => match bytes {
                [value @ (0 | 1)] => PyBool::new(py, *value == 1).to_owned().into_any(),
                _ => return None,
            },
            Scalar::Float8 => PyFloat::new(py, f64::from_be_bytes(bytes.try_into().ok()?)).into_any(),
            Scalar::Numeric => {
                self.scratch.clear();
                if !numeric::write_small(&mut self.scratch, bytes) {
                    return None;
                }
                let text = construct::text(py, &self.scratch).ok()?;
                construct::call(self.imports.decimal.bind(py), &[text], None).ok()?
            }
            Scalar::TimestampTz | Scalar::Timestamp => {
                let microseconds = i64::from_be_bytes(bytes.try_into().ok()?);
                if !YEARS_1_TO_9999.contains(&microseconds) {
                    return None;
                }
                let (date, time) = civil(microseconds);
                let zone = (scalar == Scalar::TimestampTz).then_some(&self.utc);
                self.timestamp(date, time, zone).ok()?
            }
            Scalar::Uuid => construct::uuid(py, self.imports, bytes.try_into().ok()?).ok()?,
            Scalar::Jsonb if self.json == Json::Decode => {
                let json = bytes.strip_prefix(&[1])?;
                construct::call(self.imports.json.bind(py), &[PyBytes::new(py, json).into_any()], None).ok()?
            }
            _ => return None,
        })
    }

    /// An array of one dimension that begins at 1.
    fn plain_list(&mut self, scalar: Scalar, bytes: &[u8]) -> Option<Bound<'py, PyAny>> {
        let py = self.py;
        self.elements.clear();
        for element in List::parse(bytes)? {
            let element = match element.ok()? {
                Some(bytes) => self.plain_scalar(scalar, bytes)?,
                None => py.None().into_bound(py),
            };
            self.elements.push(element);
        }
        PyList::new(py, self.elements.drain(..)).ok().map(Bound::into_any)
    }
}
