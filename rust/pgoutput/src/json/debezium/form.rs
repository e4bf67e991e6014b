//! What Debezium makes of each type, chosen once for a column.
//!
//! Source: Debezium's documentation of its connector for PostgreSQL, "Data type mappings".
use super::base64::base64;
use super::decimal::Decimal;
use super::moment::Moment;
use super::{Decimals, Options, Times};
use crate::catalog::Catalog;
use crate::json::text::string;
use crate::json::{Scratch, plain, write_value};
use crate::oid::{Kind, Scalar};
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
    /// A JSON document, as a string.
    Document(Scalar),
    /// `bytea` in Base64.
    Bytes,
    /// `numeric`.
    Decimal(Decimal),
    /// Dates and times.
    Moment(Moment),
    /// A list.
    Array {
        /// Each element.
        element: Box<Form>,
        /// What is between two elements in the text form.
        delimiter: u8,
        /// What it is in plain lines, where those have the same elements.
        plain: Option<Kind>,
    },
    /// A type that Debezium does not know: its text in Base64.
    Unknown,
}

/// The types of PostgreSQL's own catalog that are given as text, as PostgreSQL prints them.
const TEXTUAL: [u32; 12] = [869, 650, 829, 774, 3904, 3926, 3906, 3912, 3908, 3910, 142, 3614];

/// Whether Debezium knows nothing of a type, or does not get on with it.
fn is_foreign(type_oid: u32) -> bool {
    type_oid < 16384 && !TEXTUAL.contains(&type_oid)
}

/// Whether this is a type that has a form of its own here, or an array of such.
fn is_everyday(kind: &Kind) -> bool {
    use Scalar::{
        Bool, Bytea, Char, Date, Float4, Float8, Int2, Int4, Int8, Json, Jsonb, Numeric, Oid, Text, Time, TimeTz,
        Timestamp, TimestampTz, Uuid,
    };
    match kind {
        Kind::Scalar(
            Bool | Bytea | Char | Date | Float4 | Float8 | Int2 | Int4 | Int8 | Json | Jsonb | Numeric | Oid | Text
            | Time | TimeTz | Timestamp | TimestampTz | Uuid,
        ) => true,
        Kind::Array(array) => is_everyday(&array.element),
        _ => false,
    }
}

/// An array of names, which Debezium leaves out.
const NAMES: u32 = 1003;

impl Form {
    /// How a column of this type is written; None when it is left out.
    pub fn of(type_oid: u32, modifier: i32, catalog: &Catalog, options: &Options) -> Option<Self> {
        match catalog.kind(type_oid) {
            Kind::Array(_) if type_oid == NAMES && !options.unknown => None,
            kind if is_foreign(type_oid) && !is_everyday(&kind) => options.unknown.then_some(Self::Unknown),
            kind => Some(Self::of_kind(kind, modifier, options)),
        }
    }

    fn of_kind(kind: Kind, modifier: i32, options: &Options) -> Self {
        match kind {
            Kind::Scalar(scalar) => Self::of_scalar(scalar, modifier, options),
            Kind::Array(array) => {
                let element = Box::new(Self::of_kind(array.element.clone(), modifier, options));
                let delimiter = array.delimiter;
                let plain = matches!(*element, Self::Plain(_)).then_some(Kind::Array(array));
                Self::Array { element, delimiter, plain }
            }
            kind => Self::Plain(kind),
        }
    }

    fn of_scalar(scalar: Scalar, modifier: i32, options: &Options) -> Self {
        let adaptive = options.times == Times::Adaptive;
        let milliseconds = (0..=3).contains(&modifier);
        Self::Moment(match scalar {
            Scalar::Bytea => return Self::Bytes,
            Scalar::Json | Scalar::Jsonb => return Self::Document(scalar),
            Scalar::Numeric if options.decimals == Decimals::Text => return Self::Decimal(Decimal::Text),
            Scalar::Numeric => return Self::Decimal(Decimal::of_modifier(modifier)),
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
                Value::Json(text) => {
                    string(out, text);
                    Ok(())
                }
                _ => Err(Invalid("not JSON")),
            },
            Self::Bytes => match decode(Scalar::Bytea, format, bytes, &mut scratch.value)? {
                Value::Bytes(bytes) => {
                    base64(out, &bytes);
                    Ok(())
                }
                _ => Err(Invalid("not a bytea")),
            },
            Self::Array { element, delimiter, plain } => {
                if let Some(plain) = plain
                    && format == Format::Binary
                    && plain::write(out, plain, bytes, scratch)
                {
                    return Ok(());
                }
                element.write_array(out, *delimiter, format, bytes, scratch)
            }
            Self::Unknown => {
                base64(out, bytes);
                Ok(())
            }
        }
    }

    /// Lists in lists, as the dimensions are. Where they begin to count is not said.
    fn write_array(
        &self,
        out: &mut Vec<u8>,
        delimiter: u8,
        format: Format,
        bytes: &[u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let start = out.len();
        let is_flat = match format {
            Format::Binary => matches!(bytes, [0, 0, 0, 0 | 1, ..]),
            Format::Text => !matches!(bytes, [b'[', ..] | [b'{', b'{', ..]),
        };
        let mut ends = Vec::new();
        out.push(b'[');
        let dimensions = array::decode(delimiter, format, bytes, |element| {
            if out.len() > start.saturating_add(1) {
                out.push(b',');
            }
            match element {
                Some(bytes) => self.write(out, format, bytes, scratch)?,
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

    /// Write what stands for a value that was not sent. Debezium has null, which says something else, where its schema has
    /// no room for words.
    pub fn write_unavailable(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bytes | Self::Unknown => base64(out, UNAVAILABLE),
            Self::Array { element, .. } => {
                out.push(b'[');
                match &**element {
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
