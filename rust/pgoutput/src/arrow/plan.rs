//! Which Arrow type a column has.
use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, TimeUnit};

use crate::oid::{Kind, Scalar, Width};

/// What one column of a table is in Arrow.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its name and type, shared with the schemas that it is in.
    pub field: FieldRef,
    /// What its bytes are.
    pub(super) kind: Kind,
    /// For a decimal, its scale.
    pub(super) scale: u8,
}

/// The precision and scale that a `numeric` column declares, where Arrow's decimal can hold all of its numbers.
fn decimal(type_modifier: i32) -> Option<(u8, u8)> {
    // Server macro make_numeric_typmod: precision in the upper half, scale in eleven bits, above VARHDRSZ.
    let packed = u32::try_from(type_modifier.checked_sub(4)?).ok()?;
    let (precision, scale) = (packed >> 16, packed & 0x7ff);
    let fits = (1..=38).contains(&precision) && scale <= precision;
    fits.then_some((u8::try_from(precision).ok()?, u8::try_from(scale).ok()?))
}

fn scalar_type(scalar: Scalar, type_modifier: i32) -> DataType {
    match scalar {
        Scalar::Bool => DataType::Boolean,
        Scalar::Int2 => DataType::Int16,
        Scalar::Int4 => DataType::Int32,
        Scalar::Int8 => DataType::Int64,
        Scalar::Oid => DataType::UInt32,
        Scalar::Xid8 | Scalar::Lsn => DataType::UInt64,
        Scalar::Float4 => DataType::Float32,
        Scalar::Float8 => DataType::Float64,
        Scalar::Numeric => match decimal(type_modifier) {
            Some((precision, scale)) => DataType::Decimal128(precision, i8::try_from(scale).unwrap_or(0)),
            None => DataType::Utf8,
        },
        Scalar::Money => DataType::Decimal128(19, 2),
        Scalar::Bytea | Scalar::Ewkb => DataType::Binary,
        Scalar::Date => DataType::Date32,
        Scalar::Time => DataType::Time64(TimeUnit::Microsecond),
        Scalar::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        Scalar::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Scalar::Uuid => DataType::FixedSizeBinary(16),
        _ => DataType::Utf8,
    }
}

/// What Arrow calls a type that it has no own one for, and where a field says so.
pub const JSON: &str = "arrow.json";
pub const EXTENSION: &str = "ARROW:extension:name";

fn extension(scalar: Scalar) -> HashMap<String, String> {
    let name = match scalar {
        Scalar::Uuid => "arrow.uuid",
        Scalar::Json | Scalar::Jsonb => JSON,
        _ => return HashMap::new(),
    };
    [(EXTENSION, name), ("ARROW:extension:metadata", "")].map(|(key, value)| (key.into(), value.into())).into()
}

fn field(name: &str, kind: &Kind, type_modifier: i32) -> Field {
    let list = |item: Field| Field::new(name, DataType::List(Arc::new(item)), true);
    match kind {
        Kind::Scalar(scalar) => {
            Field::new(name, scalar_type(*scalar, type_modifier), true).with_metadata(extension(*scalar))
        }
        Kind::Array(array) => list(field("item", &array.element, type_modifier)),
        Kind::Numbers(scalar) => list(Field::new("item", scalar_type(*scalar, -1), true)),
        Kind::Floats(Width::Half | Width::Single) => list(Field::new("item", DataType::Float32, true)),
        // As PostgreSQL prints them.
        Kind::Range(_) | Kind::Multirange(_) | Kind::Composite(_) | Kind::Hstore | Kind::Opaque => {
            Field::new(name, DataType::Utf8, true)
        }
    }
}

impl Plan {
    /// The type that a column has; `as_text` for strings whatever it is.
    pub fn new(name: &str, kind: Kind, type_modifier: i32, as_text: bool) -> Self {
        let scale = decimal(type_modifier).map_or(0, |(_, scale)| scale);
        let field = if as_text { Field::new(name, DataType::Utf8, true) } else { field(name, &kind, type_modifier) };
        Self { field: Arc::new(field), kind, scale }
    }
}
