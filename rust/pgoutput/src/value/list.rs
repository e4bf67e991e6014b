//! What most arrays are: one dimension that begins at 1, in binary. All others are `array`'s, which says what is wrong
//! with those that are none.
//!
//! Source: server function `array_send`.
use super::{Invalid, Result};

/// The elements of such an array; None is SQL NULL.
#[derive(Clone, Debug)]
pub struct List<'a> {
    left: u32,
    rest: &'a [u8],
}

impl<'a> List<'a> {
    /// Read the head; None where it is another array, an empty one, or no array.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        // The number of dimensions, flags, the elements' type, their number, the first subscript.
        let (head, rest) = bytes.split_first_chunk::<20>()?;
        let &[0, 0, 0, 1, 0, 0, 0, 0 | 1, _, _, _, _, l0, l1, l2, l3, 0, 0, 0, 1] = head else { return None };
        let left = u32::from_be_bytes([l0, l1, l2, l3]);
        (left > 0).then_some(Self { left, rest })
    }

    /// The next element's size and bytes; a size of -1, which is SQL NULL, has none.
    #[inline]
    fn element(&mut self) -> Option<(i32, &'a [u8])> {
        let (size, rest) = self.rest.split_first_chunk()?;
        let size = i32::from_be_bytes(*size);
        let (element, rest) = rest.split_at_checked(usize::try_from(size.max(0)).ok()?)?;
        self.rest = rest;
        (size >= -1).then_some((size, element))
    }
}

impl<'a> Iterator for List<'a> {
    type Item = Result<Option<&'a [u8]>>;

    /// The next element; an error, which is the last, where the bytes end elsewhere than the elements.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        const CUT: Invalid = Invalid("not a whole array");
        let Some(left) = self.left.checked_sub(1) else {
            let surplus = !std::mem::take(&mut self.rest).is_empty();
            return surplus.then_some(Err(CUT));
        };
        self.left = left;
        let element = self.element();
        if element.is_none() {
            (self.left, self.rest) = (0, &[]);
        }
        Some(element.map(|(size, bytes)| (size >= 0).then_some(bytes)).ok_or(CUT))
    }
}
