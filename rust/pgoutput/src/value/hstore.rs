//! hstore: keys, each with a value or NULL.
//!
//! Source: `contrib/hstore/hstore_io.c`, functions `hstore_out`, `hstore_send`.
use std::borrow::Cow;

use super::{Format, Invalid, Result};
use crate::cursor::Cursor;

const MALFORMED: Invalid = Invalid("not an hstore");

/// Read one, handing its pairs over in order; a value of None is NULL.
///
/// # Errors
/// When it is not one; or what `pair` returned.
pub fn decode<E: From<Invalid>>(
    format: Format,
    bytes: &[u8],
    mut pair: impl FnMut(&[u8], Option<&[u8]>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    match format {
        Format::Binary => {
            let cut = |_| Invalid("not a whole hstore");
            let mut cursor = Cursor::new(bytes);
            let count = cursor.u32("number of pairs").map_err(cut)?;
            for _ in 0..count {
                let key = cursor.sized("key").map_err(cut)?;
                let start = cursor;
                if cursor.i32("value").map_err(cut)? == -1 {
                    pair(key, None)?;
                } else {
                    cursor = start;
                    pair(key, Some(cursor.sized("value").map_err(cut)?))?;
                }
            }
            Ok(cursor.finish("hstore").map_err(cut)?)
        }
        Format::Text => {
            let mut rest = bytes;
            while !rest.is_empty() {
                let key = string(&mut rest)?;
                rest = rest.strip_prefix(b"=>").ok_or(MALFORMED)?;
                if let Some(after) = rest.strip_prefix(b"NULL") {
                    rest = after;
                    pair(&key, None)?;
                } else {
                    let value = string(&mut rest)?;
                    pair(&key, Some(&value))?;
                }
                rest = match rest.strip_prefix(b", ") {
                    Some(after) if !after.is_empty() => after,
                    None if rest.is_empty() => break,
                    _ => return Err(MALFORMED.into()),
                };
            }
            Ok(())
        }
    }
}

/// A quoted string at the beginning of some text, which then begins after it.
fn string<'a>(rest: &mut &'a [u8]) -> Result<Cow<'a, [u8]>> {
    // Nothing ends a part that is not quoted, so there is none.
    let part = if rest.starts_with(b"\"") { super::quoted::part(rest, |_| false) } else { None };
    part.flatten().ok_or(MALFORMED)
}

/// Write one pair as hstore prints it.
pub fn print(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    string_out(out, key);
    out.extend_from_slice(b"=>");
    match value {
        Some(value) => string_out(out, value),
        None => out.extend_from_slice(b"NULL"),
    }
}

fn string_out(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for &byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}
