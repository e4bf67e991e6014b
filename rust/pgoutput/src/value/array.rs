//! Arrays of any number of dimensions and any lower bounds, in both formats, as dimensions and a flat list of elements.
//!
//! Source: server functions `array_send`, `array_out`, `array_in`.
use std::borrow::Cow;

use super::{Format, Invalid, Result};
use crate::cursor::Cursor;
use crate::error;

/// The server's own limit (`MAXDIM`).
pub const MAX_DIMENSIONS: usize = 6;

/// One dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimension {
    /// The number of elements, or of arrays one dimension down.
    pub length: usize,
    /// The subscript of the first.
    pub lower_bound: i32,
}

/// An array: its dimensions from the outermost, and all elements in order; None is SQL NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array<'a> {
    /// The dimensions; none for the empty array.
    pub dimensions: Vec<Dimension>,
    /// The elements, in the format that the array came in.
    pub elements: Vec<Option<Cow<'a, [u8]>>>,
}

/// Read an array.
///
/// # Errors
/// When it is not one, or its dimensions and its elements do not fit.
pub fn decode(format: Format, bytes: &[u8]) -> Result<Array<'_>> {
    let array = match format {
        Format::Text => Text::new(bytes).array(),
        Format::Binary => binary(bytes).map_err(|_| Invalid("not a whole array")).and_then(|array| array),
    }?;
    let count = array.dimensions.iter().try_fold(1_usize, |count, dimension| count.checked_mul(dimension.length));
    let expected = if array.dimensions.is_empty() { Some(0) } else { count };
    if expected == Some(array.elements.len()) {
        Ok(array)
    } else {
        Err(Invalid("dimensions and elements that do not fit"))
    }
}

fn binary(bytes: &[u8]) -> error::Result<Result<Array<'_>>> {
    let mut cursor = Cursor::new(bytes);
    let count = cursor.u32("number of dimensions")?;
    let flags = cursor.u32("array flags")?;
    cursor.u32("element type OID")?;
    let Some(count) = usize::try_from(count).ok().filter(|&count| count <= MAX_DIMENSIONS && flags <= 1) else {
        return Ok(Err(Invalid("impossible dimensions or flags")));
    };
    let mut dimensions = Vec::with_capacity(count);
    for _ in 0..count {
        let length = cursor.u32("dimension")?;
        let lower_bound = cursor.i32("lower bound")?;
        dimensions.push(Dimension { length: usize::try_from(length).unwrap_or(usize::MAX), lower_bound });
    }
    let mut elements = Vec::new();
    while !cursor.rest().is_empty() {
        let start = cursor;
        let is_null = cursor.i32("element")? == -1;
        if !is_null {
            cursor = start;
        }
        elements.push(if is_null { None } else { Some(Cow::Borrowed(cursor.sized("element")?)) });
    }
    // An empty int2vector comes as one dimension of no elements.
    if dimensions.iter().any(|dimension| dimension.length == 0) {
        dimensions.clear();
    }
    Ok(Ok(Array { dimensions, elements }))
}

/// Reads `{1,NULL,"a b"}` and `[0:1]={1,2}`.
struct Text<'a> {
    rest: &'a [u8],
    dimensions: Vec<Dimension>,
    /// Whether the length of a dimension is known: the first array at each depth sets it, the others must agree.
    known: Vec<bool>,
    elements: Vec<Option<Cow<'a, [u8]>>>,
}

const MALFORMED: Invalid = Invalid("not an array");

