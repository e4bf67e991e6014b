//! Arrays of any number of dimensions and any lower bounds, in both formats, element by element and then the dimensions.
//!
//! Source: server functions `array_send`, `array_out`, `array_in`.
use super::{Format, Invalid, Result};
use crate::cursor::Cursor;

/// The server's own limit (`MAXDIM`).
pub const MAX_DIMENSIONS: usize = 6;

/// One dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dimension {
    /// The number of elements, or of arrays one dimension down.
    pub length: usize,
    /// The subscript of the first.
    pub lower_bound: i32,
}

/// The dimensions of an array, from the outermost; none for the empty array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dimensions {
    count: usize,
    all: [Dimension; MAX_DIMENSIONS],
}

impl Dimensions {
    fn push(&mut self, dimension: Dimension) -> Result<()> {
        let place = self.all.get_mut(self.count).ok_or(Invalid("more than six dimensions"))?;
        *place = dimension;
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// The dimensions.
    pub fn as_slice(&self) -> &[Dimension] {
        self.all.get(..self.count).unwrap_or_default()
    }

    /// How many elements they hold; None where that is more than can be counted.
    fn elements(&self) -> Option<usize> {
        let product = |count: usize, dimension: &Dimension| count.checked_mul(dimension.length);
        if self.count == 0 { Some(0) } else { self.as_slice().iter().try_fold(1, product) }
    }
}

const MISFIT: Invalid = Invalid("dimensions and elements that do not fit");

/// Read an array, handing each element's bytes over in order; None is SQL NULL.
///
/// # Errors
/// When it is not one, or its dimensions and its elements do not fit (elements may have been handed over before that is
/// seen); or what `element` returned.
pub fn decode<E: From<Invalid>>(
    delimiter: u8,
    format: Format,
    bytes: &[u8],
    mut element: impl FnMut(Option<&[u8]>) -> std::result::Result<(), E>,
) -> std::result::Result<Dimensions, E> {
    let mut count = 0_usize;
    let mut counted = |bytes: Option<&[u8]>| {
        count = count.saturating_add(1);
        element(bytes)
    };
    let dimensions = match format {
        Format::Text => {
            let levels = Dimensions::default();
            Text { delimiter, rest: bytes, levels, seen: false, written: Vec::new() }.array(&mut counted)?
        }
        Format::Binary => binary(bytes, &mut counted)?,
    };
    if dimensions.elements() == Some(count) { Ok(dimensions) } else { Err(MISFIT.into()) }
}

fn binary<E: From<Invalid>>(
    bytes: &[u8],
    element: &mut impl FnMut(Option<&[u8]>) -> std::result::Result<(), E>,
) -> std::result::Result<Dimensions, E> {
    let cut = |_| Invalid("not a whole array");
    let mut cursor = Cursor::new(bytes);
    let count = cursor.u32("number of dimensions").map_err(cut)?;
    let flags = cursor.u32("array flags").map_err(cut)?;
    cursor.u32("element type OID").map_err(cut)?;
    if flags > 1 {
        return Err(Invalid("unknown array flags").into());
    }
    let mut dimensions = Dimensions::default();
    for _ in 0..count {
        let length = usize::try_from(cursor.u32("dimension").map_err(cut)?).unwrap_or(usize::MAX);
        let lower_bound = cursor.i32("lower bound").map_err(cut)?;
        dimensions.push(Dimension { length, lower_bound })?;
    }
    while !cursor.rest().is_empty() {
        let start = cursor;
        if cursor.i32("element").map_err(cut)? == -1 {
            element(None)?;
        } else {
            cursor = start;
            element(Some(cursor.sized("element").map_err(cut)?))?;
        }
    }
    // An empty int2vector comes as one dimension of no elements.
    let is_empty = dimensions.as_slice().iter().any(|dimension| dimension.length == 0);
    Ok(if is_empty { Dimensions::default() } else { dimensions })
}

/// Reads `{1,NULL,"a b"}` and `[0:1]={1,2}`.
struct Text<'a> {
    /// What is between two elements: a comma, but of boxes a semicolon.
    delimiter: u8,
    rest: &'a [u8],
    /// A length of 0 is not known yet: the first array at each depth sets it, the others must agree.
    levels: Dimensions,
    /// Whether an element was seen: no deeper level may begin after that.
    seen: bool,
    /// An element that was written with backslashes, without them.
    written: Vec<u8>,
}

