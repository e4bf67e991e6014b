//! Characters: JSON strings, hexadecimal, and JSON that is embedded as it is.
use crate::value::Invalid;
use crate::value::digits::append_first;

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

/// Whether a text can stand between quotes as it is; if `ascii`, only one that is ASCII.
#[inline]
fn is_simple(bytes: &[u8], ascii: bool) -> bool {
    let look = |lanes: &[u8; 8]| {
        let lanes = u64::from_le_bytes(*lanes);
        special(lanes) | if ascii { lanes & HIGH } else { 0 }
    };
    let Some(last) = bytes.last_chunk() else {
        return match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (Some(first), Some(last)) => {
                let [first, last] = [first, last].map(|four| u64::from(u32::from_le_bytes(*four)));
                look(&(first | last << 32).to_le_bytes()) == 0
            }
            _ => bytes.iter().all(|&byte| is_plain(byte) && (!ascii || byte.is_ascii())),
        };
    };
    // The last lanes overlap those before them. No early exit, so that the compiler looks at several at once.
    bytes.as_chunks().0.iter().fold(look(last), |seen, lanes| seen | look(lanes)) == 0
}

/// A string with its quotes, where nothing in it is escaped; whether it is UTF-8 is not looked at. False, with nothing
/// written, for others.
#[inline]
pub fn simple_string(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    if !is_simple(bytes, false) {
        return false;
    }
    out.reserve(bytes.len().saturating_add(2));
    out.push(b'"');
    out.extend_from_slice(bytes);
    out.push(b'"');
    true
}

/// A string with its quotes, as [`string`] writes it, but that nobody looks whether it is UTF-8 if `is_utf8_later`.
#[inline]
pub fn string_of(out: &mut Vec<u8>, bytes: &[u8], is_utf8_later: bool) {
    if !is_utf8_later {
        string(out, bytes);
    } else if !simple_string(out, bytes) {
        out.push(b'"');
        escaped(out, bytes);
        out.push(b'"');
    }
}

/// A string with its quotes.
///
/// A byte that is not UTF-8 becomes the lone surrogate `\udc80` to `\udcff`, as Python's surrogateescape has it.
pub fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len().saturating_add(2));
    out.push(b'"');
    if is_simple(bytes, true) {
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

/// What stands between the quotes; whether it is UTF-8 is not looked at.
pub fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    // Bits that make the first byte a plain one where its backslash is written already.
    let mut written = 0;
    while let Some(chunk) = rest.first_chunk::<8>() {
        let lanes = u64::from_le_bytes(*chunk);
        let found = special(lanes | written);
        written = 0;
        if found == 0 {
            out.extend_from_slice(chunk);
            rest = rest.get(8..).unwrap_or_default();
            continue;
        }
        let bits = found.trailing_zeros() & !7;
        let lane = usize::try_from(bits / 8).unwrap_or(0);
        let Some((&byte, after)) = rest.get(lane..).and_then(<[u8]>::split_first) else { return };
        if byte < 0x20 {
            append_first(out, chunk, lane);
            escape(out, byte);
            rest = after;
            continue;
        }
        // What is before a quote or backslash, and a backslash; itself it begins what comes next.
        let piece = (lanes & !(u64::MAX << bits)) | (u64::from(b'\\') << bits);
        append_first(out, &piece.to_le_bytes(), lane.saturating_add(1));
        rest = rest.get(lane..).unwrap_or_default();
        written = 0x7f;
    }
    for &byte in rest {
        if written != 0 || is_plain(byte) {
            out.push(byte);
        } else {
            escape(out, byte);
        }
        written = 0;
    }
}

