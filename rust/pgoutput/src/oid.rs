//! What the bytes of PostgreSQL's own types are, by the types' OIDs, which never change.
//!
//! Source: server file `catalog/pg_type.dat`.

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
    /// `oid`
    Oid,
    /// `float4`
    Float4,
    /// `float8`
    Float8,
    /// `numeric`
    Numeric,
    /// `text`, `varchar`, `bpchar`, `name`, and the labels of enums
    Text,
    /// `"char"`: one byte
    Char,
    /// `bytea`
    Bytea,
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
    /// `uuid`
    Uuid,
    /// `json`
    Json,
    /// `jsonb`
    Jsonb,
}

/// What the bytes of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One value.
    Scalar(Scalar),
    /// An array of any number of dimensions.
    Array(Scalar),
    /// A type that nothing is known of: given as it was sent.
    Opaque,
}

/// The type OID, its array's OID, and what it is.
const TYPES: [(u32, u32, Scalar); 22] = [
    (16, 1000, Scalar::Bool),
    (17, 1001, Scalar::Bytea),
    (18, 1002, Scalar::Char),
    (19, 1003, Scalar::Text), // name
    (20, 1016, Scalar::Int8),
    (21, 1005, Scalar::Int2),
    (23, 1007, Scalar::Int4),
    (25, 1009, Scalar::Text),
    (26, 1028, Scalar::Oid),
    (114, 199, Scalar::Json),
    (700, 1021, Scalar::Float4),
    (701, 1022, Scalar::Float8),
    (1042, 1014, Scalar::Text), // bpchar
    (1043, 1015, Scalar::Text), // varchar
    (1082, 1182, Scalar::Date),
    (1083, 1183, Scalar::Time),
    (1114, 1115, Scalar::Timestamp),
    (1184, 1185, Scalar::TimestampTz),
    (1266, 1270, Scalar::TimeTz),
    (1700, 1231, Scalar::Numeric),
    (2950, 2951, Scalar::Uuid),
    (3802, 3807, Scalar::Jsonb),
];

/// What a type of PostgreSQL's own catalog is; `Opaque` for those that this crate does not decode.
pub fn builtin(oid: u32) -> Kind {
    TYPES
        .iter()
        .find_map(|&(own, array, scalar)| match oid {
            _ if oid == own => Some(Kind::Scalar(scalar)),
            _ if oid == array => Some(Kind::Array(scalar)),
            _ => None,
        })
        .unwrap_or(Kind::Opaque)
}
