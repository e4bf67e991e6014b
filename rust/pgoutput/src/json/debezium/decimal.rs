//! Decimal numbers as Debezium's consumers read them: the digits without the point as a whole number, in the fewest bytes
//! of two's complement, in Base64.
//!
//! Source: Kafka Connect's `Decimal` and Debezium's `VariableScaleDecimal`, as its connector for PostgreSQL documents them.
use super::base64::base64;
use crate::json::Scratch;
use crate::oid::Scalar;
use crate::value::{Format, Invalid, Result, Value, decode, numeric};

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decimal {
    /// Whole number of units of `10^-scale`.
    Fixed(i16),
    /// An object of scale and whole number, zeros at the end of the fraction left out.
    Variable,
    /// The digits as PostgreSQL prints them.
    Text,
}

impl Decimal {
    /// How a `numeric` with a modifier is written as a whole number.
    ///
    /// Source: server macros `numeric_typmod_scale` and, for scales below 0, `numeric_typmod_precision` (since 15).
    pub fn of_modifier(modifier: i32) -> Self {
        let Some(packed) = modifier.checked_sub(4).filter(|_| modifier >= 4) else { return Self::Variable };
        // Eleven bits with a sign.
        let scale = i16::try_from(packed & 0x7ff).unwrap_or(0);
        Self::Fixed(if scale > 0x3ff { scale.saturating_sub(0x800) } else { scale })
    }

    /// Write a `numeric`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn write(self, out: &mut Vec<u8>, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
        if let Self::Fixed(scale) = self
            && let Ok(scale) = u8::try_from(scale)
        {
            if format == Format::Binary
                && let Some(units) = numeric::scaled_small(bytes, scale)
            {
                small(out, units.into());
                return Ok(());
            }
            if let Ok(Some(units)) = numeric::scaled(format, bytes, scale) {
                small(out, units);
                return Ok(());
            }
        }
        match decode(Scalar::Numeric, format, bytes, &mut scratch.value)? {
            Value::Numeric(text) => self.write_text(out, text),
            _ => Err(Invalid("not a number")),
        }
    }

    /// Write a number as PostgreSQL prints it.
    ///
    /// # Errors
    /// When it has more digits than there is room for.
    pub fn write_text(self, out: &mut Vec<u8>, text: &str) -> Result<()> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        if !digits.starts_with(|first: char| first.is_ascii_digit()) {
            self.special(out, text);
            return Ok(());
        }
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        match self {
            Self::Text => {
                out.push(b'"');
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
            }
            Self::Variable => {
                let fraction = fraction.trim_end_matches('0');
                out.extend_from_slice(b"{\"scale\":");
                out.extend_from_slice(itoa::Buffer::new().format(fraction.len()).as_bytes());
                out.extend_from_slice(b",\"value\":");
                units(out, negative, &[whole, fraction]);
                out.push(b'}');
            }
            Self::Fixed(scale) => {
                let exact = Invalid("a number with more digits than its column has");
                match usize::try_from(scale) {
                    Ok(scale) => {
                        let (kept, cut) = fraction.split_at(scale.min(fraction.len()));
                        let zeros = "0".repeat(scale.saturating_sub(kept.len()));
                        if cut.bytes().any(|digit| digit != b'0') {
                            return Err(exact);
                        }
                        units(out, negative, &[whole, kept, &zeros]);
                    }
                    Err(_) => {
                        let (kept, cut) = whole.split_at(whole.len().saturating_sub(usize::from(scale.unsigned_abs())));
                        if cut.bytes().chain(fraction.bytes()).any(|digit| digit != b'0') {
                            return Err(exact);
                        }
                        units(out, negative, &[kept]);
                    }
                }
            }
        }
        Ok(())
    }

    /// NaN and the infinities. Debezium makes null of them where it wants a whole number; an object without a scale is
    /// something that no reader takes for a number.
    fn special(self, out: &mut Vec<u8>, text: &str) {
        match self {
            Self::Text => out.extend_from_slice(match text {
                "Infinity" => b"\"POSITIVE_INFINITY\"",
                "-Infinity" => b"\"NEGATIVE_INFINITY\"",
                _ => b"\"NAN\"",
            }),
            Self::Fixed(_) | Self::Variable => {
                out.extend_from_slice(b"{\"scale\":null,\"value\":\"");
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\"}");
            }
        }
    }
}

/// A whole number that fits.
pub fn small(out: &mut Vec<u8>, units: i128) {
    // Bits that only repeat the sign, but one.
    let repeated = (units ^ units >> 127).leading_zeros().saturating_sub(1);
    let bytes = units.to_be_bytes();
    base64(out, bytes.get(usize::try_from(repeated / 8).unwrap_or(0)..).unwrap_or_default());
}

/// Two's complement in the fewest bytes: without the bytes in front that only repeat the sign.
fn shortest(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut rest = bytes;
    while let [sign @ (0 | 0xff), after @ ..] = rest
        && after.first().is_some_and(|next| next >> 7 == sign >> 7)
    {
        rest = after;
    }
    base64(out, rest);
}

/// A whole number given by its digits, in pieces.
fn units(out: &mut Vec<u8>, negative: bool, pieces: &[&str]) {
    let digits = || pieces.iter().flat_map(|piece| piece.bytes()).map(|digit| i128::from(digit.wrapping_sub(b'0')));
    let fits = digits().try_fold(0_i128, |units, digit| units.checked_mul(10)?.checked_add(digit));
    match fits {
        Some(units) => small(out, if negative { units.saturating_neg() } else { units }),
        None => large(out, negative, digits()),
    }
}

/// The digits that are taken in at a time: as many as a limb holds.
const PIECE: usize = 18;

/// As `units`, for a number of any size. The work grows with the square of the digits: some 30 ms for the largest.
fn large(out: &mut Vec<u8>, negative: bool, digits: impl Iterator<Item = i128>) {
    // The lowest limb first.
    let mut limbs: Vec<u64> = Vec::new();
    let mut take_in = |factor: u64, piece: u64| {
        let mut carry = u128::from(piece);
        for limb in &mut limbs {
            carry = u128::from(*limb).saturating_mul(u128::from(factor)).saturating_add(carry);
            *limb = low(carry);
            carry >>= 64;
        }
        if carry > 0 {
            limbs.push(low(carry));
        }
    };
    let (mut factor, mut piece, mut count) = (1_u64, 0_u64, 0_usize);
    for digit in digits {
        factor = factor.saturating_mul(10);
        piece = piece.saturating_mul(10).saturating_add(u64::try_from(digit).unwrap_or(0));
        count = count.saturating_add(1);
        if count == PIECE {
            take_in(factor, piece);
            (factor, piece, count) = (1, 0, 0);
        }
    }
    take_in(factor, piece);
    let mut bytes = vec![0];
    bytes.extend(limbs.iter().rev().flat_map(|limb| limb.to_be_bytes()));
    if negative {
        let mut carry = true;
        for byte in bytes.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    shortest(out, &bytes);
}

fn low(number: u128) -> u64 {
    u64::try_from(number & u128::from(u64::MAX)).unwrap_or(0)
}
