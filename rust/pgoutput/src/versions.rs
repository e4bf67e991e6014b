//! Which version of a relation's shape was in force where.
use std::collections::HashMap;

use crate::batch::Position;

/// One version of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its number.
    pub version: u32,
    /// The first position that it is in force at; None: whatever comes before the next.
    pub from: Option<Position>,
    /// The first position of the next one; None for the last.
    pub until: Option<Position>,
}

impl Span {
    /// Whether it is in force at a position.
    pub fn contains(&self, position: Position) -> bool {
        self.from.is_none_or(|from| from <= position) && self.until.is_none_or(|until| position < until)
    }
}

/// The versions of all relations by OID, in the order of their first positions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Versions {
    by_relation: HashMap<u32, Vec<(Position, u32)>>,
}

impl Versions {
    /// From the first position and the number of each, in any order.
    pub fn new(by_relation: impl IntoIterator<Item = (u32, Vec<(Position, u32)>)>) -> Self {
        let sorted = |(oid, mut versions): (u32, Vec<(Position, u32)>)| {
            versions.sort_unstable();
            (oid, versions)
        };
        Self { by_relation: by_relation.into_iter().map(sorted).collect() }
    }

    /// The version in force at a position. What comes before the first that is known has that one, too.
    pub fn span(&self, oid: u32, position: Position) -> Option<Span> {
        let versions = self.by_relation.get(&oid)?;
        let next = versions.partition_point(|&(from, _)| from <= position);
        let until = versions.get(next.max(1)).map(|&(from, _)| from);
        let (from, version) = *versions.get(next.saturating_sub(1))?;
        Some(Span { version, from: (next > 1).then_some(from), until })
    }

    /// Its number.
    pub fn version(&self, oid: u32, position: Position) -> Option<u32> {
        Some(self.span(oid, position)?.version)
    }
}
