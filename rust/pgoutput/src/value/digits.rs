//! Decimal digits, eight at a time: as eight lanes of one number, and appended in pieces of a length that the compiler
//! knows, because for a few bytes a call costs more than the bytes.
#![allow(clippy::arithmetic_side_effects, reason = "lanes hold no more than four digits where they are multiplied")]

/// A zero in each lane, in ASCII.
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The eight decimal digits of a number below 100,000,000, the first in the lowest lane: split in two, three times, all
/// lanes at once. The divisions are multiplications that are exact for what a lane can hold.
#[inline]
pub(crate) fn lanes(number: u32) -> u64 {
    let number = u64::from(number);
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let twos = hundreds | ((fours - hundreds * 100) << 16);
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | ((twos - tens * 10) << 8)
}

/// The digits of a number below 100,000,000 in ASCII, with leading zeros.
#[inline]
pub(crate) fn eight(number: u32) -> [u8; 8] {
    (lanes(number) | ZEROS).to_le_bytes()
}

/// Append the first bytes of an array, so many.
#[inline]
pub(crate) fn append_first<const N: usize>(out: &mut Vec<u8>, bytes: &[u8; N], count: usize) {
    let end = out.len().saturating_add(count.min(N));
    out.extend_from_slice(bytes);
    out.truncate(end);
}

/// Append a number without leading zeros.
#[inline]
pub(crate) fn natural(out: &mut Vec<u8>, number: u64) {
    match u32::try_from(number) {
        Ok(number @ ..100_000_000) => {
            let lanes = lanes(number);
            // The last digit stays, even if it is zero.
            let zeros = lanes.trailing_zeros().min(63) / 8;
            let bytes = ((lanes | ZEROS) >> (zeros * 8)).to_le_bytes();
            append_first(out, &bytes, 8_usize.saturating_sub(usize::try_from(zeros).unwrap_or(0)));
        }
        _ => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
    }
}

/// Likewise with a sign.
#[inline]
pub(crate) fn integer(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    natural(out, number.unsigned_abs());
}

#[cfg(test)]
mod tests {
    use super::{eight, integer};

    fn check(number: i64) {
        let mut out = Vec::new();
        integer(&mut out, number);
        assert_eq!(out, number.to_string().as_bytes());
    }

    #[test]
    fn numbers_are_as_rust_writes_them() {
        for number in (0..100_000_000).step_by(997).chain(0..20_000).chain(99_990_000..100_000_000) {
            assert_eq!(eight(number), format!("{number:08}").as_bytes());
            check(i64::from(number));
            check(i64::from(number).saturating_neg());
        }
        let powers = (0..19).filter_map(|power| 10_i64.checked_pow(power));
        for number in powers.chain([i64::MAX, i64::MIN]) {
            check(number);
            check(number.saturating_sub(1));
            check(number.saturating_neg());
        }
    }
}
