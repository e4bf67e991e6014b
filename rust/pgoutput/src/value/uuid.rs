//! uuid: sixteen bytes, as text in five groups of hexadecimal digits.
use super::{Invalid, Result};
use crate::value::bytea::nibble;

/// Read the form that `uuid_out` prints.
///
/// # Errors
/// When it is another form.
pub fn text(bytes: &[u8]) -> Result<[u8; 16]> {
    const INVALID: Invalid = Invalid("not a uuid");
    let whole: &[u8; 36] = bytes.try_into().map_err(|_| INVALID)?;
    let mut out = [0; 16];
    let mut rest = whole.as_slice();
    for (number, byte) in out.iter_mut().enumerate() {
        if matches!(number, 4 | 6 | 8 | 10) {
            rest = rest.strip_prefix(b"-").ok_or(INVALID)?;
        }
        let (&[high, low], after) = rest.split_first_chunk::<2>().ok_or(INVALID)?;
        *byte = nibble(high).ok_or(INVALID)? << 4 | nibble(low).ok_or(INVALID)?;
        rest = after;
    }
    Ok(out)
}
