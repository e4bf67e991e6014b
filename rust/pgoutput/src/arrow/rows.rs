//! Rows of one table in one shape, on their way into columns: cells wait, and go there column by column.
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_array::StructArray;
use arrow_buffer::NullBufferBuilder;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields};

use super::column::Column;
use super::place::Place;
use super::plan::Plan;
use super::run::Run;
use super::{Part, record_batch};
use crate::catalog::Catalog;
use crate::json::Scratch;
use crate::relation::Relation;
use crate::row::{Cell, Cells, NOT_WHOLE, Refused};
use crate::tuple::{Datum, Tuple};
use crate::value::{Format, Invalid};

/// `schema.table`; a name with a full stop or quote in it is quoted, so that no two tables are called the same.
fn table_name(relation: &Relation) -> String {
    [&relation.schema, &relation.name].map(|name| quoted(name)).join(".")
}

fn quoted(name: &[u8]) -> String {
    let name = readable(name);
    if name.contains(['.', '"']) { format!("\"{}\"", name.replace('"', "\"\"")) } else { name }
}

/// A name as Arrow wants it: bytes that are not UTF-8 are written out as `\xf6`.
fn readable(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// The name of a column of ours: with underscores in front until the table has none of that name.
fn own(name: &str, relation: &Relation) -> String {
    let mut name = name.to_owned();
    while relation.columns.iter().any(|column| column.name == name.as_bytes()) {
        name.insert(0, '_');
    }
    name
}

/// How many cells wait for their columns, or else one row: they stay in the processor's second cache.
const MOST_CELLS: usize = 4096;

/// Rows of one table in one shape, being filled.
pub struct Rows<'a> {
    /// The table's name.
    pub table: String,
    fields: Vec<FieldRef>,
    /// The names as they go into `_unset`.
    names: Vec<String>,
    plans: Vec<Plan>,
    /// The numbers of the columns that `_old` has.
    keys: Vec<usize>,
    pub(super) action: Column,
    pub(super) place: Place,
    unset: Column,
    /// How many rows at the end have all their columns, which is not written into `unset` yet.
    complete: usize,
    old: Vec<Column>,
    has_old: NullBufferBuilder,
    /// How many rows at the end have no old key, which is not written into `old` yet.
    without_old: usize,
    columns: Vec<Column>,
    /// Row by row the cells that are not in `columns` yet: they go there column by column, each in a loop of its own.
    waiting: Vec<Cell<'a>>,
}

impl<'a> Rows<'a> {
    /// None so far, with room for so many.
    pub fn new(relation: &Relation, catalog: &Catalog, text: &BTreeSet<String>, room: usize, checked: bool) -> Self {
        let table = table_name(relation);
        let names: Vec<String> = relation.columns.iter().map(|column| readable(&column.name)).collect();
        let plan = |(column, name): (&crate::relation::Column, &String)| {
            let as_text = !text.is_empty() && text.contains(&format!("{table}.{}", quoted(&column.name)));
            Plan::new(name, catalog.kind(column.type_oid), column.type_modifier, as_text)
        };
        let plans: Vec<Plan> = relation.columns.iter().zip(&names).map(plan).collect();
        let keys: Vec<usize> = relation
            .columns
            .iter()
            .enumerate()
            .filter_map(|(number, column)| column.is_key.then_some(number))
            .collect();
        let names_type = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let field = |name, data_type, nullable| Arc::new(Field::new(own(name, relation), data_type, nullable));
        let mut fields = Vec::with_capacity(plans.len().saturating_add(6));
        fields.push(field("_action", DataType::Utf8, false));
        fields.extend(Place::types().map(|(name, data_type)| field(name, data_type, true)));
        fields.push(field("_unset", names_type.clone(), false));
        let old: Vec<&Plan> = keys.iter().filter_map(|&number| plans.get(number)).collect();
        if !old.is_empty() {
            let key_fields: Fields = old.iter().map(|plan| Arc::clone(&plan.field)).collect();
            fields.push(field("_old", DataType::Struct(key_fields), true));
        }
        fields.extend(plans.iter().map(|plan| Arc::clone(&plan.field)));
        let column = |plan: &Plan| Column::of(&plan.field, room, checked);
        Self {
            table,
            fields,
            names,
            action: Column::new(&DataType::Utf8, room, false),
            place: Place::new(room),
            unset: Column::new(&names_type, room, false),
            complete: 0,
            old: old.into_iter().map(column).collect(),
            has_old: NullBufferBuilder::new(room),
            without_old: 0,
            columns: plans.iter().map(column).collect(),
            waiting: Vec::with_capacity(room.saturating_mul(plans.len()).min(MOST_CELLS)),
            plans,
            keys,
        }
    }

