//! `TypeCatalog`: what is known of user-defined types.
use std::sync::{PoisonError, RwLock};

use pgoutput::catalog::{Catalog, Definition};
use pgoutput::oid::Kind;
use pyo3::prelude::*;

use crate::error::config_error;

/// What is known of the types that PostgreSQL's own catalog does not fix (OID 16384 and up).
#[pyclass(subclass, frozen, module = "pgcdc._pgoutput")]
#[derive(Default)]
pub struct TypeCatalog {
    state: RwLock<(Catalog, u64)>,
}

impl TypeCatalog {
    /// What the bytes of a type are.
    pub fn kind(&self, oid: u32) -> Kind {
        self.state.read().unwrap_or_else(PoisonError::into_inner).0.kind(oid)
    }

    /// Use all of it; nothing can be added meanwhile.
    pub fn read<T>(&self, use_it: impl FnOnce(&Catalog) -> T) -> T {
        use_it(&self.state.read().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// A number that changes with every addition.
    pub fn generation(&self) -> u64 {
        self.state.read().unwrap_or_else(PoisonError::into_inner).1
    }
}

#[pymethods]
impl TypeCatalog {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    #[pyo3(signature = (oid, name, *, base=None, element=None, r#enum=false))]
    fn add(
        &self,
        py: Python<'_>,
        oid: u32,
        name: &str,
        base: Option<u32>,
        element: Option<u32>,
        r#enum: bool,
    ) -> PyResult<()> {
        let definition = match (base, element, r#enum) {
            (Some(base), None, false) => Definition::Domain { base },
            (None, Some(element), false) => Definition::Array { element },
            (None, None, true) => Definition::Enum,
            _ => {
                return Err(config_error(
                    py,
                    &format!("type {name} ({oid}) needs exactly one of base, element and enum"),
                ));
            }
        };
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.0.add(oid, definition);
        state.1 = state.1.wrapping_add(1);
        Ok(())
    }

    fn knows(&self, type_oid: u32) -> bool {
        self.kind(type_oid) != Kind::Opaque
    }
}
