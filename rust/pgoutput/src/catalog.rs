//! What is known of the types that users made: domains, enums and their arrays, by OID.
use std::collections::HashMap;

use crate::oid::{Kind, Scalar, builtin};

/// What one user-defined type is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Definition {
    /// A domain over another type.
    Domain {
        /// The OID of the type it is over.
        base: u32,
    },
    /// An array.
    Array {
        /// The OID of its elements' type.
        element: u32,
    },
    /// An enum, whose binary form is its label.
    Enum,
}

/// The definitions of user-defined types.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    definitions: HashMap<u32, Definition>,
}

/// Domains over domains, arrays of domains: deeper than anybody nests them, and an end for a circle of wrong entries.
const DEEPEST: usize = 32;

impl Catalog {
    /// Say what one type is.
    pub fn add(&mut self, oid: u32, definition: Definition) {
        self.definitions.insert(oid, definition);
    }

    /// What the bytes of a type are.
    pub fn kind(&self, oid: u32) -> Kind {
        self.resolve(oid, DEEPEST)
    }

    fn resolve(&self, oid: u32, depth: usize) -> Kind {
        let Some(depth) = depth.checked_sub(1) else { return Kind::Opaque };
        match self.definitions.get(&oid) {
            None => builtin(oid),
            Some(Definition::Enum) => Kind::Scalar(Scalar::Text),
            Some(Definition::Domain { base }) => self.resolve(*base, depth),
            Some(Definition::Array { element }) => match self.resolve(*element, depth) {
                Kind::Scalar(scalar) => Kind::Array(scalar),
                Kind::Array(_) | Kind::Opaque => Kind::Opaque, // an array of a domain over an array: given as sent
            },
        }
    }
}
