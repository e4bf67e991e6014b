//! `RowFormat`: how rows are given, and what is prepared once for each relation.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pgoutput::oid::Kind;
use pgoutput::session::Shape;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use crate::catalog::TypeCatalog;
use crate::construct;
use crate::error::{config_error, config_error_with_hint};
use crate::imports::imports;

/// How JSON columns are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Json {
    Decode,
    Raw,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    Struct,
    Dict,
    Tuple,
}

/// How one relation's rows are made.
pub enum RowShape {
    /// By calling a struct class with these columns, in this order; by name where names are given.
    Struct { class: Py<PyAny>, columns: Vec<usize>, names: Option<Py<PyTuple>> },
    /// As a dict with these keys; one that has them all, with None for each, is copied.
    Dict { keys: Vec<Py<PyString>>, empty: Py<PyDict> },
    /// As a tuple.
    Tuple,
}

/// What is prepared for one relation.
pub struct Plan {
    /// The relation as an event.
    pub relation: Py<PyAny>,
    /// What each column's bytes are.
    pub kinds: Vec<Kind>,
    /// Whether each column is in the replica identity.
    pub keys: Vec<bool>,
    /// How rows are made.
    pub row: RowShape,
    /// What the catalog knew when this was prepared.
    generation: u64,
}

#[derive(Default)]
struct Plans {
    generation: u64,
    by_relation: HashMap<Box<[u8]>, Arc<Plan>>,
    /// The same by where their shapes are, so that a large Relation is not compared for each row. A shape that is gone leaves
    /// its place to no other while it is here.
    by_address: HashMap<usize, (Weak<Shape>, Arc<Plan>)>,
}

/// How rows are given.
#[pyclass(frozen, generic, module = "pgcdc._pgoutput")]
pub struct RowFormat {
    rows: Rows,
    types: Option<Py<PyDict>>,
    pub json: Json,
    pub refuse_out_of_range: bool,
    catalog: Py<TypeCatalog>,
    plans: Mutex<Plans>,
}

/// Where a format has prepared more relations than a database has tables, somebody changes shapes all day: begin anew.
const MOST_PLANS: usize = 4096;

impl Plans {
    fn known(&mut self, shape: &Arc<Shape>) -> Option<Arc<Plan>> {
        if let Some((_, plan)) = self.by_address.get(&Arc::as_ptr(shape).addr()) {
            return Some(Arc::clone(plan));
        }
        let plan = self.by_relation.get(&shape.bytes).cloned()?;
        self.remember(shape, &plan);
        Some(plan)
    }

    /// The same relation may be another shape each time that it is sent: where there are many, begin anew.
    fn remember(&mut self, shape: &Arc<Shape>, plan: &Arc<Plan>) {
        if self.by_address.len() > MOST_PLANS {
            self.by_address.clear();
        }
        self.by_address.insert(Arc::as_ptr(shape).addr(), (Arc::downgrade(shape), Arc::clone(plan)));
    }
}

static DEFAULT: PyOnceLock<Py<RowFormat>> = PyOnceLock::new();

