//! Ranges and multiranges of any type: whether they are empty, and the bytes of their bounds.
//!
//! Source: server functions `range_out`, `range_send`, `multirange_out`, `multirange_send`.
use std::borrow::Cow;

use super::{Format, Invalid, Result};
use crate::cursor::Cursor;

/// A range whose bounds are still bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range<'a> {
    /// The lower bound, where there is one.
    pub lower: Option<Cow<'a, [u8]>>,
    /// The upper bound, where there is one.
    pub upper: Option<Cow<'a, [u8]>>,
    /// `(` or `[`
    pub open: u8,
    /// `)` or `]`
    pub close: u8,
}

impl Range<'_> {
    /// `"[)"` and so on.
    pub fn bounds(&self) -> &'static str {
        match (self.open, self.close) {
            (b'[', b']') => "[]",
            (b'[', _) => "[)",
            (_, b']') => "(]",
            _ => "()",
        }
    }
}

const MALFORMED: Invalid = Invalid("not a range");

/// Read a range; None when it is empty.
///
/// # Errors
/// When it is not one. The bounds are not looked at.
pub fn decode(format: Format, bytes: &[u8]) -> Result<Option<Range<'_>>> {
    match format {
        Format::Binary => binary(bytes),
        Format::Text => {
            let mut rest = bytes;
            let range = text(&mut rest)?;
            if rest.is_empty() { Ok(range) } else { Err(MALFORMED) }
        }
    }
}

fn binary(bytes: &[u8]) -> Result<Option<Range<'_>>> {
    const EMPTY: u8 = 0x01;
    const LOWER_INCLUDED: u8 = 0x02;
    const UPPER_INCLUDED: u8 = 0x04;
    const NO_LOWER: u8 = 0x08;
    const NO_UPPER: u8 = 0x10;
    let cut = |_| Invalid("not a whole range");
    let mut cursor = Cursor::new(bytes);
    let flags = cursor.u8("flags").map_err(cut)?;
    if flags & !(EMPTY | LOWER_INCLUDED | UPPER_INCLUDED | NO_LOWER | NO_UPPER) != 0 {
        return Err(Invalid("unknown range flags"));
    }
    if flags & EMPTY != 0 {
        cursor.finish("range").map_err(cut)?;
        return Ok(None);
    }
    let mut bound = |none: u8| match flags & none {
        0 => cursor.sized("bound").map(|bytes| Some(Cow::Borrowed(bytes))).map_err(cut),
        _ => Ok(None),
    };
    let (lower, upper) = (bound(NO_LOWER)?, bound(NO_UPPER)?);
    cursor.finish("range").map_err(cut)?;
    let open = if flags & LOWER_INCLUDED != 0 && lower.is_some() { b'[' } else { b'(' };
    let close = if flags & UPPER_INCLUDED != 0 && upper.is_some() { b']' } else { b')' };
    Ok(Some(Range { lower, upper, open, close }))
}

/// One range at the beginning of some text, which then begins after it.
fn text<'a>(rest: &mut &'a [u8]) -> Result<Option<Range<'a>>> {
    if let Some(after) = rest.strip_prefix(b"empty") {
        *rest = after;
        return Ok(None);
    }
    let open = one(rest, b"[(")?;
    let lower = bound(rest)?;
    one(rest, b",")?;
    let upper = bound(rest)?;
    let close = one(rest, b"])")?;
    if lower.is_none() && open == b'[' || upper.is_none() && close == b']' {
        return Err(MALFORMED);
    }
    Ok(Some(Range { lower, upper, open, close }))
}

/// The first byte of some text, which then begins after it.
fn one(rest: &mut &[u8], choices: &[u8]) -> Result<u8> {
    let (&first, after) = rest.split_first().filter(|(first, _)| choices.contains(first)).ok_or(MALFORMED)?;
    *rest = after;
    Ok(first)
}

/// A bound; None where there is none.
fn bound<'a>(rest: &mut &'a [u8]) -> Result<Option<Cow<'a, [u8]>>> {
    super::quoted::part(rest, |byte| matches!(byte, b',' | b']' | b')' | b'[' | b'(')).ok_or(MALFORMED)
}

/// Read a multirange, handing its ranges over in order; None is an empty one, which the server never writes.
///
/// # Errors
/// When it is not one; or what `range` returned.
pub fn decode_multirange<E: From<Invalid>>(
    format: Format,
    bytes: &[u8],
    mut range: impl FnMut(Option<Range<'_>>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    const MALFORMED: Invalid = Invalid("not a multirange");
    match format {
        Format::Binary => {
            let cut = |_| Invalid("not a whole multirange");
            let mut cursor = Cursor::new(bytes);
            let count = cursor.u32("number of ranges").map_err(cut)?;
            for _ in 0..count {
                range(binary(cursor.sized("range").map_err(cut)?)?)?;
            }
            Ok(cursor.finish("multirange").map_err(cut)?)
        }
        Format::Text => {
            let inner = bytes.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")).ok_or(MALFORMED)?;
            let mut rest = inner;
            while !rest.is_empty() {
                range(text(&mut rest)?)?;
                rest = match rest.split_first() {
                    Some((b',', after)) if !after.is_empty() => after,
                    None => break,
                    _ => return Err(MALFORMED.into()),
                };
            }
            Ok(())
        }
    }
}