    pub fn is_like(&self, other: &Self) -> bool {
        self.fields == other.fields && self.plans == other.plans && self.keys == other.keys
    }

    /// The columns of the table, and the names of those that were not sent; without cells there is no row.
    #[inline]
    pub fn push(&mut self, cells: Option<Cells<'a>>, scratch: &mut Scratch) -> Result<(), Refused> {
        let width = self.plans.len();
        if self.waiting.len().saturating_add(width) > MOST_CELLS {
            self.flush(scratch)?;
        }
        let Some(cells) = cells else {
            // A truncate has no row: the names of all columns would say no more, and be many bytes for few.
            self.waiting.resize(self.waiting.len().saturating_add(width), Cell::Unset);
            self.complete = self.complete.saturating_add(1);
            return Ok(());
        };
        let again = cells.clone();
        let mut missing = false;
        let waiting = &mut self.waiting;
        waiting.reserve(width);
        let is_whole = cells.each(|_, cell| {
            missing |= matches!(cell, Cell::Unset);
            waiting.push(cell);
            Ok::<(), Refused>(())
        })?;
        if !is_whole {
            return Err(NOT_WHOLE);
        }
        if !missing {
            self.complete = self.complete.saturating_add(1);
            return Ok(());
        }
        let mut cells = again;
        self.push_unset(|_| cells.next() == Some(Cell::Unset))
    }

    /// A row with nothing of the old one beside it, not walked yet.
    #[inline]
    pub fn push_new(&mut self, row: Tuple<'a>, scratch: &mut Scratch) -> Result<(), Refused> {
        let width = self.plans.len();
        if self.waiting.len().saturating_add(width) > MOST_CELLS {
            self.flush(scratch)?;
        }
        let start = self.waiting.len();
        // Room for all of them at once: asked for cell by cell it costs as much as the cells.
        self.waiting.resize(start.saturating_add(width), Cell::Unset);
        let mut columns = row.columns();
        let mut missing = false;
        for place in self.waiting.get_mut(start..).unwrap_or_default() {
            *place = match columns.next() {
                Some(Datum::Binary(bytes)) => Cell::Value(Format::Binary, bytes),
                Some(Datum::Text(bytes)) => Cell::Value(Format::Text, bytes),
                Some(Datum::Null) => Cell::Null,
                Some(Datum::Unchanged) => {
                    missing = true;
                    continue;
                }
                None => return Err(NOT_WHOLE),
            };
        }
        if row.len() != width || !columns.is_at_end() {
            return Err(NOT_WHOLE);
        }
        if missing {
            let mut columns = row.columns();
            self.push_unset(|_| columns.next() == Some(Datum::Unchanged))?;
        } else {
            self.complete = self.complete.saturating_add(1);
        }
        self.without_old = self.without_old.saturating_add(1);
        Ok(())
    }

    /// Put the cells that wait into their columns.
    pub fn flush(&mut self, scratch: &mut Scratch) -> Result<(), Refused> {
        let width = self.plans.len();
        for (number, (plan, column)) in self.plans.iter().zip(&mut self.columns).enumerate() {
            let refused = |invalid: Invalid| Refused::Value { reason: invalid.0, column: number, offset: 0 };
            column.push_all(plan, Run::new(&self.waiting, number, width), scratch).map_err(refused)?;
        }
        self.waiting.clear();
        Ok(())
    }

