//! Composite types: the bytes of their attributes, one after the other.
//!
//! Source: server functions `record_out`, `record_send`.
use super::{Format, Invalid};
use crate::cursor::Cursor;
use crate::oid::{Composite, Field};

const MALFORMED: Invalid = Invalid("not a composite value");
const COUNT: Invalid = Invalid("another number of attributes than its type has");

/// Read a composite value, handing over each attribute and its bytes in order; None is SQL NULL.
///
/// # Errors
/// When it is not one, or its attributes are others than those that are known of its type; or what `field` returned.
pub fn decode<E: From<Invalid>>(
    composite: &Composite,
    format: Format,
    bytes: &[u8],
    field: impl FnMut(&Field, Option<&[u8]>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    match format {
        Format::Binary => binary(composite, bytes, field),
        Format::Text => text(composite, bytes, field),
    }
}

fn binary<E: From<Invalid>>(
    composite: &Composite,
    bytes: &[u8],
    mut field: impl FnMut(&Field, Option<&[u8]>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let cut = |_| Invalid("not a whole composite value");
    let mut cursor = Cursor::new(bytes);
    let count = cursor.u32("number of attributes").map_err(cut)?;
    if usize::try_from(count).ok() != Some(composite.fields.len()) {
        return Err(COUNT.into());
    }
    for each in &composite.fields {
        if cursor.u32("attribute type OID").map_err(cut)? != each.type_oid {
            return Err(Invalid("an attribute of another type than its type has").into());
        }
        let start = cursor;
        if cursor.i32("attribute").map_err(cut)? == -1 {
            field(each, None)?;
        } else {
            cursor = start;
            field(each, Some(cursor.sized("attribute").map_err(cut)?))?;
        }
    }
    Ok(cursor.finish("composite").map_err(cut)?)
}

fn text<E: From<Invalid>>(
    composite: &Composite,
    bytes: &[u8],
    mut field: impl FnMut(&Field, Option<&[u8]>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut rest = bytes.strip_prefix(b"(").ok_or(MALFORMED)?;
    if composite.fields.is_empty() {
        return if rest == b")" { Ok(()) } else { Err(COUNT.into()) };
    }
    let last = composite.fields.len().saturating_sub(1);
    for (number, each) in composite.fields.iter().enumerate() {
        let part = super::quoted::part(&mut rest, |byte| matches!(byte, b',' | b')' | b'(')).ok_or(MALFORMED)?;
        field(each, part.as_deref())?;
        let end = if number == last { b')' } else { b',' };
        rest = match rest.split_first() {
            Some((&byte, after)) if byte == end => after,
            Some((b',' | b')', _)) => return Err(COUNT.into()),
            _ => return Err(MALFORMED.into()),
        };
    }
    if rest.is_empty() { Ok(()) } else { Err(MALFORMED.into()) }
}