impl RowFormat {
    /// The format that is used where none is given.
    pub fn default(py: Python<'_>) -> PyResult<&Bound<'_, Self>> {
        let format =
            DEFAULT.get_or_try_init(py, || Py::new(py, Self::new(py, "struct", None, "decode", "pgtext", None)?))?;
        Ok(format.bind(py))
    }

    /// What is prepared for a relation.
    pub fn plan(&self, py: Python<'_>, shape: &Arc<Shape>) -> PyResult<Arc<Plan>> {
        let generation = self.catalog.get().generation();
        // Dropped when the lock is open again: the end of a class may call Python, and that this.
        let mut outdated = None;
        let known = {
            let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
            if plans.generation != generation || plans.by_relation.len() > MOST_PLANS {
                let anew = Plans { generation, ..Plans::default() };
                outdated = Some(std::mem::replace(&mut *plans, anew));
            }
            plans.known(shape)
        };
        drop(outdated);
        if let Some(plan) = known {
            return Ok(plan);
        }
        // Outside the lock, because it calls Python. Two threads may both make one; the first to be done is kept.
        let plan = Arc::new(self.make_plan(py, shape, generation)?);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = Arc::clone(plans.by_relation.entry(shape.bytes.clone()).or_insert(plan));
        plans.remember(shape, &plan);
        Ok(plan)
    }

    /// Whether a plan was prepared with all that the catalog knows now.
    pub fn is_current(&self, plan: &Plan) -> bool {
        plan.generation == self.catalog.get().generation()
    }

    fn make_plan(&self, py: Python<'_>, shape: &Shape, generation: u64) -> PyResult<Plan> {
        let relation = relation_event(py, shape)?;
        let columns = &shape.relation.columns;
        let row = match self.rows {
            Rows::Tuple => RowShape::Tuple,
            Rows::Dict => {
                let key = |name: &[u8]| Ok(construct::text(py, name)?.cast_into::<PyString>()?.unbind());
                let keys = columns.iter().map(|column| key(&column.name)).collect::<PyResult<Vec<_>>>()?;
                let empty = PyDict::new(py);
                for key in &keys {
                    empty.set_item(key, py.None())?;
                }
                RowShape::Dict { keys, empty: empty.unbind() }
            }
            Rows::Struct => self.struct_row(py, &relation)?,
        };
        Ok(Plan {
            relation: relation.unbind(),
            kinds: columns.iter().map(|column| self.catalog.get().kind(column.type_oid)).collect(),
            keys: columns.iter().map(|column| column.is_key).collect(),
            row,
            generation,
        })
    }

    fn struct_row(&self, py: Python<'_>, relation: &Bound<'_, PyAny>) -> PyResult<RowShape> {
        let imports = imports(py)?;
        let (class, columns, names) = imports.row_plan.bind(py).call1((relation, &self.types))?.extract()?;
        Ok(RowShape::Struct { class, columns, names })
    }
}

/// A relation as an event.
fn relation_event<'py>(py: Python<'py>, shape: &Shape) -> PyResult<Bound<'py, PyAny>> {
    let imports = imports(py)?;
    let relation = &shape.relation;
    let column_class = imports.column.bind(py);
    let columns = PyList::empty(py);
    for column in &relation.columns {
        let name = construct::text(py, &column.name)?;
        columns.append(column_class.call1((name, column.type_oid, column.type_modifier, column.is_key))?)?;
    }
    imports.relation.bind(py).call1((
        relation.oid,
        construct::text(py, &relation.schema)?,
        construct::text(py, &relation.name)?,
        char::from(relation.replica_identity).to_string(),
        columns,
    ))
}

#[pymethods]
impl RowFormat {
    #[new]
    #[pyo3(signature = (rows="struct", *, types=None, json="decode", out_of_range="pgtext", catalog=None))]
    pub fn new(
        py: Python<'_>,
        rows: &str,
        types: Option<Bound<'_, PyAny>>,
        json: &str,
        out_of_range: &str,
        catalog: Option<Py<TypeCatalog>>,
    ) -> PyResult<Self> {
        let rows = match rows {
            "struct" => Rows::Struct,
            "dict" => Rows::Dict,
            "tuple" => Rows::Tuple,
            other => {
                return Err(config_error(py, &format!("rows={other:?} is none of \"struct\", \"dict\", \"tuple\"")));
            }
        };
        let json = match json {
            "decode" => Json::Decode,
            "raw" => Json::Raw,
            "text" => Json::Text,
            other => return Err(config_error(py, &format!("json={other:?} is none of \"decode\", \"raw\", \"text\""))),
        };
        let refuse_out_of_range = match out_of_range {
            "pgtext" => false,
            "error" => true,
            other => {
                return Err(config_error(py, &format!("out_of_range={other:?} is neither \"pgtext\" nor \"error\"")));
            }
        };
        if types.is_some() && rows != Rows::Struct {
            let hint = "leave rows out: tables without a class of yours get a made one; or leave types out";
            return Err(config_error_with_hint(py, "types= needs rows=\"struct\"", hint));
        }
        let types = match types {
            Some(types) => Some(imports(py)?.checked_types.bind(py).call1((types,))?.cast_into::<PyDict>()?.unbind()),
            None => None,
        };
        let catalog = match catalog {
            Some(catalog) => catalog,
            None => Py::new(py, TypeCatalog::default())?,
        };
        Ok(Self { rows, types, json, refuse_out_of_range, catalog, plans: Mutex::default() })
    }

    #[getter]
    pub fn catalog(&self, py: Python<'_>) -> Py<TypeCatalog> {
        self.catalog.clone_ref(py)
    }
}
