//! What the bytes of PostgreSQL's types are, and which of its own types has which OID (those below 10,000 never change).
//!
//! Source: server file `catalog/pg_type.dat`.
mod types;

use std::sync::Arc;

/// What the bytes of a single value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// `bool`
    Bool,
    /// `int2`
    Int2,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `oid`, `xid`, `cid`
    Oid,
    /// `xid8`
    Xid8,
    /// `pg_lsn`
    Lsn,
    /// `float4`
    Float4,
    /// `float8`
    Float8,
    /// `numeric`
    Numeric,
    /// `money`
    Money,
    /// `text`, `varchar`, `bpchar`, `name`, `citext`, `xml`, `refcursor`, and the labels of enums
    Text,
    /// `jsonpath`, `ltree`, `lquery`, `ltxtquery`: text, in binary after the version 1
    Versioned,
    /// `"char"`: one byte
    Char,
    /// `bytea`
    Bytea,
    /// `geometry` and `geography` of the extension postgis: EWKB, as text in hexadecimal
    Ewkb,
    /// `date`
    Date,
    /// `time`
    Time,
    /// `timetz`
    TimeTz,
    /// `timestamp`
    Timestamp,
    /// `timestamptz`
    TimestampTz,
    /// `interval`
    Interval,
    /// `uuid`
    Uuid,
    /// `json`
    Json,
    /// `jsonb`
    Jsonb,
    /// `inet`
    Inet,
    /// `cidr`
    Cidr,
    /// `macaddr`
    MacAddr,
    /// `macaddr8`
    MacAddr8,
    /// `bit`, `varbit`
    Bits,
    /// `point`, `line`, `lseg`, `box`, `path`, `polygon`, `circle`
    Shape(Shape),
    /// `cube`
    Cube,
    /// `tid`
    Tid,
    /// `pg_snapshot`, `txid_snapshot`
    Snapshot,
    /// `tsvector`
    TsVector,
    /// `tsquery`
    TsQuery,
    /// `sparsevec` of pgvector
    SparseVector,
}

/// The geometric types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// `point`
    Point,
    /// `line`
    Line,
    /// `lseg`
    Lseg,
    /// `box`
    Box,
    /// `path`
    Path,
    /// `polygon`
    Polygon,
    /// `circle`
    Circle,
}

/// How wide each number of a pgvector vector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// `halfvec`: 16 bits
    Half,
    /// `vector`: 32 bits
    Single,
}

/// What the bytes of a column are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One value.
    Scalar(Scalar),
    /// An array of any number of dimensions.
    Array(Arc<Array>),
    /// `int2vector`, `oidvector`: in binary an array, as text numbers with spaces between them.
    Numbers(Scalar),
    /// `vector`, `halfvec` of pgvector.
    Floats(Width),
    /// A range of this.
    Range(Arc<Kind>),
    /// A multirange of ranges of this.
    Multirange(Arc<Kind>),
    /// A composite type.
    Composite(Arc<Composite>),
    /// `hstore`
    Hstore,
    /// A type that nothing is known of, or that holds such a type: given as it was sent.
    Opaque,
}

/// What an array holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Array {
    /// Each element.
    pub element: Kind,
    /// What is between two elements in the text form.
    pub delimiter: u8,
}

/// A composite type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Composite {
    /// Its name.
    pub name: String,
    /// Its attributes without those that were dropped.
    pub fields: Vec<Field>,
}

/// An attribute of a composite type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Its name, in the stream's encoding.
    pub name: Vec<u8>,
    /// The OID of its type.
    pub type_oid: u32,
    /// What its bytes are.
    pub kind: Kind,
}

impl Kind {
    /// An array of these, with commas between them (semicolons between boxes).
    pub fn array(self) -> Self {
        let delimiter = if self == Self::Scalar(Scalar::Shape(Shape::Box)) { b';' } else { b',' };
        Self::Array(Arc::new(Array { element: self, delimiter }))
    }
}

/// How the table of types says what one is.
#[derive(Clone, Copy, Debug)]
enum Builtin {
    Scalar(Scalar),
    Numbers(Scalar),
    Range(Scalar),
    Multirange(Scalar),
}

impl From<Builtin> for Kind {
    fn from(builtin: Builtin) -> Self {
        match builtin {
            Builtin::Scalar(scalar) => Self::Scalar(scalar),
            Builtin::Numbers(scalar) => Self::Numbers(scalar),
            Builtin::Range(subtype) => Self::Range(Arc::new(Self::Scalar(subtype))),
            Builtin::Multirange(subtype) => Self::Multirange(Arc::new(Self::Scalar(subtype))),
        }
    }
}

/// What a type of PostgreSQL's own catalog is; `Opaque` for those that have no value in common in their two forms.
pub fn builtin(oid: u32) -> Kind {
    types::TYPES
        .iter()
        .find_map(|&(own, array, builtin)| match oid {
            _ if oid == own => Some(builtin.into()),
            _ if oid == array && oid != 0 => Some(Kind::from(builtin).array()),
            _ => None,
        })
        .unwrap_or(Kind::Opaque)
}
