//! JSON taken apart again, one level deep: for targets that keep a row as fields, and where a row is put together from two.
//!
//! PostgreSQL's `json` holds what other parsers refuse, half of a surrogate pair; and bytes that are no UTF-8 are written
//! as such halves.
use std::borrow::Cow;

use memchr::{memchr, memmem};

use super::text::string_end;

/// Characters, of which most stand in the row as they are.
pub type Text<'a> = Cow<'a, [u8]>;
/// A column's name, and its value: the characters of a string, other values as they stand there, None for null.
pub type Field<'a> = (Text<'a>, Option<Text<'a>>);

/// The members of a JSON object in its order, each with its name and its value as it stands there; None where it is none.
///
/// Of nested values only the end is looked for: who wrote them has looked at the rest.
///
/// Source: RFC 8259.
pub fn members(object: &[u8]) -> Option<Vec<(Text<'_>, &[u8])>> {
    listed(object, (b"{", b"}"), |rest| {
        let (name, after) = string(rest.strip_prefix(b"\"")?)?;
        let (value, after) = value(after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())?;
        Some(((name, value), after))
    })
}

/// Likewise the items of an array.
pub fn items(array: &[u8]) -> Option<Vec<&[u8]>> {
    listed(array, (b"[", b"]"), value)
}

/// The fields of a row.
///
/// A lone surrogate `\udc80` to `\udcff` becomes the byte that it stands for (see [`super::text::string`]), another one
/// its three bytes.
pub fn fields(row: &[u8]) -> Option<Vec<Field<'_>>> {
    members(row)?.into_iter().map(field).collect()
}

fn field<'a>((name, value): (Text<'a>, &'a [u8])) -> Option<Field<'a>> {
    match value {
        b"null" => Some((name, None)),
        [b'"', rest @ ..] => string(rest).map(|(text, _)| (name, Some(text))),
        _ => Some((name, Some(Cow::Borrowed(value)))),
    }
}

/// What stands between two brackets, separated by commas. `one` reads one of them, and gives what follows it.
fn listed<'a, T>(
    text: &'a [u8],
    (open, close): (&[u8], &[u8]),
    one: impl Fn(&'a [u8]) -> Option<(T, &'a [u8])>,
) -> Option<Vec<T>> {
    let mut found = Vec::new();
    let mut rest = text.trim_ascii().strip_prefix(open)?.trim_ascii_start();
    if rest == close {
        return Some(found);
    }
    loop {
        let (next, after) = one(rest)?;
        found.push(next);
        rest = match after.trim_ascii_start() {
            after if after == close => return Some(found),
            [b',', after @ ..] => after.trim_ascii_start(),
            _ => return None,
        };
    }
}

/// A value as it stands there, and what follows it.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let after = match text.first()? {
        b'"' => string_end(text.get(1..)?)?,
        b'{' | b'[' => nested_end(text)?,
        _ => {
            let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
            text.get(text.iter().position(ends)?..)?
        }
    };
    let value = before(text, after)?;
    (!value.is_empty()).then_some((value, after))
}

/// What of a text is before its end.
fn before<'a>(text: &'a [u8], end: &[u8]) -> Option<&'a [u8]> {
    text.get(..text.len().checked_sub(end.len())?)
}

/// What follows an object or an array.
fn nested_end(text: &[u8]) -> Option<&[u8]> {
    let mut depth = 0_usize;
    let mut rest = text;
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'"' => rest = string_end(rest)?,
            b'{' | b'[' => depth = depth.checked_add(1)?,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => continue,
        }
        if depth == 0 {
            return Some(rest);
        }
    }
}

/// A string whose first quote was read, and what follows it.
fn string(text: &[u8]) -> Option<(Text<'_>, &[u8])> {
    let after = string_end(text)?;
    let written = before(text, after)?.strip_suffix(b"\"")?;
    let characters = match memchr(b'\\', written) {
        None => Cow::Borrowed(written),
        Some(_) => Cow::Owned(unescaped(written)?),
    };
    Some((characters, after))
}

fn unescaped(written: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(written.len());
    let mut rest = written;
    while let Some(at) = memchr(b'\\', rest) {
        let (plain, escape) = rest.split_at_checked(at)?;
        out.extend_from_slice(plain);
        let (&kind, after) = escape.get(1..)?.split_first()?;
        rest = after;
        match kind {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => rest = code_unit(&mut out, after)?,
            byte => out.push(byte),
        }
    }
    out.extend_from_slice(rest);
    Some(out)
}

/// What `\u` begins; gives what follows it, and its other half.
fn code_unit<'a>(out: &mut Vec<u8>, digits: &'a [u8]) -> Option<&'a [u8]> {
    let (first, after) = four_digits(digits)?;
    let second = after.strip_prefix(b"\\u").and_then(four_digits);
    let (units, after) = match second {
        Some((second, after)) if is_high(first) && is_low(second) => (vec![first, second], after),
        _ => (vec![first], after),
    };
    match (String::from_utf16(&units), first) {
        (Ok(text), _) => out.extend_from_slice(text.as_bytes()),
        (Err(_), 0xdc80..=0xdcff) => out.push(first.to_be_bytes()[1]),
        (Err(_), _) => out.extend_from_slice(&three_bytes(first)),
    }
    Some(after)
}

fn is_high(unit: u16) -> bool {
    (0xd800..=0xdbff).contains(&unit)
}

fn is_low(unit: u16) -> bool {
    (0xdc00..=0xdfff).contains(&unit)
}

/// How UTF-8 would have a number of 16 bits that is no character.
fn three_bytes(unit: u16) -> [u8; 3] {
    let [high, low] = unit.to_be_bytes();
    [0xe0 | high >> 4, 0x80 | (high & 0x0f) << 2 | low >> 6, 0x80 | low & 0x3f]
}

fn four_digits(text: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, after) = text.split_first_chunk::<4>()?;
    let number = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((number, after))
}

/// Whether there is half of a surrogate pair in a JSON text: PostgreSQL's `json` takes it, as its parser looks at an escape's
/// digits only.
///
/// Source: PostgreSQL manual, "JSON Types".
pub fn has_half_a_pair(text: &[u8]) -> bool {
    // Most texts have no such escape at all, and two looks for it cost less than one at each backslash.
    if memmem::find(text, b"\\ud").is_none() && memmem::find(text, b"\\uD").is_none() {
        return false;
    }
    let mut rest = text;
    while let Some(at) = memchr(b'\\', rest) {
        rest = match rest.get(at.saturating_add(1)..) {
            Some([b'u', digits @ ..]) => match four_digits(digits) {
                Some((unit, after)) if is_high(unit) => match after.strip_prefix(b"\\u").and_then(four_digits) {
                    Some((low, after)) if is_low(low) => after,
                    _ => return true,
                },
                Some((unit, _)) if is_low(unit) => return true,
                Some((_, after)) => after,
                None => digits,
            },
            Some([_, after @ ..]) => after,
            _ => return false,
        };
    }
    false
}
