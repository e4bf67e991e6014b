//! Characters: JSON strings, hexadecimal, and JSON that is embedded as it is.
use crate::value::Invalid;

/// Eight bytes at a time, as eight lanes of one number: each byte of this is 1.
const ONES: u64 = 0x0101_0101_0101_0101;
/// And the highest bit of each.
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The hexadecimal digits of a number: its nibbles spread over eight lanes, then made letters all at once. `letters` is
/// what lies between the digit 9 and the letter for 10 in ASCII.
#[inline]
fn eight_digits(number: u32, letters: u64) -> [u8; 8] {
    let lanes = u64::from(number);
    let lanes = (lanes << 16 | lanes) & 0x0000_ffff_0000_ffff;
    let lanes = (lanes << 8 | lanes) & 0x00ff_00ff_00ff_00ff;
    let lanes = (lanes << 4 | lanes) & 0x0f0f_0f0f_0f0f_0f0f;
    let above_nine = (lanes.wrapping_add(ONES.wrapping_mul(6)) >> 4) & ONES;
    lanes.wrapping_add(ONES.wrapping_mul(0x30)).wrapping_add(above_nine.wrapping_mul(letters)).to_be_bytes()
}

/// A number in upper-case hexadecimal, with leading zeros.
#[inline]
pub fn upper_eight(number: u32) -> [u8; 8] {
    eight_digits(number, 7)
}

/// Likewise in lower case.
#[inline]
pub fn lower_eight(number: u32) -> [u8; 8] {
    eight_digits(number, 39)
}

#[inline]
fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

/// The highest bit of each lane that is a control character, a quote or a backslash, exact up to and including the first
/// of them: above it a lane may be marked that is none, because subtraction borrows.
#[inline]
fn special(lanes: u64) -> u64 {
    let zero = |lanes: u64| lanes.wrapping_sub(ONES) & !lanes;
    let control = lanes.wrapping_sub(ONES.wrapping_mul(0x20)) & !lanes;
    let quote = zero(lanes ^ ONES.wrapping_mul(0x22));
    let backslash = zero(lanes ^ ONES.wrapping_mul(0x5c));
    (control | quote | backslash) & HIGH
}

/// Whether a text can stand between quotes as it is, and is ASCII.
#[inline]
fn is_simple(bytes: &[u8]) -> bool {
    let look = |lanes: &[u8; 8]| {
        let lanes = u64::from_le_bytes(*lanes);
        special(lanes) | lanes & HIGH
    };
    let Some(last) = bytes.last_chunk() else {
        return bytes.iter().all(|&byte| is_plain(byte) && byte.is_ascii());
    };
    // The last lanes overlap those before them. No early exit, so that the compiler looks at several at once.
    bytes.as_chunks().0.iter().fold(look(last), |seen, lanes| seen | look(lanes)) == 0
}

/// Where the first byte is that cannot stand in a string as it is: a control character, a quote or a backslash.
#[inline]
fn first_special(bytes: &[u8]) -> Option<usize> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (number, lanes) in chunks.iter().enumerate() {
        let found = special(u64::from_le_bytes(*lanes));
        if found != 0 {
            let lane = usize::try_from(found.trailing_zeros() / 8).unwrap_or(0);
            return Some(number.saturating_mul(8).saturating_add(lane));
        }
    }
    let place = rest.iter().position(|&byte| !is_plain(byte))?;
    Some(bytes.len().saturating_sub(rest.len()).saturating_add(place))
}

/// A string with its quotes.
///
/// A byte that is not UTF-8 becomes the lone surrogate `\udc80` to `\udcff`, as Python's surrogateescape has it.
pub fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len().saturating_add(2));
    out.push(b'"');
    if is_simple(bytes) {
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
    let mut rest = text;
    while let Some(place) = first_special(rest) {
        let (plain, after) = rest.split_at(place.min(rest.len()));
        out.extend_from_slice(plain);
        let Some((&byte, after)) = after.split_first() else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                hexadecimal(out, &[byte]);
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
}

/// Two digits for each byte.
pub fn hexadecimal(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len().saturating_mul(2));
    let (chunks, rest) = bytes.as_chunks::<4>();
    for chunk in chunks {
        out.extend_from_slice(&lower_eight(u32::from_be_bytes(*chunk)));
    }
    for &byte in rest {
        let [.., high, low] = lower_eight(u32::from(byte));
        out.extend_from_slice(&[high, low]);
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
    let (high, low) = (upper_half(number >> 32), upper_half(number & 0xffff_ffff));
    let mut digits = [b'0'; 16];
    for (digit, value) in digits.iter_mut().zip(high.into_iter().chain(low)) {
        *digit = value;
    }
    let zeros = usize::try_from(number.leading_zeros() / 4).unwrap_or(0);
    out.extend_from_slice(digits.get(zeros.min(digits.len().saturating_sub(width))..).unwrap_or_default());
}

fn upper_half(half: u64) -> [u8; 8] {
    upper_eight(u32::try_from(half).unwrap_or(u32::MAX))
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
        let simple = first_special(rest)?;
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
