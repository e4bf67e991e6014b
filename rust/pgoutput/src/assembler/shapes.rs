//! The shapes of tables that one open transaction uses: each once, by its bytes, and what they take.
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::mem::size_of;
use std::sync::Arc;

use crate::relation::Column;
use crate::session::Shape;

/// What a shape takes besides its bytes, columns and names: places in tables of relations, and counts, in bytes.
const PLACES: usize = 192;
/// What a piece of memory takes besides what is in it, in bytes.
const PIECE: usize = 16;

/// Equal when the bytes of the message are.
#[derive(Debug)]
struct ByBytes(Arc<Shape>);

impl PartialEq for ByBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for ByBytes {}

impl Hash for ByBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.bytes.hash(state);
    }
}

/// Shapes by number, from 1.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    all: Vec<Arc<Shape>>,
    numbers: HashMap<ByBytes, usize>,
    /// The place of a table's newest shape, so that its rows need not compare bytes.
    newest: HashMap<u32, usize>,
    memory: usize,
}

/// What a shape takes in memory, in bytes.
fn size(shape: &Shape) -> usize {
    let of = &shape.relation;
    let names = of.columns.iter().map(|column| column.name.capacity().saturating_add(PIECE));
    let names = names.fold(of.schema.capacity().saturating_add(of.name.capacity()), usize::saturating_add);
    let columns = of.columns.capacity().saturating_mul(size_of::<Column>());
    [size_of::<Shape>(), PLACES, shape.bytes.len(), columns].into_iter().fold(names, usize::saturating_add)
}

impl Shapes {
    /// What they take in memory, in bytes.
    pub fn memory(&self) -> usize {
        self.memory
    }

    pub fn get(&self, number: u32) -> Option<&Arc<Shape>> {
        self.all.get(usize::try_from(number).ok()?.checked_sub(1)?)
    }

    /// The number of a shape; 0 for one that was not seen.
    pub fn number(&mut self, shape: Option<&Arc<Shape>>) -> u32 {
        shape.map_or(0, |shape| u32::try_from(self.place(shape).saturating_add(1)).unwrap_or(0))
    }

    /// The shape that is kept for one that says the same.
    pub fn same(&mut self, shape: &Arc<Shape>) -> Arc<Shape> {
        let at = self.place(shape);
        self.all.get(at).map_or_else(|| Arc::clone(shape), Arc::clone)
    }

    fn place(&mut self, shape: &Arc<Shape>) -> usize {
        let oid = shape.relation.oid;
        if let Some(&at) = self.newest.get(&oid)
            && self.all.get(at).is_some_and(|newest| Arc::ptr_eq(newest, shape))
        {
            return at;
        }
        let next = self.all.len();
        let at = *self.numbers.entry(ByBytes(Arc::clone(shape))).or_insert(next);
        if at == next {
            self.all.push(Arc::clone(shape));
            self.memory = self.memory.saturating_add(size(shape));
        }
        self.newest.insert(oid, at);
        at
    }
}
