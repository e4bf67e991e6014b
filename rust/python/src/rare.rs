//! Values for which Python has no type of its own, and values that are made of others.
use std::sync::Arc;

use pgoutput::oid::{Composite, Kind, Shape};
use pgoutput::value::geometry::Geometry;
use pgoutput::value::network::Network;
use pgoutput::value::print::decode_numbers;
use pgoutput::value::range::{self, Range};
use pgoutput::value::{Format, Value, composite, hstore, number, vector};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::construct;
use crate::row::{Maker, Object, Refused};

/// The classes and functions of `pgcdc.protocol.values` that only this file uses.
pub struct Rare {
    interval: Py<PyAny>,
    bits: Py<PyAny>,
    tid: Py<PyAny>,
    inet: Py<PyAny>,
    cidr: Py<PyAny>,
    range: Py<PyAny>,
    multirange: Py<PyAny>,
    point: Py<PyAny>,
    line: Py<PyAny>,
    lseg: Py<PyAny>,
    box_: Py<PyAny>,
    path: Py<PyAny>,
    polygon: Py<PyAny>,
    circle: Py<PyAny>,
    composite_class: Py<PyAny>,
}

impl Rare {
    pub fn load(py: Python<'_>) -> PyResult<Self> {
        let values = py.import("pgcdc.protocol.values")?;
        let value = |name: &str| values.getattr(name).map(Bound::unbind);
        Ok(Self {
            interval: value("PgInterval")?,
            bits: value("bits")?,
            tid: value("PgTid")?,
            inet: value("inet")?,
            cidr: value("cidr")?,
            range: value("PgRange")?,
            multirange: value("PgMultirange")?,
            point: value("PgPoint")?,
            line: value("PgLine")?,
            lseg: value("PgLseg")?,
            box_: value("PgBox")?,
            path: value("PgPath")?,
            polygon: value("PgPolygon")?,
            circle: value("PgCircle")?,
            composite_class: py.import("pgcdc.protocol.rows")?.getattr("composite_class")?.unbind(),
        })
    }
}

fn integer<'py>(
    py: Python<'py>,
    number: impl IntoPyObject<'py, Target = PyInt, Output = Bound<'py, PyInt>, Error = std::convert::Infallible>,
) -> Bound<'py, PyAny> {
    match number.into_pyobject(py) {
        Ok(number) => number.into_any(),
        Err(never) => match never {},
    }
}

impl<'py> Maker<'py> {
    /// One of the values that few tables have.
    #[inline(never)]
    pub fn rare_value(&self, value: Value<'_>) -> Object<'py> {
        let (py, rare) = (self.py, &self.imports.rare);
        let call = |callable: &Py<PyAny>, arguments: &[Bound<'py, PyAny>]| {
            construct::call(callable.bind(py), arguments, None).map_err(Refused::Python)
        };
        match value {
            Value::Natural(number) | Value::Lsn(number) => Ok(integer(py, number)),
            Value::Interval(interval) => call(
                &rare.interval,
                &[integer(py, interval.months), integer(py, interval.days), integer(py, interval.microseconds)],
            ),
            Value::Bits(bits) => call(&rare.bits, &[integer(py, bits.length), PyBytes::new(py, bits.bytes).into_any()]),
            Value::Tid(block, offset) => call(&rare.tid, &[integer(py, block), integer(py, offset)]),
            Value::Network(Network { address, prefix, is_cidr }) => {
                let packed = match address {
                    std::net::IpAddr::V4(address) => PyBytes::new(py, &address.octets()),
                    std::net::IpAddr::V6(address) => PyBytes::new(py, &address.octets()),
                };
                let function = if is_cidr { &rare.cidr } else { &rare.inet };
                call(function, &[packed.into_any(), integer(py, prefix)])
            }
            Value::Geometry(geometry) => self.geometry(&geometry),
            _ => Err(Refused::Bytes("a value of no known kind")),
        }
    }

    fn geometry(&self, geometry: &Geometry) -> Object<'py> {
        let (py, rare) = (self.py, &self.imports.rare);
        let float = |number: &f64| PyFloat::new(py, *number).into_any();
        let point = |numbers: &[f64]| {
            let coordinates: Vec<_> = numbers.iter().map(float).collect();
            construct::call(rare.point.bind(py), &coordinates, None)
        };
        let points = || geometry.numbers.chunks_exact(2).map(point).collect::<PyResult<Vec<_>>>();
        let (class, arguments) = match geometry.shape {
            Shape::Point => (&rare.point, geometry.numbers.iter().map(float).collect()),
            Shape::Line => (&rare.line, geometry.numbers.iter().map(float).collect()),
            Shape::Lseg => (&rare.lseg, points()?),
            Shape::Box => (&rare.box_, points()?),
            Shape::Path => {
                let closed = PyBool::new(py, geometry.closed).to_owned().into_any();
                (&rare.path, vec![PyTuple::new(py, points()?)?.into_any(), closed])
            }
            Shape::Polygon => (&rare.polygon, vec![PyTuple::new(py, points()?)?.into_any()]),
            Shape::Circle => {
                let mut arguments = points()?;
                arguments.extend(geometry.numbers.last().map(float));
                (&rare.circle, arguments)
            }
        };
        Ok(construct::call(class.bind(py), &arguments, None)?)
    }

