//! `TypeCatalog`: what is known of user-defined types.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use pgoutput::catalog::{Catalog, Definition};
use pgoutput::oid::Kind;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::error::config_error;

/// What is known of the types that PostgreSQL's own catalog does not fix (OID 10000 and up).
#[pyclass(subclass, frozen, module = "pgcdc._pgoutput")]
#[derive(Default)]
pub struct TypeCatalog {
    known: RwLock<Catalog>,
    generation: AtomicU64,
}

impl TypeCatalog {
    /// What the bytes of a type are.
    pub fn kind(&self, oid: u32) -> Kind {
        self.known.read().unwrap_or_else(PoisonError::into_inner).kind(oid)
    }

    /// Use all of it; nothing can be added meanwhile.
    pub fn read<T>(&self, use_it: impl FnOnce(&Catalog) -> T) -> T {
        use_it(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number that changes with every addition.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// The name and type of an attribute; a name that is not UTF-8 has surrogates in it.
fn field((name, type_oid): (Bound<'_, PyString>, u32)) -> PyResult<(Vec<u8>, u32)> {
    Ok((name.call_method1("encode", ("utf-8", "surrogateescape"))?.extract()?, type_oid))
}

#[pymethods]
impl TypeCatalog {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    #[pyo3(signature = (
        oid, name, *, base=None, modifier=None, element=None, delimiter=",", r#enum=false, subtype=None, range=None, fields=None, like=None
    ))]
    #[allow(clippy::too_many_arguments, reason = "one for each kind of type, by name")]
    fn add(
        &self,
        py: Python<'_>,
        oid: u32,
        name: &str,
        base: Option<u32>,
        modifier: Option<i32>,
        element: Option<u32>,
        delimiter: &str,
        r#enum: bool,
        subtype: Option<u32>,
        range: Option<u32>,
        fields: Option<Vec<(Bound<'_, PyString>, u32)>>,
        like: Option<&str>,
    ) -> PyResult<()> {
        let refused = |what: &str| config_error(py, &format!("type {name} ({oid}) {what}"));
        let [delimiter] = *delimiter.as_bytes() else { return Err(refused("needs a delimiter of one byte")) };
        let own_name = name.rsplit('.').next().unwrap_or(name).to_owned();
        let fields = fields.map(|fields| fields.into_iter().map(field).collect::<PyResult<Vec<_>>>()).transpose()?;
        let mut definitions = [
            base.map(|base| Definition::Domain { base, modifier: modifier.unwrap_or(-1) }),
            element.map(|element| Definition::Array { element, delimiter }),
            r#enum.then_some(Definition::Enum),
            subtype.map(|subtype| Definition::Range { subtype }),
            range.map(|range| Definition::Multirange { range }),
            fields.map(|fields| Definition::Composite { name: own_name, fields }),
            like.map(|like| Definition::extension(like).ok_or_else(|| refused("is like no type that is known")))
                .transpose()?,
        ]
        .into_iter()
        .flatten();
        let (Some(definition), None) = (definitions.next(), definitions.next()) else {
            return Err(refused("needs exactly one of base, element, enum, subtype, range, fields and like"));
        };
        self.known.write().unwrap_or_else(PoisonError::into_inner).add(oid, definition);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn knows(&self, type_oid: u32) -> bool {
        self.kind(type_oid) != Kind::Opaque
    }
}