/// A byte that cannot stand in a string as it is.
#[inline]
fn escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            hexadecimal(out, &[byte]);
        }
    }
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
/// lone surrogate; `is_utf8_later` where somebody else looks for such bytes.
///
/// # Errors
/// When it is not one whole JSON value.
pub fn embed(out: &mut Vec<u8>, json: &[u8], stack: &mut Vec<u8>, is_utf8_later: bool) -> Result<(), Invalid> {
    let has_breaks = check(json, stack).ok_or(Invalid("not JSON"))?;
    let start = out.len();
    if is_utf8_later || std::str::from_utf8(json).is_ok() {
        out.extend_from_slice(json);
    } else {
        for chunk in json.utf8_chunks() {
            out.extend_from_slice(chunk.valid().as_bytes());
            foreign(out, chunk.invalid());
        }
    }
    // In a valid string there is none.
    if has_breaks {
        for byte in out.get_mut(start..).unwrap_or_default() {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
    Ok(())
}

/// Whether there are line breaks in a text, if it is one whole JSON value. Not recursive: nesting as deep as anybody likes
/// costs one byte a level.
///
/// Source: RFC 8259; server file `common/jsonapi.c`.
fn check(text: &[u8], stack: &mut Vec<u8>) -> Option<bool> {
    stack.clear();
    let mut breaks = false;
    // What closes the innermost object or array; what closes those around it is on the stack.
    let mut close = None;
    let mut rest = text;
    loop {
        let (&first, after) = rest.split_first()?;
        rest = match first {
            b'"' => string_end(after)?,
            b'{' => match spaces(after, &mut breaks) {
                [b'}', after @ ..] => after,
                members => {
                    stack.extend(close.replace(b'}'));
                    rest = key(members, &mut breaks)?;
                    continue;
                }
            },
            b'[' => match spaces(after, &mut breaks) {
                [b']', after @ ..] => after,
                elements => {
                    stack.extend(close.replace(b']'));
                    rest = elements;
                    continue;
                }
            },
            b't' => after.strip_prefix(b"rue")?,
            b'f' => after.strip_prefix(b"alse")?,
            b'n' => after.strip_prefix(b"ull")?,
            b' ' | b'\t' | b'\n' | b'\r' => {
                rest = spaces(rest, &mut breaks);
                continue;
            }
            _ => number_end(rest)?,
        };
        loop {
            rest = match (close, rest.split_first()) {
                (None, None) => return Some(breaks),
                (Some(b'}'), Some((b',', after))) => {
                    rest = key(one_space(after), &mut breaks)?;
                    break;
                }
                (Some(_), Some((b',', after))) => {
                    rest = one_space(after);
                    break;
                }
                (Some(closing), Some((&byte, after))) if closing == byte => {
                    close = stack.pop();
                    after
                }
                (_, Some((b' ' | b'\t' | b'\n' | b'\r', _))) => spaces(rest, &mut breaks),
                _ => return None,
            };
        }
    }
}

/// What follows a space, where there is one: as jsonb prints itself, one stands between its parts. Who comes next looks
/// for others.
#[inline]
fn one_space(text: &[u8]) -> &[u8] {
    text.strip_prefix(b" ").unwrap_or(text)
}

/// What follows all spaces and line breaks, and whether there were any of the latter.
fn spaces<'a>(text: &'a [u8], breaks: &mut bool) -> &'a [u8] {
    let mut rest = text;
    while let [byte @ (b' ' | b'\t' | b'\n' | b'\r'), after @ ..] = rest {
        *breaks |= matches!(byte, b'\n' | b'\r');
        rest = after;
    }
    rest
}

/// A member's name and colon; gives what follows.
#[inline]
fn key<'a>(text: &'a [u8], breaks: &mut bool) -> Option<&'a [u8]> {
    let name = match text {
        [b'"', name @ ..] => name,
        _ => spaces(text, breaks).strip_prefix(b"\"")?,
    };
    match string_end(name)? {
        [b':', after @ ..] => Some(one_space(after)),
        after => spaces(after, breaks).strip_prefix(b":"),
    }
}

/// What follows a string whose first quote was read.
#[inline]
pub fn string_end(text: &[u8]) -> Option<&[u8]> {
    match next_special(text)? {
        (b'"', after) => Some(after),
        (byte, after) => escapes_end(byte, after),
    }
}

/// Likewise from its first escape on.
#[inline(never)]
fn escapes_end(byte: u8, after: &[u8]) -> Option<&[u8]> {
    let (mut byte, mut after) = (byte, after);
    loop {
        let rest = match (byte, after) {
            (b'"', after) => return Some(after),
            (b'\\', [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', after @ ..]) => after,
            (b'\\', [b'u', after @ ..]) => {
                let (digits, after) = after.split_first_chunk::<4>()?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(after)?
            }
            _ => return None,
        };
        (byte, after) = next_special(rest)?;
    }
}

/// The first control character, quote or backslash, and what follows it.
#[inline]
fn next_special(text: &[u8]) -> Option<(u8, &[u8])> {
    let mut rest = text;
    while let Some((lanes, after)) = rest.split_first_chunk::<8>() {
        let found = special(u64::from_le_bytes(*lanes));
        if found != 0 {
            let lane = usize::try_from(found.trailing_zeros() / 8).unwrap_or(0);
            return rest.get(lane..)?.split_first().map(|(&byte, after)| (byte, after));
        }
        rest = after;
    }
    let place = rest.iter().position(|&byte| !is_plain(byte))?;
    rest.get(place..)?.split_first().map(|(&byte, after)| (byte, after))
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