    /// A value that is made of others.
    #[inline(never)]
    pub fn rare(&mut self, kind: &Kind, format: Format, bytes: &[u8]) -> Object<'py> {
        let py = self.py;
        match kind {
            Kind::Scalar(_) | Kind::Array(_) => self.object(kind, format, bytes),
            Kind::Numbers(scalar) => {
                let list = PyList::empty(py);
                decode_numbers(*scalar, format, bytes, |number| list.append(number).map_err(Refused::Python))?;
                Ok(list.into_any())
            }
            Kind::Floats(width) => {
                let list = PyList::empty(py);
                vector::decode(*width, format, bytes, |float| {
                    list.append(number::float4(float)).map_err(Refused::Python)
                })?;
                Ok(list.into_any())
            }
            Kind::Range(subtype) => {
                let range = range::decode(format, bytes)?;
                self.range(subtype, format, range)
            }
            Kind::Multirange(subtype) => {
                let list = PyList::empty(py);
                range::decode_multirange(format, bytes, |range| {
                    list.append(self.range(subtype, format, range)?).map_err(Refused::Python)
                })?;
                Ok(construct::call(self.imports.rare.multirange.bind(py), &[list.into_any()], None)?)
            }
            Kind::Composite(composite) => self.composite(composite, format, bytes),
            Kind::Hstore => {
                let dict = PyDict::new(py);
                hstore::decode(format, bytes, |key, value| {
                    let value = value.map(|value| construct::text(py, value)).transpose()?;
                    dict.set_item(construct::text(py, key)?, value).map_err(Refused::Python)
                })?;
                Ok(dict.into_any())
            }
            Kind::Opaque => match format {
                Format::Text => Ok(construct::text(py, bytes)?),
                Format::Binary => Ok(PyBytes::new(py, bytes).into_any()),
            },
        }
    }

    fn range(&mut self, subtype: &Kind, format: Format, range: Option<Range<'_>>) -> Object<'py> {
        let py = self.py;
        let none = || py.None().into_bound(py);
        let arguments = match range {
            None => [none(), none(), PyString::new(py, "[)").into_any(), PyBool::new(py, true).to_owned().into_any()],
            Some(range) => {
                let mut bound = |bound: Option<&[u8]>| match bound {
                    Some(bytes) => self.object(subtype, format, bytes),
                    None => Ok(none()),
                };
                let (lower, upper) = (bound(range.lower.as_deref())?, bound(range.upper.as_deref())?);
                let bounds = PyString::new(py, range.bounds()).into_any();
                [lower, upper, bounds, PyBool::new(py, false).to_owned().into_any()]
            }
        };
        Ok(construct::call(self.imports.rare.range.bind(py), &arguments, None)?)
    }

    fn composite(&mut self, composite: &Arc<Composite>, format: Format, bytes: &[u8]) -> Object<'py> {
        let py = self.py;
        let mut values = Vec::with_capacity(composite.fields.len());
        composite::decode(composite, format, bytes, |field, bytes| {
            values.push(match bytes {
                Some(bytes) => self.object(&field.kind, format, bytes)?,
                None => py.None().into_bound(py),
            });
            Ok::<(), Refused>(())
        })?;
        let class = self.composite_class(composite)?;
        Ok(construct::call(&class, &values, None)?)
    }

    /// The struct class of a composite type. Asked for by address, which is its own as long as it is held here.
    fn composite_class(&mut self, composite: &Arc<Composite>) -> PyResult<Bound<'py, PyAny>> {
        let known = self.composites.iter().find(|(known, _)| Arc::ptr_eq(known, composite));
        if let Some((_, class)) = known {
            return Ok(class.clone());
        }
        let py = self.py;
        let names =
            composite.fields.iter().map(|field| construct::text(py, &field.name)).collect::<PyResult<Vec<_>>>()?;
        let arguments = [PyString::new(py, &composite.name).into_any(), PyTuple::new(py, names)?.into_any()];
        let class = construct::call(self.imports.rare.composite_class.bind(py), &arguments, None)?;
        self.composites.push((Arc::clone(composite), class.clone()));
        Ok(class)
    }
}