    /// Likewise, but cell by cell, so that an error is the first that there is.
    pub fn push_checked(
        &mut self,
        cells: Option<Cells<'a>>,
        message: &[u8],
        scratch: &mut Scratch,
    ) -> Result<(), Refused> {
        let mut seen = cells.clone();
        for (number, (plan, column)) in self.plans.iter().zip(&mut self.columns).enumerate() {
            match seen.as_mut().and_then(Iterator::next) {
                Some(Cell::Value(format, bytes)) => column
                    .push(plan, format, bytes, scratch)
                    .map_err(|invalid| Refused::value(invalid, number, bytes, message))?,
                _ => column.push_null(),
            }
        }
        let Some(mut cells) = cells else {
            self.complete = self.complete.saturating_add(1);
            return Ok(());
        };
        self.push_unset(|_| cells.next() == Some(Cell::Unset))
    }

    /// The names of the columns that a row does not have.
    fn push_unset(&mut self, mut is_unset: impl FnMut(usize) -> bool) -> Result<(), Refused> {
        self.flush_unset();
        let Self { names, unset, .. } = self;
        let pushed = unset.push_list(|items| {
            for (number, name) in names.iter().enumerate() {
                if is_unset(number) {
                    items.push_bytes(name.as_bytes())?;
                }
            }
            Ok(())
        });
        pushed.map_err(|invalid| Refused::Value { reason: invalid.0, column: usize::MAX, offset: 0 })
    }

    fn flush_unset(&mut self) {
        self.unset.push_empty_lists(std::mem::take(&mut self.complete));
    }

    #[inline]
    pub fn push_old(&mut self, cells: Option<Cells<'_>>, message: &[u8], scratch: &mut Scratch) -> Result<(), Refused> {
        let Some(cells) = cells else {
            self.without_old = self.without_old.saturating_add(1);
            return Ok(());
        };
        if self.keys.is_empty() {
            return Ok(());
        }
        self.flush_old();
        self.has_old.append_non_null();
        let mut wanted = self.keys.iter().zip(&mut self.old).peekable();
        for (number, (cell, plan)) in cells.zip(&self.plans).enumerate() {
            let Some((_, column)) = wanted.next_if(|(key, _)| **key == number) else { continue };
            match cell {
                Cell::Value(format, bytes) => column
                    .push(plan, format, bytes, scratch)
                    .map_err(|invalid| Refused::value(invalid, number, bytes, message))?,
                Cell::Null | Cell::Unset => column.push_null(),
            }
        }
        Ok(())
    }

    fn flush_old(&mut self) {
        let count = std::mem::take(&mut self.without_old);
        if count > 0 {
            self.has_old.append_n_nulls(count);
            self.old.iter_mut().for_each(|column| column.push_nulls(count));
        }
    }

    pub fn finish(mut self) -> Result<Part, ArrowError> {
        debug_assert!(self.waiting.is_empty(), "the cells that waited are in their columns");
        self.flush_unset();
        self.flush_old();
        let rows = self.action.len();
        let mut arrays = vec![self.action.finish()?];
        arrays.extend(self.place.finish()?);
        arrays.push(self.unset.finish()?);
        if !self.keys.is_empty() {
            let fields: Fields = self
                .keys
                .iter()
                .filter_map(|&number| self.plans.get(number))
                .map(|plan| Arc::clone(&plan.field))
                .collect();
            let old = self.old.into_iter().map(Column::finish).collect::<Result<_, _>>()?;
            arrays.push(Arc::new(StructArray::try_new(fields, old, { self.has_old }.finish())?));
        }
        for column in self.columns {
            arrays.push(column.finish()?);
        }
        record_batch(self.table, self.fields, arrays, rows)
    }
}
