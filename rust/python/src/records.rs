//! `Records`: the changes of a batch with keys, for logs such as Kafka's.
use pgoutput::batch::{Batch, Position};
use pgoutput::json::records::{self, Item, Values, What};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::catalog::TypeCatalog;
use crate::construct;
use crate::debezium::Asked;
use crate::format::RowFormat;
use crate::formats::{keep, refused, take_kept};
use crate::json_rows::numbers;

fn word(py: Python<'_>, what: What) -> &Bound<'_, PyString> {
    match what {
        What::Row => intern!(py, "row"),
        What::Key => intern!(py, "key"),
        What::Truncate => intern!(py, "truncate"),
        What::Message => intern!(py, "message"),
        What::Tombstone => intern!(py, "tombstone"),
    }
}

/// The position as text and the schema version of a record, made anew only where they differ from the one before.
#[derive(Default)]
struct Places<'py> {
    position: Option<(Position, Bound<'py, PyBytes>)>,
}

impl<'py> Places<'py> {
    fn position(&mut self, py: Python<'py>, position: Option<Position>) -> Option<Bound<'py, PyBytes>> {
        let position = position?;
        match &self.position {
            Some((known, text)) if *known == position => Some(text.clone()),
            _ => {
                let text = PyBytes::new(py, &pgoutput::json::position_text(position));
                self.position = Some((position, text.clone()));
                Some(text)
            }
        }
    }
}

/// All changes of a batch as `(number, relation, what, key, value, position, version)`.
pub fn records<'py>(
    py: Python<'py>,
    batch: &Batch,
    values: &Asked<'_>,
    (primary_keys, key): (Option<&Bound<'py, PyAny>>, Option<&Bound<'py, PyAny>>),
    tombstones: bool,
    catalog: Option<&TypeCatalog>,
) -> PyResult<Bound<'py, PyList>> {
    let keys = numbers(py, batch, primary_keys, key)?;
    let none = TypeCatalog::default();
    let catalog = catalog.unwrap_or(&none);
    let write = |values: Values<'_>| {
        py.detach(|| catalog.read(|catalog| records::records(take_kept(), batch, catalog, values, &keys, tombstones)))
    };
    let made = match values {
        Asked::Name(name) if name == "batch" => write(Values::Batches),
        asked => asked.with(py, |envelope| Ok(write(Values::Json(envelope))))?,
    };
    let made = made.map_err(|failed| refused(py, batch, failed))?;
    let format = RowFormat::default(py)?.get();
    let mut relations = vec![None; batch.shapes().len()];
    for number in made.items.iter().filter_map(|item| item.shape) {
        if let (Some(relation @ None), Some(shape)) = (relations.get_mut(number), batch.shapes().get(number)) {
            *relation = Some(format.plan(py, shape)?.relation.bind(py).clone());
        }
    }
    // The number of each record among the changes.
    let mut number = 0_usize;
    let mut at = usize::MAX;
    let mut places = Places::default();
    let _pause = construct::CollectorPause::new(py);
    let list = PyList::empty(py);
    for item in &made.items {
        let Item { record, shape, what, key, value } = item;
        if at != usize::MAX && at != *record {
            number = number.saturating_add(1);
        }
        at = *record;
        let Some(record) = batch.records().get(*record) else { continue };
        let shape = shape.and_then(|number| Some((batch.shapes().get(number)?, relations.get(number)?.as_ref()?)));
        let position = batch.position(record);
        let version = batch
            .versions()
            .zip(position)
            .zip(shape)
            .and_then(|((versions, position), (shape, _))| versions.version(shape.relation.oid, position));
        let bytes = |all: &Vec<u8>, range: &Option<std::ops::Range<usize>>| {
            let found = range.clone().and_then(|range| all.get(range));
            found.map(|bytes| PyBytes::new(py, bytes))
        };
        let fields = (
            number,
            shape.map(|(_, relation)| relation),
            word(py, *what),
            bytes(&made.keys, key),
            bytes(&made.values, value),
            places.position(py, position),
            version,
        );
        list.append(<(_, _, _, _, _, _, _) as IntoPyObject>::into_pyobject(fields, py)?.cast_into::<PyTuple>()?)?;
    }
    keep(made.values);
    Ok(list)
}
