//! `Batch`: a run of raw messages, decoded when somebody asks.
//!
//! Over 400 lines because it is one class, and all its methods are few lines over what the crate does.
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use pgoutput::batch::{self, Builder, Position, Record};
use pgoutput::copy::SNAPSHOT_INDEX;
use pgoutput::message::{Message, kind};
use pgoutput::relation::{Column, Relation};
use pgoutput::session::{Place, Session, Shape, Transaction};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyList, PyString, PyTuple};

use crate::arrow;
use crate::bytes::Bytes;
use crate::catalog::TypeCatalog;
use crate::construct::CollectorPause;
use crate::debezium::Asked;
use crate::error::{batch_error, config_error};
use crate::event::{Events, Item};
use crate::fold;
use crate::format::RowFormat;
use crate::formats;
use crate::imports::imports;
use crate::json_rows;
use crate::records;
use crate::reshape;
use crate::versions::SchemaVersions;

/// The events of a batch that were made already in one format, by the numbers of their records.
struct Made {
    format: Py<RowFormat>,
    events: Vec<Option<Py<PyAny>>>,
}

/// A change that is the first of its shape: where, of which relation, at which position, of which version.
type ShapeRun<'py> = (usize, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>, Option<u32>);

/// A run of messages from one stream.
#[pyclass(frozen, module = "pgcdc._pgoutput")]
pub struct Batch {
    inner: batch::Batch,
    /// Shared with the batches cut from this one, so that two sinks with the same format get the same objects.
    made: Arc<Mutex<Vec<Made>>>,
    /// The plain lines of JSON, once somebody has asked for them: all who do get the same bytes.
    lines: Arc<Mutex<Option<Py<PyBytes>>>>,
    /// How rows are given to those who do not say: as the stream knows its database's types.
    format: Option<Arc<Py<RowFormat>>>,
    /// The primary keys of tables by their OIDs, where somebody has said.
    keys: Option<Arc<Py<PyAny>>>,
}

impl From<batch::Batch> for Batch {
    fn from(inner: batch::Batch) -> Self {
        Self::new(inner, None)
    }
}

impl Batch {
    /// A batch as it was read.
    pub fn new(inner: batch::Batch, format: Option<Arc<Py<RowFormat>>>) -> Self {
        Self { inner, made: Arc::default(), lines: Arc::default(), format, keys: None }
    }

    /// What is in it.
    pub fn inner(&self) -> &batch::Batch {
        &self.inner
    }

    /// What was made of its changes, at their positions and of their tables: of the same versions.
    fn remade(&self, inner: batch::Batch) -> Self {
        let inner = match self.inner.versions() {
            Some(versions) => inner.with_versions(Arc::clone(versions)),
            None => inner,
        };
        Self { keys: self.keys.clone(), ..Self::new(inner, self.format.clone()) }
    }

    fn cut(&self, inner: batch::Batch) -> Self {
        let (made, format, keys) = (Arc::clone(&self.made), self.format.clone(), self.keys.clone());
        Self { inner, made, lines: Arc::default(), format, keys }
    }

