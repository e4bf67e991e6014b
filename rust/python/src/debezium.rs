//! `DebeziumEnvelope`: what the bytes do not say of Debezium's envelope.
use std::collections::HashMap;

use pgoutput::json::Envelope;
use pgoutput::json::debezium::{Decimals, Options, Times};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::batch::text_bytes;
use crate::error::config_error;

/// Debezium's envelope, and what the bytes do not say of it.
#[pyclass(frozen, module = "pgcdc._pgoutput")]
pub struct DebeziumEnvelope {
    options: Options,
}

#[pymethods]
impl DebeziumEnvelope {
    #[new]
    #[pyo3(signature = (
        name="pgcdc", *, db="", decimal="precise", time="adaptive", unknown=false, keys=None, version=None
    ))]
    #[allow(clippy::too_many_arguments, reason = "each is one of Debezium's settings, and Python calls it by name")]
    fn new(
        py: Python<'_>,
        name: &str,
        db: &str,
        decimal: &str,
        time: &str,
        unknown: bool,
        keys: Option<&Bound<'_, PyAny>>,
        version: Option<&str>,
    ) -> PyResult<Self> {
        let decimals = match decimal {
            "precise" => Decimals::Precise,
            "string" => Decimals::Text,
            other => return Err(config_error(py, &format!("decimal={other:?} is neither \"precise\" nor \"string\""))),
        };
        let times = match time {
            "adaptive" => Times::Adaptive,
            "isostring" => Times::IsoText,
            other => {
                return Err(config_error(py, &format!("time={other:?} is neither \"adaptive\" nor \"isostring\"")));
            }
        };
        let mut by_table = HashMap::new();
        if let Some(keys) = keys {
            let tables = PyDict::new(py);
            tables.update(keys.cast()?)?;
            for (table, columns) in tables {
                if columns.is_instance_of::<PyString>() {
                    return Err(config_error(py, &format!("keys[{table}] must be a list of columns, not a string")));
                }
                let column = |column: PyResult<Bound<'_, PyAny>>| text_bytes(&column?.cast_into::<PyString>()?);
                let columns = columns.try_iter()?.map(column).collect::<PyResult<Vec<_>>>()?;
                by_table.insert(text_bytes(&table.cast_into::<PyString>()?)?, columns);
            }
        }
        let version = version.map_or_else(|| concat!("pgcdc-", env!("CARGO_PKG_VERSION")).to_owned(), str::to_owned);
        let (name, db) = (name.to_owned(), db.to_owned());
        Ok(Self {
            options: Options {
                version,
                name,
                db,
                decimals,
                times,
                unknown,
                keys: by_table,
                key_columns: None,
                now: None,
            },
        })
    }

    /// The same with the time at which the lines are made.
    fn at(&self, nanoseconds: i64) -> Self {
        Self { options: Options { now: Some(nanoseconds), ..self.options.clone() } }
    }
}

/// What was asked for as `envelope`.
#[derive(FromPyObject)]
pub enum Asked<'py> {
    /// By name.
    Name(String),
    /// With all that is needed.
    Debezium(Bound<'py, DebeziumEnvelope>),
}

impl Asked<'_> {
    /// What it is without being said.
    pub fn plain() -> Self {
        Self::Name("plain".to_owned())
    }

    /// Whether it is that one, which says nothing but what is in the batch.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Name(name) if name == "plain")
    }

    /// Use it.
    pub fn with<T>(&self, py: Python<'_>, use_it: impl FnOnce(Envelope<'_>) -> PyResult<T>) -> PyResult<T> {
        match self {
            Self::Name(name) if name == "plain" => use_it(Envelope::Plain),
            Self::Name(name) if name == "debezium" => {
                let default = DebeziumEnvelope::new(py, "pgcdc", "", "precise", "adaptive", false, None, None)?;
                use_it(Envelope::Debezium(&default.options))
            }
            Self::Name(other) => {
                Err(config_error(py, &format!("envelope={other:?} is neither \"plain\" nor \"debezium\"")))
            }
            Self::Debezium(asked) => use_it(Envelope::Debezium(&asked.get().options)),
        }
    }
}
