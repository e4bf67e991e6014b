//! A row of JSON taken apart again: names and values as text, for targets that keep a row as fields.
use std::borrow::Cow;

use memchr::memchr;

use super::text::string_end;

/// Characters, of which most stand in the row as they are.
pub type Text<'a> = Cow<'a, [u8]>;
/// A column's name, and its value: the characters of a string, other values as they stand there, None for null.
pub type Field<'a> = (Text<'a>, Option<Text<'a>>);

/// The fields of a JSON object, in its order; None where it is none.
///
/// Of nested values only the end is looked for: who wrote the row has looked at the rest. A lone surrogate `\udc80` to
/// `\udcff` becomes the byte that it stands for (see [`super::text::string`]), another one its three bytes.
///
/// Source: RFC 8259.
pub fn fields(row: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    let mut rest = row.trim_ascii().strip_prefix(b"{")?.trim_ascii_start();
    if rest == b"}" {
        return Some(fields);
    }
    loop {
        let (name, after) = string(rest.strip_prefix(b"\"")?)?;
        let (value, after) = value(after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())?;
        fields.push((name, value));
        rest = match after.trim_ascii_start() {
            b"}" => return Some(fields),
            [b',', after @ ..] => after.trim_ascii_start(),
            _ => return None,
        };
    }
}

/// A value, and what follows it.
fn value(text: &[u8]) -> Option<(Option<Text<'_>>, &[u8])> {
    let after = match text.first()? {
        b'"' => return string(text.get(1..)?).map(|(value, after)| (Some(value), after)),
        b'{' | b'[' => nested_end(text)?,
        _ => {
            let ends = |byte: &u8| matches!(byte, b',' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
            text.get(text.iter().position(ends)?..)?
        }
    };
    match before(text, after)? {
        b"" => None,
        b"null" => Some((None, after)),
        value => Some((Some(Cow::Borrowed(value)), after)),
    }
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
        Some((second, after)) if is_high(first) && (0xdc00..=0xdfff).contains(&second) => (vec![first, second], after),
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