    /// What is known of user-defined types: what the caller says, else what the stream knows.
    fn catalog<'py>(
        &self,
        py: Python<'py>,
        catalog: Option<&Bound<'py, TypeCatalog>>,
    ) -> Option<Bound<'py, TypeCatalog>> {
        let own = || self.format.as_ref().map(|format| format.get().catalog(py).into_bound(py));
        catalog.cloned().or_else(own)
    }

    fn primary_keys<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyAny>> {
        self.keys.as_ref().map(|keys| keys.bind(py))
    }

    fn item<'a>(&'a self, record: &'a Record) -> Item<'a> {
        let shape = |number: usize| self.inner.shapes().get(number);
        let numbers = self.inner.truncated(record);
        Item {
            bytes: self.inner.bytes(record),
            lsn: record.lsn,
            shape: record.shape.and_then(shape),
            truncated: numbers.iter().map(|number| number.and_then(shape)).collect(),
            streamed: record.streamed,
            transaction: self.inner.transaction(record),
            index: record.index,
            versions: self.inner.versions().map(AsRef::as_ref),
        }
    }

    /// A new list of the events, of which those that nobody has asked for yet are made now.
    fn list<'py>(
        &self,
        py: Python<'py>,
        format: Option<&Bound<'py, RowFormat>>,
        only_changes: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let format = match (format, &self.format) {
            (Some(format), _) => format,
            (None, Some(own)) => own.bind(py),
            (None, None) => RowFormat::default(py)?,
        };
        let records = || self.inner.records().iter().filter(|record| !only_changes || record.is_change());
        let mut list = self.known(py, format, records());
        // Outside the lock, because it calls Python, and that may ask for this batch again or wait for somebody who does.
        if list.iter().any(Option::is_none) {
            let _pause = CollectorPause::new(py);
            let mut events = Events::new(py, format.get(), None)?;
            for (record, place) in records().zip(&mut list).filter(|(_, place)| place.is_none()) {
                *place = Some(match events.event_or_error(&self.item(record))? {
                    Ok(event) => event,
                    Err(error) => error.into_value(py).into_bound(py).into_any(),
                });
            }
            self.keep(py, format, records(), &mut list);
        }
        PyList::new(py, list)
    }

    /// Of some records, the events that were made already.
    fn known<'py, 'a>(
        &self,
        py: Python<'py>,
        format: &Bound<'py, RowFormat>,
        records: impl Iterator<Item = &'a Record>,
    ) -> Vec<Option<Bound<'py, PyAny>>> {
        let made = self.made.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        let made = made.iter().find(|one| one.format.is(format)).map_or(&[][..], |one| &one.events);
        let known = |record: &Record| made.get(record.number)?.as_ref().map(|event| event.bind(py).clone());
        records.map(known).collect()
    }

    /// Keep the events of some records. Where somebody else was first, theirs is kept and given back: one object for all.
    fn keep<'py, 'a>(
        &self,
        py: Python<'py>,
        format: &Bound<'py, RowFormat>,
        records: impl Iterator<Item = &'a Record>,
        list: &mut [Option<Bound<'py, PyAny>>],
    ) {
        // What is not kept is dropped only when the lock is open again, because that may call Python.
        let mut superseded = Vec::new();
        let mut all = self.made.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        if !all.iter().any(|one| one.format.is(format)) {
            all.push(Made { format: format.clone().unbind(), events: Vec::new() });
        }
        let Some(Made { events, .. }) = all.iter_mut().find(|one| one.format.is(format)) else { return };
        for (record, event) in records.zip(list) {
            if events.len() <= record.number {
                events.resize_with(record.number.saturating_add(1), || None);
            }
            match events.get_mut(record.number) {
                Some(Some(first)) => superseded.push(event.replace(first.bind(py).clone())),
                Some(place) => *place = event.as_ref().map(|event| event.clone().unbind()),
                None => {}
            }
        }
        drop(all);
        drop(superseded);
    }

    /// Add the events of another batch that were made already, of which the records follow those that are here.
    fn add_made(&self, py: Python<'_>, all: &mut Vec<Made>, before: usize) {
        let made = self.made.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        for one in made.iter() {
            let known = |record: &Record| Some(one.events.get(record.number)?.as_ref()?.clone_ref(py));
            let events = self.inner.records().iter().map(known);
            match all.iter_mut().find(|other| other.format.is(&one.format)) {
                Some(other) => {
                    other.events.resize_with(before, || None);
                    other.events.extend(events);
                }
                None => {
                    let events = std::iter::repeat_with(|| None).take(before).chain(events).collect();
                    all.push(Made { format: one.format.clone_ref(py), events });
                }
            }
        }
    }

    /// The position of the last change.
    pub fn last(&self) -> Option<Position> {
        self.inner.records().iter().rev().find_map(|record| self.inner.position(record))
    }

    /// Whether the relations that its changes use are just these objects, in this order.
    fn uses(&self, py: Python<'_>, relations: &Bound<'_, PyTuple>) -> PyResult<bool> {
        let format = RowFormat::default(py)?.get();
        let mut expected = relations.iter_borrowed();
        let mut seen = Vec::with_capacity(relations.len());
        for record in self.inner.records().iter().filter(|record| record.is_change()) {
            for number in record.shape.into_iter().chain(self.inner.truncated(record).iter().copied().flatten()) {
                if seen.contains(&number) {
                    continue;
                }
                let Some(shape) = self.inner.shapes().get(number) else { continue };
                let plan = format.plan(py, shape)?;
                if !expected.next().is_some_and(|one| one.is(plan.relation.bind(py))) {
                    return Ok(false);
                }
                seen.push(number);
            }
        }
        Ok(expected.next().is_none())
    }

    fn edge(py: Python<'_>, position: Option<Position>) -> PyResult<Option<Bound<'_, PyAny>>> {
        position.map(|position| imports(py)?.position.bind(py).call1(position)).transpose()
    }
}

/// Text in UTF-8, bytes of another encoding as they were.
pub fn text_bytes(text: &Bound<'_, PyString>) -> PyResult<Vec<u8>> {
    let encoded = text.call_method1("encode", ("utf-8", "surrogateescape"))?;
    Ok(encoded.cast_into::<PyBytes>()?.as_bytes().to_vec())
}

fn kind_of(py: Python<'_>, action: &str) -> PyResult<u8> {
    match action {
        "insert" => Ok(kind::INSERT),
        "update" => Ok(kind::UPDATE),
        "delete" => Ok(kind::DELETE),
        "truncate" => Ok(kind::TRUNCATE),
        "message" => Ok(kind::MESSAGE),
        _ => Err(config_error(py, &format!("{action:?} is none of insert, update, delete, truncate, message"))),
    }
}

/// A relation event back to a shape.
pub fn shape_of(py: Python<'_>, relation: &Bound<'_, PyAny>) -> PyResult<Arc<Shape>> {
    let text = |object: &Bound<'_, PyAny>, name: &str| text_bytes(&object.getattr(name)?.cast_into::<PyString>()?);
    let mut columns = Vec::new();
    for column in relation.getattr("columns")?.try_iter()? {
        let column = column?;
        columns.push(Column {
            is_key: column.getattr("is_key")?.extract()?,
            name: text(&column, "name")?,
            type_oid: column.getattr("type_oid")?.extract()?,
            type_modifier: column.getattr("type_modifier")?.extract()?,
        });
    }
    let relation = Relation {
        oid: relation.getattr("oid")?.extract()?,
        schema: text(relation, "schema")?,
        name: text(relation, "name")?,
        replica_identity: text(relation, "replica_identity")?.first().copied().unwrap_or(b'd'),
        columns,
    };
    let mut bytes = Vec::new();
    match (Message::Relation { xid: None, relation: relation.clone() }).encode(&mut bytes) {
        Ok(()) => Ok(Arc::new(Shape { bytes: bytes.into(), relation })),
        Err(_) => {
            Err(config_error(py, "the relation has a name with a zero byte or more columns than a table can have"))
        }
    }
}

#[pymethods]
impl Batch {
    fn __len__(&self) -> usize {
        self.inner.records().len()
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.list(py, None, false)?.try_iter()
    }

    fn __repr__(&self) -> String {
        let changes = self.changes_count();
        format!("<Batch of {} messages, {changes} changes, {} bytes>", self.inner.records().len(), self.inner.nbytes())
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.nbytes()
    }

    #[getter]
    fn changes_count(&self) -> usize {
        self.inner.records().iter().filter(|record| record.is_change()).count()
    }

    #[getter]
    fn first_position<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::edge(py, self.inner.records().iter().find_map(|record| self.inner.position(record)))
    }

    #[getter]
    fn last_position<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Self::edge(py, self.last())
    }

    #[getter]
    fn span<'py>(&self, py: Python<'py>) -> PyResult<Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
        let first = self.inner.records().iter().find_map(|record| self.inner.position(record));
        Ok(Self::edge(py, first)?.zip(Self::edge(py, self.last())?))
    }

    #[getter]
    fn end_lsn(&self) -> Option<u64> {
        self.inner.end_lsn()
    }

    #[getter]
    fn commit_end_lsn(&self) -> Option<u64> {
        self.inner.commit_end_lsn()
    }

    #[getter]
    fn message_lsn(&self) -> Option<u64> {
        self.inner.message_lsn()
    }

    #[getter]
    fn in_progress(&self) -> bool {
        self.inner.records().iter().any(Record::is_in_progress)
    }

    #[getter]
    fn relations<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let format = RowFormat::default(py)?.get();
        let mut seen = HashSet::new();
        let mut relations = Vec::new();
        for record in self.inner.records().iter().filter(|record| record.is_change()) {
            for number in record.shape.into_iter().chain(self.inner.truncated(record).iter().copied().flatten()) {
                if seen.insert(number)
                    && let Some(shape) = self.inner.shapes().get(number)
                {
                    relations.push(format.plan(py, shape)?.relation.bind(py).clone());
                }
            }
        }
        Ok(relations)
    }

    fn is_of(&self, py: Python<'_>, relations: &Bound<'_, PyTuple>) -> PyResult<bool> {
        self.uses(py, relations)
    }

    fn rows_of(
        &self,
        py: Python<'_>,
        relations: &Bound<'_, PyTuple>,
        versions: &Bound<'_, SchemaVersions>,
        most: usize,
    ) -> PyResult<Option<Self>> {
        let records = self.inner.records();
        let many = records.iter().filter(|record| record.is_change()).count() > most;
        if many || records.iter().any(Record::is_in_progress) || !self.uses(py, relations)? {
            return Ok(None);
        }
        let rows = self.inner.select(None, Some(&[kind::INSERT, kind::UPDATE, kind::DELETE, kind::TRUNCATE]));
        let inner = rows.with_versions(versions.get().inner());
        Ok(Some(Self { keys: self.keys.clone(), ..Self::new(inner, self.format.clone()) }))
    }

    #[pyo3(signature = (format=None))]
    fn events<'py>(&self, py: Python<'py>, format: Option<&Bound<'py, RowFormat>>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, format, false)
    }

    #[pyo3(signature = (format=None))]
    fn changes<'py>(&self, py: Python<'py>, format: Option<&Bound<'py, RowFormat>>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, format, true)
    }

    #[pyo3(signature = (tables=None, actions=None, *, messages=None))]
    fn select(
        &self,
        py: Python<'_>,
        tables: Option<Bound<'_, PyAny>>,
        actions: Option<Bound<'_, PyAny>>,
        messages: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let tables = match tables {
            None => None,
            Some(tables) => {
                let mut names = HashSet::new();
                for table in tables.try_iter()? {
                    let (schema, name): (Bound<'_, PyString>, Bound<'_, PyString>) = table?.extract()?;
                    names.insert((text_bytes(&schema)?, text_bytes(&name)?));
                }
                Some(names)
            }
        };
        let kinds = match actions {
            None => None,
            Some(actions) => {
                let kind = |action: PyResult<Bound<'_, PyAny>>| kind_of(py, &action?.extract::<String>()?);
                Some(actions.try_iter()?.map(kind).collect::<PyResult<Vec<_>>>()?)
            }
        };
        let Some(messages) = messages else {
            return Ok(self.cut(self.inner.select(tables.as_ref(), kinds.as_deref())));
        };
        let mut prefixes = HashSet::new();
        for prefix in messages.try_iter()? {
            prefixes.insert(text_bytes(prefix?.cast::<PyString>()?)?);
        }
        Ok(self.cut(self.inner.select_with_messages(tables.as_ref(), kinds.as_deref(), &prefixes)))
    }

    fn take(&self, numbers: &Bound<'_, PyAny>) -> PyResult<Self> {
        let numbers = numbers.try_iter()?.map(|number| number?.extract()).collect::<PyResult<_>>()?;
        Ok(self.cut(self.inner.take(&numbers)))
    }

    #[pyo3(signature = (max_changes, max_bytes=None, *, transactions=false))]
    fn pieces(&self, max_changes: usize, max_bytes: Option<usize>, transactions: bool) -> Vec<Self> {
        let pieces = self.inner.pieces(max_changes, max_bytes.unwrap_or(usize::MAX), transactions);
        pieces.into_iter().map(|piece| self.cut(piece)).collect()
    }

    #[pyo3(signature = (plan, *, catalog=None))]
    fn reshaped(
        &self,
        py: Python<'_>,
        plan: &Bound<'_, PyAny>,
        catalog: Option<&Bound<'_, TypeCatalog>>,
    ) -> PyResult<Self> {
        let catalog = self.catalog(py, catalog);
        let made = reshape::reshaped(py, &self.inner, plan, catalog.as_ref().map(Bound::get))?;
        Ok(self.remade(made))
    }

    fn rewritten(&self, py: Python<'_>, changes: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(self.remade(reshape::rewritten(py, &self.inner, changes)?))
    }

    #[pyo3(signature = (columns, *, by_table=true))]
    #[allow(clippy::needless_pass_by_value, reason = "what Python hands over")]
    fn keys<'py>(
        &self,
        py: Python<'py>,
        columns: HashMap<u32, Vec<Bound<'py, PyString>>>,
        by_table: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        reshape::keys(py, &self.inner, &columns, by_table)
    }

    #[pyo3(signature = (keys=None))]
    #[allow(clippy::needless_pass_by_value, reason = "what Python hands over")]
    fn folded(&self, py: Python<'_>, keys: Option<HashMap<u32, Vec<Bound<'_, PyString>>>>) -> PyResult<Self> {
        Ok(self.remade(fold::folded(py, &self.inner, &keys.unwrap_or_default())?))
    }

    #[pyo3(signature = (*, marked=true, text=None, catalog=None))]
    #[allow(clippy::needless_pass_by_value, reason = "what Python hands over")]
    fn to_copy<'py>(
        &self,
        py: Python<'py>,
        marked: bool,
        text: Option<HashMap<u32, HashSet<usize>>>,
        catalog: Option<&Bound<'py, TypeCatalog>>,
    ) -> PyResult<Vec<fold::CopyRows<'py>>> {
        let text = text.unwrap_or_default();
        fold::to_copy(py, &self.inner, marked, &text, self.catalog(py, catalog).as_ref().map(Bound::get))
    }

    fn planned<'py>(
        &self,
        py: Python<'py>,
        plan: &Bound<'py, fold::RowPlan>,
    ) -> PyResult<(usize, Vec<fold::PlannedRows<'py>>)> {
        plan.get().rows(py, &self.inner, self.catalog(py, None).as_ref().map(Bound::get))
    }

    #[getter(catalog)]
    fn known_types<'py>(&self, py: Python<'py>) -> Option<Bound<'py, TypeCatalog>> {
        self.catalog(py, None)
    }

    #[getter]
    fn versions(&self) -> Option<SchemaVersions> {
        self.inner.versions().map(|versions| SchemaVersions::from(Arc::clone(versions)))
    }

    fn with_versions(&self, versions: &Bound<'_, SchemaVersions>) -> Self {
        // Not `cut`: events that were made before have no version.
        let inner = self.inner.clone().with_versions(versions.get().inner());
        Self { keys: self.keys.clone(), ..Self::new(inner, self.format.clone()) }
    }

    fn with_primary_keys(&self, keys: Py<PyAny>) -> Self {
        // Lines do not say them.
        Self { keys: Some(Arc::new(keys)), lines: Arc::clone(&self.lines), ..self.cut(self.inner.clone()) }
    }

    #[getter(primary_keys)]
    fn known_keys<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.primary_keys(py).cloned()
    }

    fn key_columns<'py>(&self, py: Python<'py>, relation: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
        json_rows::key_columns(py, &*shape_of(py, relation)?, self.primary_keys(py))
    }

    #[pyo3(signature = (key=None, *, catalog=None))]
    fn json_rows<'py>(
        &self,
        py: Python<'py>,
        key: Option<&Bound<'py, PyAny>>,
        catalog: Option<&Bound<'py, TypeCatalog>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let catalog = self.catalog(py, catalog);
        json_rows::json_rows(py, &self.inner, self.primary_keys(py), key, catalog.as_ref().map(Bound::get))
    }

    fn shape_runs<'py>(&self, py: Python<'py>) -> PyResult<Vec<ShapeRun<'py>>> {
        let format = RowFormat::default(py)?.get();
        let mut runs = Vec::new();
        for (at, number) in self.inner.shape_runs() {
            let (Some(record), Some(shape)) = (self.inner.records().get(at), self.inner.shapes().get(number)) else {
                continue;
            };
            let position = self.inner.position(record);
            let known = self.inner.versions().zip(position);
            let version = known.and_then(|(versions, position)| versions.version(shape.relation.oid, position));
            let relation = format.plan(py, shape)?.relation.bind(py).clone();
            let position = position.map(|position| imports(py)?.position.bind(py).call1(position)).transpose()?;
            runs.push((at, relation, position, version));
        }
        Ok(runs)
    }

    fn split_at(&self, at: usize) -> (Self, Self) {
        let (before, rest) = self.inner.split_at(at);
        (self.cut(before), self.cut(rest))
    }

    fn after(&self, position: (u64, i64)) -> Self {
        self.cut(self.inner.after(position))
    }

    fn up_to(&self, position: (u64, i64)) -> Self {
        self.cut(self.inner.up_to(position))
    }

    #[staticmethod]
    fn truncation(py: Python<'_>, relations: &Bound<'_, PyAny>, lsn: u64) -> PyResult<Self> {
        let shapes = relations.try_iter()?.map(|one| shape_of(py, &one?)).collect::<PyResult<Vec<_>>>()?;
        let mut builder = Builder::default();
        let truncate = Message::Truncate {
            xid: None,
            cascade: false,
            restart_identity: false,
            relation_oids: shapes.iter().map(|shape| shape.relation.oid).collect(),
        };
        if truncate.encode(builder.bytes_mut()).is_err() {
            return Err(config_error(py, "more relations than one Truncate can name"));
        }
        let place = Place {
            truncated: shapes.into_iter().map(Some).collect(),
            transaction: Some(Transaction { commit_lsn: lsn, commit_time: None, xid: None, previous_end_lsn: None }),
            index: Some(SNAPSHOT_INDEX),
            ..Place::default()
        };
        builder.push_written(0, &place);
        Ok(builder.finish().into())
    }

    /// Several batches as one.
    #[staticmethod]
    #[pyo3(signature = (batches, *, alike=false))]
    fn concat(batches: &Bound<'_, PyAny>, alike: bool) -> PyResult<Self> {
        let py = batches.py();
        let mut builder = if alike { Builder::of_alike() } else { Builder::default() };
        let (mut format, mut keys) = (None, None);
        let mut made = Vec::new();
        let mut without_versions = false;
        for batch in batches.try_iter()? {
            let batch = batch?;
            let batch = batch.cast::<Self>()?.get();
            let before = builder.count();
            builder.push_batch(&batch.inner);
            batch.add_made(py, &mut made, before);
            without_versions |= batch.inner.versions().is_none();
            format = format.or_else(|| batch.format.clone());
            keys = keys.or_else(|| batch.keys.clone());
        }
        let inner = builder.finish();
        if without_versions && inner.versions().is_some() {
            made.clear(); // events that were made without have none
        }
        Ok(Self { made: Arc::new(Mutex::new(made)), keys, ..Self::new(inner, format) })
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let mut bytes = Vec::new();
        let encoded = py.detach(|| self.inner.encode(&mut bytes));
        encoded.map_err(|error| config_error(py, &format!("the batch is too large to be one: {error}")))?;
        Ok(PyBytes::new(py, &bytes))
    }

    #[staticmethod]
    #[pyo3(signature = (data, format=None))]
    fn from_bytes(py: Python<'_>, data: &Bound<'_, PyAny>, format: Option<Py<RowFormat>>) -> PyResult<Self> {
        let bytes = Bytes::of(data)?;
        let bytes = bytes.as_slice();
        let parsed = py.detach(|| batch::Batch::parse(bytes)).map_err(|error| batch_error(py, error))?;
        Ok(Self::new(parsed, format.map(Arc::new)))
    }

    /// Messages that are in hand already, as one batch.
    #[staticmethod]
    #[pyo3(signature = (messages, lsns=None))]
    fn of(messages: &Bound<'_, PyAny>, lsns: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        Ok(formats::batch_of(&mut Session::default(), messages, lsns)?.into())
    }

    #[pyo3(
        signature = (envelope=Asked::plain(), *, catalog=None),
        text_signature = "($self, envelope='plain', *, catalog=None)"
    )]
    #[allow(clippy::needless_pass_by_value, reason = "what Python hands over")]
    fn to_json<'py>(
        &self,
        py: Python<'py>,
        envelope: Asked<'py>,
        catalog: Option<&Bound<'py, TypeCatalog>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let written =
            || formats::to_json(py, &self.inner, &envelope, self.catalog(py, catalog).as_ref().map(Bound::get));
        if catalog.is_some() || !envelope.is_plain() {
            return written();
        }
        // Locked while they are written: who asks meanwhile waits for them, as it would take as long to write them, too.
        let mut lines = self.lines.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        if let Some(lines) = &*lines {
            return Ok(lines.bind(py).clone());
        }
        let new = written()?;
        *lines = Some(new.clone().unbind());
        Ok(new)
    }

    #[pyo3(
        signature = (values=Asked::plain(), *, key=None, tombstones=true, catalog=None),
        text_signature = "($self, values='plain', *, key=None, tombstones=True, catalog=None)"
    )]
    #[allow(clippy::needless_pass_by_value, reason = "what Python hands over")]
    fn records<'py>(
        &self,
        py: Python<'py>,
        values: Asked<'py>,
        key: Option<&Bound<'py, PyAny>>,
        tombstones: bool,
        catalog: Option<&Bound<'py, TypeCatalog>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let catalog = self.catalog(py, catalog);
        records::records(
            py,
            &self.inner,
            &values,
            (self.primary_keys(py), key),
            tombstones,
            catalog.as_ref().map(Bound::get),
        )
    }

    #[pyo3(signature = (*, text=None, catalog=None))]
    fn to_arrow<'py>(
        &self,
        py: Python<'py>,
        text: Option<&Bound<'py, PyAny>>,
        catalog: Option<&Bound<'py, TypeCatalog>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        arrow::to_arrow(py, &self.inner, text, self.catalog(py, catalog).as_ref().map(Bound::get))
    }
}