impl<'a> Text<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest, dimensions: Vec::new(), known: Vec::new(), elements: Vec::new() }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let after = self.rest.split_first().filter(|&(&first, _)| first == byte);
        self.rest = after.map_or(self.rest, |(_, rest)| rest);
        after.is_some()
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { Err(MALFORMED) }
    }

    fn array(mut self) -> Result<Array<'a>> {
        let bounds = self.bounds()?;
        if self.rest == b"{}" && bounds.is_empty() {
            return Ok(Array { dimensions: Vec::new(), elements: Vec::new() });
        }
        self.level(0)?;
        if !self.rest.is_empty() {
            return Err(MALFORMED);
        }
        if !bounds.is_empty() {
            let same = |(a, b): (&Dimension, &Dimension)| a.length == b.length;
            if bounds.len() != self.dimensions.len() || !bounds.iter().zip(&self.dimensions).all(same) {
                return Err(Invalid("dimensions and elements that do not fit"));
            }
            self.dimensions = bounds;
        }
        Ok(Array { dimensions: self.dimensions, elements: self.elements })
    }

    /// `[low:high]…=`, written when a lower bound is not 1.
    fn bounds(&mut self) -> Result<Vec<Dimension>> {
        let mut bounds = Vec::new();
        while self.eat(b'[') {
            let low = self.integer(b':')?;
            let high = self.integer(b']')?;
            let length = i64::from(high).saturating_sub(i64::from(low)).saturating_add(1);
            bounds.push(Dimension { length: usize::try_from(length).map_err(|_| MALFORMED)?, lower_bound: low });
        }
        if !bounds.is_empty() {
            self.expect(b'=')?;
        }
        Ok(bounds)
    }

    fn integer(&mut self, end: u8) -> Result<i32> {
        let length = memchr::memchr(end, self.rest).ok_or(MALFORMED)?;
        let (digits, rest) = self.rest.split_at_checked(length).ok_or(MALFORMED)?;
        self.rest = rest;
        self.expect(end)?;
        super::number::integer(digits).ok().and_then(|value| i32::try_from(value).ok()).ok_or(MALFORMED)
    }

    /// One `{…}` at a depth, and what is in it.
    fn level(&mut self, depth: usize) -> Result<()> {
        if depth >= MAX_DIMENSIONS {
            return Err(Invalid("more than six dimensions"));
        }
        self.expect(b'{')?;
        if self.dimensions.len() == depth {
            if !self.elements.is_empty() {
                return Err(Invalid("dimensions and elements that do not fit"));
            }
            self.dimensions.push(Dimension { length: 0, lower_bound: 1 });
            self.known.push(false);
        }
        let mut length = 0_usize;
        loop {
            if self.rest.first() == Some(&b'{') {
                self.level(depth.saturating_add(1))?;
            } else {
                // An element where a level further in was seen: not the same depth everywhere.
                if depth.saturating_add(1) != self.dimensions.len() {
                    return Err(Invalid("dimensions and elements that do not fit"));
                }
                self.element()?;
            }
            length = length.saturating_add(1);
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b'}')?;
        let (Some(dimension), Some(known)) = (self.dimensions.get_mut(depth), self.known.get_mut(depth)) else {
            return Err(MALFORMED);
        };
        if *known && dimension.length != length {
            return Err(Invalid("dimensions and elements that do not fit"));
        }
        dimension.length = length;
        *known = true;
        Ok(())
    }

    fn element(&mut self) -> Result<()> {
        if self.eat(b'"') {
            let element = self.quoted()?;
            self.elements.push(Some(element));
            return Ok(());
        }
        let length = self.rest.iter().position(|byte| b",}".contains(byte)).ok_or(MALFORMED)?;
        let (element, rest) = self.rest.split_at_checked(length).ok_or(MALFORMED)?;
        self.rest = rest;
        // array_out quotes whatever is empty or holds one of these.
        if element.is_empty() || element.iter().any(|byte| b"{\"\\".contains(byte)) {
            return Err(MALFORMED);
        }
        self.elements.push((element != b"NULL").then_some(Cow::Borrowed(element)));
        Ok(())
    }

    fn quoted(&mut self) -> Result<Cow<'a, [u8]>> {
        let mut written: Option<Vec<u8>> = None;
        loop {
            let length = memchr::memchr2(b'"', b'\\', self.rest).ok_or(MALFORMED)?;
            let (plain, rest) = self.rest.split_at_checked(length).ok_or(MALFORMED)?;
            self.rest = rest;
            if self.eat(b'"') {
                return Ok(match written {
                    None => Cow::Borrowed(plain),
                    Some(mut whole) => {
                        whole.extend_from_slice(plain);
                        Cow::Owned(whole)
                    }
                });
            }
            let (&escaped, rest) = self.rest.get(1..).and_then(<[u8]>::split_first).ok_or(MALFORMED)?;
            self.rest = rest;
            let whole = written.get_or_insert_default();
            whole.extend_from_slice(plain);
            whole.push(escaped);
        }
    }
}
