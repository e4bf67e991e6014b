//! `tid`, `pg_lsn`, `pg_snapshot`: what the server counts itself with; and `money`, which is nowhere else.
//!
//! Source: server functions `tidout`, `tidsend`, `pg_lsn_out`, `pg_snapshot_out`, `pg_snapshot_send`, `cash_out`,
//! `cash_send`.
use std::io::Write;

use super::number::integer;
use super::{Invalid, Result, Value};
use crate::cursor::Cursor;

/// What `tidsend` wrote: block and offset.
///
/// # Errors
/// When it is of another size.
pub fn tid_binary(bytes: &[u8]) -> Result<(u32, u16)> {
    let cut = |_| Invalid("a value of another size than its type");
    let mut cursor = Cursor::new(bytes);
    let tid = (cursor.u32("block").map_err(cut)?, cursor.u16("offset").map_err(cut)?);
    cursor.finish("tid").map_err(cut)?;
    Ok(tid)
}

/// What `tidout` prints: `(0,1)`.
///
/// # Errors
/// When it is something else.
pub fn tid_text(bytes: &[u8]) -> Result<(u32, u16)> {
    let inner = bytes.strip_prefix(b"(").and_then(|rest| rest.strip_suffix(b")"));
    let mut parts = inner.unwrap_or_default().split(|&byte| byte == b',').map(integer);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(block)), Some(Ok(offset)), None) => u32::try_from(block).ok().zip(u16::try_from(offset).ok()),
        _ => None,
    }
    .ok_or(Invalid("not a tid"))
}

/// What `pg_lsn_out` prints: `16/B374D848`.
///
/// # Errors
/// When it is something else.
pub fn lsn_text(bytes: &[u8]) -> Result<u64> {
    const MALFORMED: Invalid = Invalid("not an LSN");
    let half = |digits: &[u8]| {
        let plain = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(digits).ok().filter(|_| plain)?;
        u64::from_str_radix(text, 16).ok()
    };
    let mut halves = bytes.split(|&byte| byte == b'/').map(half);
    match (halves.next(), halves.next(), halves.next()) {
        (Some(Some(high)), Some(Some(low)), None) => Ok(high << 32 | low),
        _ => Err(MALFORMED),
    }
}

/// Write an LSN as PostgreSQL prints it.
pub fn print_lsn(out: &mut Vec<u8>, lsn: u64) {
    // Writing to memory does not fail.
    let _ = write!(out, "{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff);
}

/// Write a tid as PostgreSQL prints it.
pub fn print_tid(out: &mut Vec<u8>, block: u32, offset: u16) {
    let _ = write!(out, "({block},{offset})");
}

/// What `xid8out` prints.
///
/// # Errors
/// When it is no number of 64 bits.
pub fn xid8_text(bytes: &[u8]) -> Result<u64> {
    let digits = std::str::from_utf8(bytes).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(Invalid("not a number of 64 bits"))
}

/// Write what `pg_snapshot_send` wrote as PostgreSQL prints it: `10:20:10,14,15`.
///
/// # Errors
/// When it is not whole.
pub fn snapshot(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let cut = |_| Invalid("not a whole snapshot");
    let mut cursor = Cursor::new(bytes);
    let count = cursor.u32("number of transactions").map_err(cut)?;
    let (low, high) = (cursor.u64("xmin").map_err(cut)?, cursor.u64("xmax").map_err(cut)?);
    let _ = write!(out, "{low}:{high}:");
    for number in 0..count {
        let comma = if number > 0 { "," } else { "" };
        let _ = write!(out, "{comma}{}", cursor.u64("xid").map_err(cut)?);
    }
    cursor.finish("snapshot").map_err(cut)
}

/// What `cash_send` wrote: hundredths, because pgcdc pins `lc_monetary` to C.
///
/// # Errors
/// Never, unless something here is wrong.
pub fn money_binary(bytes: [u8; 8], out: &mut Vec<u8>) -> Result<Value<'_>> {
    let hundredths = i64::from_be_bytes(bytes);
    let all = hundredths.unsigned_abs();
    let sign = if hundredths < 0 { "-" } else { "" };
    out.clear();
    let _ = write!(out, "{sign}{}.{:02}", all / 100, all % 100);
    std::str::from_utf8(out).map(Value::Numeric).map_err(|_| Invalid("not a number"))
}

/// What `cash_out` prints: `-$1,234.56`, as a number; in another locale than C, as it is.
///
/// # Errors
/// When it is not even text.
pub fn money_text<'a>(bytes: &'a [u8], out: &'a mut Vec<u8>) -> Result<Value<'a>> {
    out.clear();
    match plain_money(bytes, out) {
        Some(()) => std::str::from_utf8(out).map(Value::Numeric),
        None => std::str::from_utf8(bytes).map(Value::PgText),
    }
    .map_err(|_| Invalid("not text"))
}

fn plain_money(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (sign, digits) = match bytes.strip_prefix(b"-") {
        Some(rest) => (b"-".as_slice(), rest.strip_prefix(b"$")?),
        None => (b"".as_slice(), bytes.strip_prefix(b"$")?),
    };
    out.extend_from_slice(sign);
    let (whole, [b'.', high @ b'0'..=b'9', low @ b'0'..=b'9']) = digits.split_last_chunk()? else { return None };
    for (number, group) in whole.split(|&byte| byte == b',').enumerate() {
        let fits = if number == 0 { (1..=3).contains(&group.len()) } else { group.len() == 3 };
        group.iter().all(u8::is_ascii_digit).then_some(()).filter(|()| fits)?;
        out.extend_from_slice(group);
    }
    out.extend_from_slice(&[b'.', *high, *low]);
    Some(())
}

/// Write an amount as it is printed in the locale C: `-$1,234.56`.
///
/// Source: server function `cash_out`.
pub fn print_money(out: &mut Vec<u8>, amount: &str) {
    let (sign, digits) = amount.strip_prefix('-').map_or(("", amount), |digits| ("-", digits));
    let (dollars, cents) = digits.split_once('.').unwrap_or((digits, "00"));
    out.extend_from_slice(sign.as_bytes());
    out.push(b'$');
    for (number, digit) in dollars.bytes().enumerate() {
        if number > 0 && dollars.len().saturating_sub(number).is_multiple_of(3) {
            out.push(b',');
        }
        out.push(digit);
    }
    out.push(b'.');
    out.extend_from_slice(cents.as_bytes());
}
