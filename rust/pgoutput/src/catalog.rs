//! What is known of the types that PostgreSQL's own catalog does not fix, by OID: enums, domains, arrays, ranges,
//! composites, and the types of some extensions.
use std::collections::HashMap;
use std::sync::Arc;

use crate::oid::{Array, Composite, Field, Kind, Scalar, Width, builtin};

/// What one type is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    /// A domain over another type.
    Domain {
        /// The OID of the type it is over.
        base: u32,
        /// The modifier of that type, -1 when it has none.
        modifier: i32,
    },
    /// An array.
    Array {
        /// The OID of its elements' type.
        element: u32,
        /// What is between two elements in the text form.
        delimiter: u8,
    },
    /// An enum, whose binary form is its label.
    Enum,
    /// A range.
    Range {
        /// The OID of the type of its bounds.
        subtype: u32,
    },
    /// A multirange.
    Multirange {
        /// The OID of the type of its ranges.
        range: u32,
    },
    /// A composite type.
    Composite {
        /// Its name.
        name: String,
        /// The name and the OID of the type of each attribute that was not dropped.
        fields: Vec<(Vec<u8>, u32)>,
    },
    /// A type of an extension.
    Extension(Kind),
}

impl Definition {
    /// What a type of an extension is, by the name it has there; None where nothing is known of it.
    pub fn extension(name: &str) -> Option<Self> {
        Some(Self::Extension(match name {
            "hstore" => Kind::Hstore,
            "citext" => Kind::Scalar(Scalar::Text),
            "ltree" | "lquery" | "ltxtquery" => Kind::Scalar(Scalar::Versioned),
            "cube" => Kind::Scalar(Scalar::Cube),
            "vector" => Kind::Floats(Width::Single),
            "halfvec" => Kind::Floats(Width::Half),
            "sparsevec" => Kind::Scalar(Scalar::SparseVector),
            "geometry" | "geography" => Kind::Scalar(Scalar::Ewkb),
            _ => return None,
        }))
    }
}

/// The definitions of types.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    definitions: HashMap<u32, Definition>,
}

/// Domains over domains, arrays of composites: deeper than anybody nests them.
const DEEPEST: usize = 32;
/// What a type may be made of in all: a bound for entries that name each other many times over.
const LARGEST: usize = 100_000;

/// A type that is being looked up, so that no circle of wrong entries goes on for ever, or one that was.
enum Seen {
    Open,
    Done(Kind, usize),
}

impl Catalog {
    /// Say what one type is.
    pub fn add(&mut self, oid: u32, definition: Definition) {
        self.definitions.insert(oid, definition);
    }

    /// What one type was said to be.
    pub fn definition(&self, oid: u32) -> Option<&Definition> {
        self.definitions.get(&oid)
    }

    /// The type that a domain is over in the end, and the modifier of that; any other type and its modifier as they are.
    pub fn base(&self, oid: u32, modifier: i32) -> (u32, i32) {
        let (mut oid, mut modifier) = (oid, modifier);
        for _ in 0..DEEPEST {
            let Some(Definition::Domain { base, modifier: of_base }) = self.definitions.get(&oid) else { break };
            // A domain over a domain has no modifier of its own.
            (oid, modifier) = (*base, *of_base);
        }
        (oid, modifier)
    }

    /// What the bytes of a type are; `Opaque` too where one of its parts is.
    pub fn kind(&self, oid: u32) -> Kind {
        match self.definitions.get(&oid) {
            None => builtin(oid),
            Some(_) => self.resolve(oid, DEEPEST, &mut HashMap::new()).map_or(Kind::Opaque, |(kind, _)| kind),
        }
    }

    /// The kind and how many parts it has; None where one of them is not known.
    fn resolve(&self, oid: u32, depth: usize, seen: &mut HashMap<u32, Seen>) -> Option<(Kind, usize)> {
        let depth = depth.checked_sub(1)?;
        let Some(definition) = self.definitions.get(&oid) else {
            return Some(builtin(oid)).filter(|kind| *kind != Kind::Opaque).map(|kind| (kind, 1));
        };
        match seen.get(&oid) {
            Some(Seen::Open) => return None,
            Some(Seen::Done(kind, size)) => return Some((kind.clone(), *size)),
            None => {}
        }
        seen.insert(oid, Seen::Open);
        let (kind, size) = match definition {
            Definition::Enum => (Kind::Scalar(Scalar::Text), 1),
            Definition::Extension(kind) => (kind.clone(), 1),
            Definition::Domain { base, .. } => self.resolve(*base, depth, seen)?,
            Definition::Array { element, delimiter } => {
                let (element, size) = self.resolve(*element, depth, seen)?;
                (Kind::Array(Arc::new(Array { element, delimiter: *delimiter })), size.saturating_add(1))
            }
            Definition::Range { subtype } => {
                let (subtype, size) = self.resolve(*subtype, depth, seen)?;
                (Kind::Range(Arc::new(subtype)), size.saturating_add(1))
            }
            Definition::Multirange { range } => match self.resolve(*range, depth, seen)? {
                (Kind::Range(subtype), size) => (Kind::Multirange(subtype), size),
                _ => return None,
            },
            Definition::Composite { name, fields } => {
                let (mut kinds, mut size) = (Vec::with_capacity(fields.len()), 1_usize);
                for (name, type_oid) in fields {
                    let (kind, parts) = self.resolve(*type_oid, depth, seen)?;
                    size = size.saturating_add(parts);
                    kinds.push(Field { name: name.clone(), type_oid: *type_oid, kind });
                }
                (Kind::Composite(Arc::new(Composite { name: name.clone(), fields: kinds })), size)
            }
        };
        if size > LARGEST {
            return None;
        }
        seen.insert(oid, Seen::Done(kind.clone(), size));
        Some((kind, size))
    }
}
