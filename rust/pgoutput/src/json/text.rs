//! Characters: JSON strings, hexadecimal, and JSON that is embedded as it is.
use crate::value::Invalid;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn digit(nibble: u8) -> u8 {
    DIGITS.get(usize::from(nibble & 15)).copied().unwrap_or(b'0')
}

fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

/// A string with its quotes.
///
/// A byte that is not UTF-8 becomes the lone surrogate `\udc80` to `\udcff`, as Python's surrogateescape has it.
pub fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len().saturating_add(2));
    out.push(b'"');
    // Without an early exit, so that the compiler looks at many bytes at once.
    if bytes.iter().fold(true, |simple, &byte| simple & is_plain(byte) & byte.is_ascii()) {
        out.extend_from_slice(bytes);
    } else if let Ok(text) = std::str::from_utf8(bytes) {
        escaped(out, text.as_bytes());
    } else {
        for chunk in bytes.utf8_chunks() {
            escaped(out, chunk.valid().as_bytes());
            foreign(out, chunk.invalid());
        }
    }
    out.push(b'"');
}

fn foreign(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        out.extend_from_slice(b"\\udc");
        hexadecimal(out, &[byte]);
    }
}

fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    if text.iter().fold(true, |plain, &byte| plain & is_plain(byte)) {
        out.extend_from_slice(text);
        return;
    }
    for &byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                hexadecimal(out, &[byte]);
            }
            _ => out.push(byte),
        }
    }
}

/// Two digits for each byte.
pub fn hexadecimal(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len().saturating_mul(2));
    for &byte in bytes {
        out.extend_from_slice(&[digit(byte >> 4), digit(byte)]);
    }
}

/// A string as PostgreSQL prints bytea: `"\\x00ff"`.
pub fn bytea(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(b"\"\\\\x");
    hexadecimal(out, bytes);
    out.push(b'"');
}

/// A number in upper-case hexadecimal, of at least so many digits.
pub fn upper_hexadecimal(out: &mut Vec<u8>, number: u64, width: usize) {
    let mut digits = [b'0'; 16];
    for ([high, low], byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
        (*high, *low) = (digit(byte >> 4).to_ascii_uppercase(), digit(byte).to_ascii_uppercase());
    }
    let zeros = usize::try_from(number.leading_zeros() / 4).unwrap_or(0);
    out.extend_from_slice(digits.get(zeros.min(digits.len().saturating_sub(width))..).unwrap_or_default());
}

/// JSON text as it is, but that a line break between its parts becomes a space, and a byte that is not UTF-8 becomes a
/// lone surrogate.
///
/// # Errors
/// When it is not one whole JSON value.
pub fn embed(out: &mut Vec<u8>, json: &[u8], stack: &mut Vec<u8>) -> Result<(), Invalid> {
    check(json, stack).ok_or(Invalid("not JSON"))?;
    let start = out.len();
    if std::str::from_utf8(json).is_ok() {
        out.extend_from_slice(json);
    } else {
        for chunk in json.utf8_chunks() {
            out.extend_from_slice(chunk.valid().as_bytes());
            foreign(out, chunk.invalid());
        }
    }
    let written = out.get_mut(start..).unwrap_or_default();
    // In a valid string there is none.
    if memchr::memchr2(b'\n', b'\r', written).is_some() {
        for byte in written {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
    Ok(())
}

/// Whether this is one whole JSON value. Not recursive: nesting as deep as anybody likes costs one byte a level.
///
/// Source: RFC 8259; server file `common/jsonapi.c`.
fn check(text: &[u8], stack: &mut Vec<u8>) -> Option<()> {
    stack.clear();
    let mut rest = space(text);
    loop {
        let (&first, after) = rest.split_first()?;
        rest = match first {
            b'{' => match space(after) {
                [b'}', after @ ..] => after,
                members => {
                    stack.push(b'}');
                    rest = key(members)?;
                    continue;
                }
            },
            b'[' => match space(after) {
                [b']', after @ ..] => after,
                elements => {
                    stack.push(b']');
                    rest = elements;
                    continue;
                }
            },
            b'"' => string_end(after)?,
            b't' => after.strip_prefix(b"rue")?,
            b'f' => after.strip_prefix(b"alse")?,
            b'n' => after.strip_prefix(b"ull")?,
            _ => number_end(rest)?,
        };
        loop {
            rest = space(rest);
            rest = match (stack.last(), rest.split_first()) {
                (None, None) => return Some(()),
                (Some(close), Some((byte, after))) if close == byte => {
                    stack.pop();
                    after
                }
                (Some(b'}'), Some((b',', after))) => {
                    rest = key(space(after))?;
                    break;
                }
                (Some(_), Some((b',', after))) => {
                    rest = space(after);
                    break;
                }
                _ => return None,
            };
        }
    }
}

fn space(text: &[u8]) -> &[u8] {
    let mut rest = text;
    while let [b' ' | b'\t' | b'\n' | b'\r', after @ ..] = rest {
        rest = after;
    }
    rest
}

/// A member's name and colon; gives what follows.
fn key(text: &[u8]) -> Option<&[u8]> {
    let after = string_end(text.strip_prefix(b"\"")?)?;
    space(after).strip_prefix(b":").map(space)
}

/// What follows a string whose first quote was read.
fn string_end(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text;
    loop {
        let simple = rest.iter().position(|&byte| !is_plain(byte))?;
        let (&byte, after) = rest.get(simple..)?.split_first()?;
        rest = match (byte, after) {
            (b'"', after) => return Some(after),
            (b'\\', [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', after @ ..]) => after,
            (b'\\', [b'u', after @ ..]) => {
                let (digits, after) = after.split_first_chunk::<4>()?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(after)?
            }
            _ => return None,
        };
    }
}

fn digits(text: &[u8]) -> &[u8] {
    let mut rest = text;
    while let [b'0'..=b'9', after @ ..] = rest {
        rest = after;
    }
    rest
}

/// At least one digit.
fn some_digits(text: &[u8]) -> Option<&[u8]> {
    text.first().is_some_and(u8::is_ascii_digit).then(|| digits(text))
}

fn number_end(text: &[u8]) -> Option<&[u8]> {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let mut rest = match text {
        [b'0', after @ ..] => after,
        text => some_digits(text)?,
    };
    if let [b'.', after @ ..] = rest {
        rest = some_digits(after)?;
    }
    if let [b'e' | b'E', after @ ..] = rest {
        let after = after.strip_prefix(b"+").or_else(|| after.strip_prefix(b"-")).unwrap_or(after);
        rest = some_digits(after)?;
    }
    Some(rest)
}
