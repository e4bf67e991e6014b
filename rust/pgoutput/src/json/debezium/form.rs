//! What Debezium makes of each type, chosen once for a column.
//!
//! Source: Debezium's documentation of its connector for PostgreSQL, "Data type mappings".
use super::base64::base64;
use super::decimal::Decimal;
use super::moment::Moment;
use super::rare;
use super::{Decimals, Options, Times};
use crate::catalog::{Catalog, Definition};
use crate::json::text::{escaped, string};
use crate::json::{Scratch, plain, write_value};
use crate::oid::{Kind, Scalar, Shape};
use crate::value::array::{self, Dimension};
use crate::value::{Format, Invalid, Result, Value, decode};

/// The value in the place of one that was not sent because it is stored out of line and was not changed.
const UNAVAILABLE: &[u8] = b"__debezium_unavailable_value";
/// What Java's `UUID.nameUUIDFromBytes` makes of that.
const UNAVAILABLE_UUID: &[u8] = b"\"b68a35a7-17ad-35b3-af2a-ae46edb4545a\"";

/// How the values of a column are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// As in plain lines.
    Plain(Kind),
    /// A string: what PostgreSQL prints.
    Printed(Kind),
    /// A type that Debezium does not know: what PostgreSQL prints, in Base64.
    Unknown(Kind),
    /// A JSON document, as a string.
    Document(Scalar),
    /// `bytea` in Base64.
    Bytes,
    /// `numeric`.
    Decimal(Decimal),
    /// `money`, as a `numeric` of two digits.
    Money(Decimal),
    /// Dates and times.
    Moment(Moment),
    /// `interval`: microseconds.
    Interval,
    /// `bit(1)`.
    Bit,
    /// `bit` and `varbit`: their bytes in Base64, the lowest first.
    Bits,
    /// `point`.
    Point,
    /// `geometry` and `geography` of the extension postgis.
    Geometry,
    /// `hstore`: a JSON object, as a string.
    Hstore,
    /// A list.
    Array(Box<List>),
}

/// What an array is written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    element: Form,
    /// What is between two elements in the text form.
    delimiter: u8,
    /// The array's kind where elements are written as in plain lines.
    plain: Option<Kind>,
}

/// Types of PostgreSQL's own that Debezium does not know although their bytes are those of one that it knows.
mod unknown {
    pub const XID: u32 = 28;
    pub const CID: u32 = 29;
    pub const NODE_TREE: u32 = 194;
    pub const REFCURSOR: u32 = 1790;
    pub const JSONPATH: u32 = 4072;
    /// Arrays that it leaves out, asked for or not: of names, xml, points, money, intervals and varbit.
    pub const ARRAYS: [u32; 6] = [1003, 143, 1017, 791, 1187, 1563];
    /// Arrays of the types above.
    pub const OTHER_ARRAYS: [u32; 4] = [1011, 1012, 2201, 4073];
}

const BIT: u32 = 1560;
const BITS: u32 = 1561;

/// Whether Debezium knows a type.
fn is_known(type_oid: u32, kind: &Kind, catalog: &Catalog) -> bool {
    use unknown::{ARRAYS, CID, JSONPATH, NODE_TREE, OTHER_ARRAYS, REFCURSOR, XID};
    match kind {
        Kind::Array(array) => {
            // Of a domain it knows the values, but not arrays of them.
            let element = match catalog.definition(type_oid) {
                Some(Definition::Array { element, .. }) => Some(*element),
                _ => None,
            };
            let of_domain =
                element.is_some_and(|oid| matches!(catalog.definition(oid), Some(Definition::Domain { .. })));
            !of_domain
                && !ARRAYS.contains(&type_oid)
                && !OTHER_ARRAYS.contains(&type_oid)
                && is_known(element.unwrap_or(0), &array.element, catalog)
        }
        Kind::Scalar(scalar) => !matches!(
            (type_oid, scalar),
            (XID | CID | NODE_TREE | REFCURSOR | JSONPATH, _)
                | (
                    _,
                    Scalar::Xid8
                        | Scalar::Lsn
                        | Scalar::Tid
                        | Scalar::Snapshot
                        | Scalar::TsQuery
                        | Scalar::Cube
                        | Scalar::Shape(
                            Shape::Line | Shape::Lseg | Shape::Box | Shape::Path | Shape::Polygon | Shape::Circle
                        )
                )
        ),
        // Those of its own; of ranges that users made it knows nothing.
        Kind::Range(_) => type_oid < 16384,
        Kind::Numbers(_) | Kind::Floats(_) | Kind::Hstore => true,
        Kind::Multirange(_) | Kind::Composite(_) => false,
        // What users made and the catalog does not know may well be an enum.
        Kind::Opaque => type_oid >= 16384,
    }
}

