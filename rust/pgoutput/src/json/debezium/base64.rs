//! Base64 with its quotes.
//!
//! Source: RFC 4648, section 4.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn letter(bits: u8) -> u8 {
    ALPHABET.get(usize::from(bits & 63)).copied().unwrap_or(b'=')
}

/// Write bytes as a string.
pub fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len().div_ceil(3).saturating_mul(4).saturating_add(2));
    out.push(b'"');
    let (whole, rest) = bytes.as_chunks::<3>();
    for &[a, b, c] in whole {
        out.extend_from_slice(&[letter(a >> 2), letter(a << 4 | b >> 4), letter(b << 2 | c >> 6), letter(c)]);
    }
    match *rest {
        [a] => out.extend_from_slice(&[letter(a >> 2), letter(a << 4), b'=', b'=']),
        [a, b] => out.extend_from_slice(&[letter(a >> 2), letter(a << 4 | b >> 4), letter(b << 2), b'=']),
        _ => {}
    }
    out.push(b'"');
}