const MALFORMED: Invalid = Invalid("not an array");

impl Text<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        let after = self.rest.split_first().filter(|&(&first, _)| first == byte);
        self.rest = after.map_or(self.rest, |(_, rest)| rest);
        after.is_some()
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { Err(MALFORMED) }
    }

    fn array<E: From<Invalid>>(
        mut self,
        element: &mut impl FnMut(Option<&[u8]>) -> std::result::Result<(), E>,
    ) -> std::result::Result<Dimensions, E> {
        let bounds = self.bounds()?;
        if self.rest == b"{}" && bounds.count == 0 {
            return Ok(Dimensions::default());
        }
        self.level(0, element)?;
        if !self.rest.is_empty() {
            return Err(MALFORMED.into());
        }
        if bounds.count == 0 {
            return Ok(self.levels);
        }
        let lengths = |dimensions: &Dimensions| dimensions.all.map(|dimension| dimension.length);
        if lengths(&bounds) == lengths(&self.levels) { Ok(bounds) } else { Err(MISFIT.into()) }
    }

    /// `[low:high]…=`, written when a lower bound is not 1.
    fn bounds(&mut self) -> Result<Dimensions> {
        let mut bounds = Dimensions::default();
        while self.eat(b'[') {
            let lower_bound = self.integer(b':')?;
            let upper = self.integer(b']')?;
            let length = i64::from(upper).saturating_sub(i64::from(lower_bound)).saturating_add(1);
            bounds.push(Dimension { length: usize::try_from(length).map_err(|_| MALFORMED)?, lower_bound })?;
        }
        if bounds.count > 0 {
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
    fn level<E: From<Invalid>>(
        &mut self,
        depth: usize,
        element: &mut impl FnMut(Option<&[u8]>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.expect(b'{')?;
        if self.levels.count == depth {
            if self.seen {
                return Err(MISFIT.into());
            }
            self.levels.push(Dimension { length: 0, lower_bound: 1 })?;
        }
        let inner = depth.saturating_add(1);
        let mut length = 0_usize;
        loop {
            if self.rest.first() == Some(&b'{') {
                self.level(inner, element)?;
            } else if self.levels.count == inner {
                self.seen = true;
                self.element(element)?;
            } else {
                return Err(MISFIT.into()); // an element where a deeper level was seen
            }
            length = length.saturating_add(1);
            if !self.eat(self.delimiter) {
                break;
            }
        }
        self.expect(b'}')?;
        match self.levels.all.get_mut(depth) {
            Some(level) if level.length == 0 || level.length == length => level.length = length,
            _ => return Err(MISFIT.into()),
        }
        Ok(())
    }

    fn element<E: From<Invalid>>(
        &mut self,
        element: &mut impl FnMut(Option<&[u8]>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        if self.eat(b'"') {
            return self.quoted(element);
        }
        // array_out quotes whatever is empty or holds one of these.
        let delimiter = self.delimiter;
        let ends = |byte: &u8| matches!(byte, b'}' | b'{' | b'"' | b'\\') || *byte == delimiter;
        let length = self.rest.iter().position(ends).ok_or(MALFORMED)?;
        let (plain, rest) = self.rest.split_at_checked(length).ok_or(MALFORMED)?;
        self.rest = rest;
        if plain.is_empty() || !rest.first().is_some_and(|&byte| byte == b'}' || byte == delimiter) {
            return Err(MALFORMED.into());
        }
        element((plain != b"NULL").then_some(plain))
    }

    fn quoted<E: From<Invalid>>(
        &mut self,
        element: &mut impl FnMut(Option<&[u8]>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.written.clear();
        loop {
            let length = memchr::memchr2(b'"', b'\\', self.rest).ok_or(MALFORMED)?;
            let (plain, rest) = self.rest.split_at_checked(length).ok_or(MALFORMED)?;
            self.rest = rest;
            let ends = self.eat(b'"');
            if ends && self.written.is_empty() {
                return element(Some(plain));
            }
            self.written.extend_from_slice(plain);
            if ends {
                return element(Some(&self.written));
            }
            let (&escaped, rest) = self.rest.get(1..).and_then(<[u8]>::split_first).ok_or(MALFORMED)?;
            self.rest = rest;
            self.written.push(escaped);
        }
    }
}