impl Form {
    /// How a column of this type is written; None when it is left out.
    pub fn of(type_oid: u32, modifier: i32, catalog: &Catalog, options: &Options) -> Option<Self> {
        let (type_oid, modifier) = catalog.base(type_oid, modifier);
        let kind = catalog.kind(type_oid);
        let is_known = is_known(type_oid, &kind, catalog);
        if !is_known && !options.unknown {
            return None;
        }
        Some(match kind {
            // What it leaves out in any case is written as its elements are.
            Kind::Array(array) if is_known || unknown::ARRAYS.contains(&type_oid) => {
                let of = if type_oid == BITS { BIT } else { 0 };
                let element = Self::of_kind(array.element.clone(), of, modifier, options);
                let delimiter = array.delimiter;
                let plain = matches!(element, Self::Plain(_)).then_some(Kind::Array(array));
                Self::Array(Box::new(List { element, delimiter, plain }))
            }
            Kind::Array(array) => {
                let (element, delimiter) = (Self::Unknown(array.element.clone()), array.delimiter);
                Self::Array(Box::new(List { element, delimiter, plain: None }))
            }
            kind if is_known => Self::of_kind(kind, type_oid, modifier, options),
            kind => Self::Unknown(kind),
        })
    }

    fn of_kind(kind: Kind, type_oid: u32, modifier: i32, options: &Options) -> Self {
        match kind {
            Kind::Scalar(scalar) => Self::of_scalar(scalar, type_oid, modifier, options),
            Kind::Range(_) => Self::Printed(kind),
            Kind::Hstore => Self::Hstore,
            kind => Self::Plain(kind),
        }
    }

    fn of_scalar(scalar: Scalar, type_oid: u32, modifier: i32, options: &Options) -> Self {
        let adaptive = options.times == Times::Adaptive;
        let milliseconds = (0..=3).contains(&modifier);
        let decimal = |precise: Decimal| if options.decimals == Decimals::Text { Decimal::Text } else { precise };
        Self::Moment(match scalar {
            Scalar::Bytea => return Self::Bytes,
            Scalar::Json | Scalar::Jsonb => return Self::Document(scalar),
            Scalar::Numeric => return Self::Decimal(decimal(Decimal::of_modifier(modifier))),
            Scalar::Money => return Self::Money(decimal(Decimal::Fixed(2))),
            Scalar::Interval => return Self::Interval,
            Scalar::Bits if type_oid == BIT && modifier == 1 => return Self::Bit,
            Scalar::Bits => return Self::Bits,
            Scalar::Shape(Shape::Point) => return Self::Point,
            Scalar::Ewkb => return Self::Geometry,
            Scalar::Date if adaptive => Moment::Days,
            Scalar::Date => Moment::DateText,
            Scalar::Time if adaptive && milliseconds => Moment::TimeMilliseconds,
            Scalar::Time if adaptive => Moment::TimeMicroseconds,
            Scalar::Time => Moment::TimeText,
            Scalar::Timestamp if adaptive && milliseconds => Moment::Milliseconds,
            Scalar::Timestamp if adaptive => Moment::Microseconds,
            Scalar::Timestamp => Moment::TimestampText,
            Scalar::TimestampTz => Moment::TimestampTz(usize::try_from(modifier).unwrap_or(6)),
            Scalar::TimeTz => Moment::TimeTz,
            Scalar::Inet | Scalar::Cidr | Scalar::MacAddr | Scalar::MacAddr8 | Scalar::TsVector => {
                return Self::Printed(Kind::Scalar(scalar));
            }
            _ => return Self::Plain(Kind::Scalar(scalar)),
        })
    }

