//! `SchemaVersions`: which version of a table's shape was in force where.
use std::collections::HashMap;
use std::sync::Arc;

use pgoutput::batch::Position;
use pgoutput::versions::Versions;
use pyo3::prelude::*;

/// The versions of all tables, as a batch carries them.
#[pyclass(frozen, eq, module = "pgcdc._pgoutput")]
#[derive(PartialEq, Eq)]
pub struct SchemaVersions {
    inner: Arc<Versions>,
}

impl From<Arc<Versions>> for SchemaVersions {
    fn from(inner: Arc<Versions>) -> Self {
        Self { inner }
    }
}

impl SchemaVersions {
    /// What is in it, shared.
    pub fn inner(&self) -> Arc<Versions> {
        Arc::clone(&self.inner)
    }
}

#[pymethods]
impl SchemaVersions {
    #[new]
    fn new(versions: HashMap<u32, Vec<(Position, u32)>>) -> Self {
        Arc::new(Versions::new(versions)).into()
    }

    fn version(&self, oid: u32, position: Position) -> Option<u32> {
        self.inner.version(oid, position)
    }
}
