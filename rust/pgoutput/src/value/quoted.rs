//! The parts of ranges and composites as text: bare, or in quotes, in which quotes and backslashes are doubled.
//!
//! Source: server functions `range_bound_escape`, `record_out`.
use std::borrow::Cow;

/// One part at the beginning of some text, which then begins after it; `Some(None)` where there is nothing, None where it
/// is malformed. A part that is not quoted goes on to what `ends` it.
#[allow(clippy::option_option, reason = "no part is something else than a malformed part")]
pub fn part<'a>(rest: &mut &'a [u8], ends: impl Fn(u8) -> bool) -> Option<Option<Cow<'a, [u8]>>> {
    let Some(after) = rest.strip_prefix(b"\"") else {
        let length = rest.iter().position(|&byte| ends(byte) || matches!(byte, b'"' | b'\\'))?;
        let (plain, after) = rest.split_at_checked(length)?;
        let is_end = after.first().is_some_and(|&byte| ends(byte));
        *rest = after;
        return is_end.then(|| (!plain.is_empty()).then_some(Cow::Borrowed(plain)));
    };
    let mut written: Option<Vec<u8>> = None;
    let mut text = after;
    loop {
        let (plain, after) = text.split_at_checked(memchr::memchr2(b'"', b'\\', text)?)?;
        let escaped = match after {
            [b'"', byte @ b'"', after @ ..] | [b'\\', byte, after @ ..] => Some((*byte, after)),
            [b'"', ..] => None,
            _ => return None,
        };
        match escaped {
            Some((byte, after)) => {
                let written = written.get_or_insert_default();
                written.extend_from_slice(plain);
                written.push(byte);
                text = after;
            }
            None => {
                *rest = after.get(1..)?;
                return Some(Some(match written {
                    None => Cow::Borrowed(plain),
                    Some(mut written) => {
                        written.extend_from_slice(plain);
                        Cow::Owned(written)
                    }
                }));
            }
        }
    }
}

/// Write a part, in quotes where it needs them: where it is empty, or has white space or one of these characters.
pub fn print(out: &mut Vec<u8>, part: &[u8], special: &[u8]) {
    let space = |byte: u8| matches!(byte, b' ' | 0x09..=0x0d);
    if !part.is_empty() && !part.iter().any(|&byte| special.contains(&byte) || space(byte)) {
        out.extend_from_slice(part);
        return;
    }
    out.push(b'"');
    for &byte in part {
        if matches!(byte, b'"' | b'\\') {
            out.push(byte);
        }
        out.push(byte);
    }
    out.push(b'"');
}