    /// Write a value.
    ///
    /// # Errors
    /// When the bytes are not a value of the type. Something may have been written then.
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
        match self {
            Self::Plain(kind) => {
                if format == Format::Binary && plain::write(out, kind, bytes, scratch) {
                    return Ok(());
                }
                write_value(out, kind, format, bytes, scratch)
            }
            Self::Decimal(decimal) => decimal.write(out, format, bytes, scratch),
            Self::Moment(moment) => moment.write(out, format, bytes, scratch),
            Self::Document(scalar) => match decode(*scalar, format, bytes, &mut scratch.value)? {
                // Nearly all have quotes.
                Value::Json(text) if scratch.is_utf8_later => {
                    out.push(b'"');
                    escaped(out, text);
                    out.push(b'"');
                    Ok(())
                }
                Value::Json(text) => {
                    string(out, text);
                    Ok(())
                }
                _ => Err(Invalid("not JSON")),
            },
            Self::Array(list) => list.write(out, format, bytes, scratch),
            other => other.write_rare(out, format, bytes, scratch),
        }
    }

    /// Out of the way of the types that every table has.
    #[inline(never)]
    fn write_rare(&self, out: &mut Vec<u8>, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
        match self {
            Self::Printed(kind) => rare::printed(out, kind, format, bytes, string),
            Self::Unknown(kind) => rare::printed(out, kind, format, bytes, base64),
            Self::Bytes => rare::bytes(out, format, bytes, scratch),
            Self::Money(decimal) => rare::money(out, *decimal, format, bytes, scratch),
            Self::Interval => rare::interval(out, format, bytes, scratch),
            Self::Bit => rare::bit(out, format, bytes, scratch),
            Self::Bits => rare::bits(out, format, bytes, scratch),
            Self::Point => rare::point(out, format, bytes, scratch),
            Self::Geometry => rare::geometry(out, format, bytes, scratch),
            Self::Hstore => rare::hstore(out, format, bytes),
            everyday => everyday.write(out, format, bytes, scratch),
        }
    }

    /// Write what stands for a value that was not sent. Debezium has null, which says something else, where its schema has
    /// no room for words.
    pub fn write_unavailable(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bytes | Self::Unknown(_) | Self::Bits => base64(out, UNAVAILABLE),
            Self::Hstore => {
                let mut object = b"{".to_vec();
                string(&mut object, UNAVAILABLE);
                object.push(b':');
                string(&mut object, UNAVAILABLE);
                object.push(b'}');
                string(out, &object);
            }
            Self::Array(list) => {
                out.push(b'[');
                match &list.element {
                    Self::Plain(Kind::Scalar(Scalar::Uuid)) => out.extend_from_slice(UNAVAILABLE_UUID),
                    element if element.is_number() => {
                        for (number, byte) in UNAVAILABLE.iter().enumerate() {
                            if number > 0 {
                                out.push(b',');
                            }
                            out.extend_from_slice(itoa::Buffer::new().format(*byte).as_bytes());
                        }
                    }
                    element => element.write_unavailable(out),
                }
                out.push(b']');
            }
            _ => string(out, UNAVAILABLE),
        }
    }

    /// Whether a list of these has the words' bytes as numbers.
    fn is_number(&self) -> bool {
        use Scalar::{Float4, Float8, Int2, Int4, Int8, Oid};
        matches!(
            self,
            Self::Plain(Kind::Scalar(Int2 | Int4 | Int8 | Oid | Float4 | Float8))
                | Self::Interval
                | Self::Moment(
                    Moment::Days
                        | Moment::TimeMilliseconds
                        | Moment::TimeMicroseconds
                        | Moment::Milliseconds
                        | Moment::Microseconds
                )
        )
    }
}

impl List {
    /// Lists in lists, as the dimensions are. Where they begin to count is not said.
    fn write(&self, out: &mut Vec<u8>, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
        if let Some(kind) = &self.plain
            && format == Format::Binary
            && plain::write(out, kind, bytes, scratch)
        {
            return Ok(());
        }
        let start = out.len();
        let is_flat = match format {
            Format::Binary => matches!(bytes, [0, 0, 0, 0 | 1, ..]),
            Format::Text => !matches!(bytes, [b'[', ..] | [b'{', b'{', ..]),
        };
        let mut ends = Vec::new();
        out.push(b'[');
        let dimensions = array::decode(self.delimiter, format, bytes, |element| {
            if out.len() > start.saturating_add(1) {
                out.push(b',');
            }
            match element {
                Some(bytes) => self.element.write(out, format, bytes, scratch)?,
                None => out.extend_from_slice(b"null"),
            }
            if !is_flat {
                ends.push(out.len());
            }
            Ok::<(), Invalid>(())
        })?;
        if dimensions.as_slice().len() > 1 {
            let flat = out.split_off(start);
            let mut ends = ends.iter();
            let mut at = start;
            // Each element has a bracket or a comma in front of it.
            let mut elements = std::iter::from_fn(|| {
                let end = *ends.next()?;
                let element = flat.get(at.saturating_sub(start).saturating_add(1)..end.saturating_sub(start));
                at = end;
                element
            });
            nest(out, dimensions.as_slice(), &mut elements);
        } else {
            out.push(b']');
        }
        Ok(())
    }
}

fn nest<'a>(out: &mut Vec<u8>, dimensions: &[Dimension], elements: &mut impl Iterator<Item = &'a [u8]>) {
    let Some((dimension, inner)) = dimensions.split_first() else {
        out.extend_from_slice(elements.next().unwrap_or_default());
        return;
    };
    out.push(b'[');
    for number in 0..dimension.length {
        if number > 0 {
            out.push(b',');
        }
        nest(out, inner, elements);
    }
    out.push(b']');
}
