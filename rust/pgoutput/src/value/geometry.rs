//! The geometric types and cube: floats in fixed arrangements.
//!
//! Source: server file `utils/adt/geo_ops.c`; `contrib/cube/cube.c`.
use super::number::{float, print_float8};
use super::{Format, Invalid, Result};
use crate::cursor::Cursor;
use crate::oid::Shape;

/// The numbers of a geometric value.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    /// Which of the types it is.
    pub shape: Shape,
    /// Of a path whether its end is connected with its beginning.
    pub closed: bool,
    /// Its coordinates as PostgreSQL prints them, two for each point; and the radius of a circle.
    pub numbers: Vec<f64>,
}

const MALFORMED: Invalid = Invalid("not a geometric value of its type");

/// Read one.
///
/// # Errors
/// When it is something else.
pub fn decode(shape: Shape, format: Format, bytes: &[u8]) -> Result<Geometry> {
    match format {
        Format::Binary => binary(shape, bytes),
        Format::Text => text(shape, bytes),
    }
}

fn binary(shape: Shape, bytes: &[u8]) -> Result<Geometry> {
    let cut = |_| MALFORMED;
    let mut cursor = Cursor::new(bytes);
    let closed = match shape {
        Shape::Path => match cursor.u8("closed").map_err(cut)? {
            0 => false,
            1 => true,
            _ => return Err(MALFORMED),
        },
        _ => true,
    };
    let count = match shape {
        Shape::Point => 2,
        Shape::Line | Shape::Circle => 3,
        Shape::Lseg | Shape::Box => 4,
        Shape::Path | Shape::Polygon => {
            // No server has a path or polygon without points: neither form is read by it, and the printed one not by us.
            let points = cursor.i32("number of points").map_err(cut)?;
            let points = usize::try_from(points).ok().filter(|&points| points > 0).ok_or(MALFORMED)?;
            points.checked_mul(2).ok_or(MALFORMED)?
        }
    };
    let (floats, left) = cursor.rest().as_chunks::<8>();
    if floats.len() != count || !left.is_empty() {
        return Err(MALFORMED);
    }
    Ok(Geometry { shape, closed, numbers: floats.iter().map(|&float| f64::from_be_bytes(float)).collect() })
}

/// Reads the printed forms.
struct Text<'a> {
    rest: &'a [u8],
    numbers: Vec<f64>,
}

impl Text<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        let after = self.rest.split_first().filter(|&(&first, _)| first == byte);
        self.rest = after.map_or(self.rest, |(_, rest)| rest);
        after.is_some()
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { Err(MALFORMED) }
    }

    fn number(&mut self) -> Result<()> {
        let length = self.rest.iter().position(|byte| b",()[]{}<>".contains(byte)).ok_or(MALFORMED)?;
        let (digits, rest) = self.rest.split_at_checked(length).ok_or(MALFORMED)?;
        self.numbers.push(float(digits).map_err(|_| MALFORMED)?);
        self.rest = rest;
        Ok(())
    }

    /// `(x,y)`
    fn point(&mut self) -> Result<()> {
        self.expect(b'(')?;
        self.number()?;
        self.expect(b',')?;
        self.number()?;
        self.expect(b')')
    }

    fn points(&mut self) -> Result<()> {
        self.point()?;
        while self.eat(b',') {
            self.point()?;
        }
        Ok(())
    }
}

fn text(shape: Shape, bytes: &[u8]) -> Result<Geometry> {
    let mut text = Text { rest: bytes, numbers: Vec::new() };
    let mut closed = true;
    match shape {
        Shape::Point => text.point()?,
        Shape::Line => {
            text.expect(b'{')?;
            text.number()?;
            text.expect(b',')?;
            text.number()?;
            text.expect(b',')?;
            text.number()?;
            text.expect(b'}')?;
        }
        Shape::Lseg => {
            text.expect(b'[')?;
            text.points()?;
            text.expect(b']')?;
        }
        Shape::Box => text.points()?,
        Shape::Path => {
            closed = !text.eat(b'[');
            if closed {
                text.expect(b'(')?;
            }
            text.points()?;
            text.expect(if closed { b')' } else { b']' })?;
        }
        Shape::Polygon => {
            text.expect(b'(')?;
            text.points()?;
            text.expect(b')')?;
        }
        Shape::Circle => {
            text.expect(b'<')?;
            text.point()?;
            text.expect(b',')?;
            text.number()?;
            text.expect(b'>')?;
        }
    }
    let is_whole = match shape {
        Shape::Lseg | Shape::Box => text.numbers.len() == 4,
        _ => true,
    };
    if !is_whole || !text.rest.is_empty() {
        return Err(MALFORMED);
    }
    Ok(Geometry { shape, closed, numbers: text.numbers })
}

/// Write it as PostgreSQL prints it.
pub fn print(out: &mut Vec<u8>, geometry: &Geometry) {
    let (open, close): (&[u8], &[u8]) = match (geometry.shape, geometry.closed) {
        (Shape::Line, _) => (b"{", b"}"),
        (Shape::Lseg, _) | (Shape::Path, false) => (b"[", b"]"),
        (Shape::Path, true) | (Shape::Polygon, _) => (b"(", b")"),
        (Shape::Circle, _) => (b"<", b">"),
        (Shape::Point | Shape::Box, _) => (b"", b""),
    };
    out.extend_from_slice(open);
    let points = geometry.shape != Shape::Line;
    for (place, numbers) in geometry.numbers.chunks(2).enumerate() {
        if place > 0 {
            out.push(b',');
        }
        match numbers {
            [x, y] => {
                out.extend_from_slice(if points { b"(" } else { b"" });
                print_float8(out, *x);
                out.push(b',');
                print_float8(out, *y);
                out.extend_from_slice(if points { b")" } else { b"" });
            }
            numbers => numbers.iter().for_each(|&number| print_float8(out, number)),
        }
    }
    out.extend_from_slice(close);
}

/// Write what `cube_send` wrote as PostgreSQL prints it: `(1, 2),(3, 4)`, or one corner where both are the same.
///
/// # Errors
/// When the number of dimensions and the bytes do not fit.
pub fn print_cube(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    const MALFORMED: Invalid = Invalid("not a whole cube");
    const POINT: u32 = 0x8000_0000;
    let (header, rest) = bytes.split_first_chunk().ok_or(MALFORMED)?;
    let header = u32::from_be_bytes(*header);
    let dimensions = usize::try_from(header & !POINT).map_err(|_| MALFORMED)?;
    let corners = if header & POINT == 0 { 2 } else { 1 };
    let (floats, left) = rest.as_chunks::<8>();
    if dimensions.checked_mul(corners) != Some(floats.len()) || !left.is_empty() {
        return Err(MALFORMED);
    }
    let numbers: Vec<f64> = floats.iter().map(|&float| f64::from_be_bytes(float)).collect();
    let (lower, upper) = numbers.split_at_checked(dimensions).ok_or(MALFORMED)?;
    #[allow(clippy::float_cmp, reason = "the server compares them so")]
    let is_point = corners == 1 || lower == upper;
    for (place, corner) in [lower, upper].into_iter().take(if is_point { 1 } else { 2 }).enumerate() {
        out.extend_from_slice(if place > 0 { b",(" } else { b"(" });
        for (place, &number) in corner.iter().enumerate() {
            out.extend_from_slice(if place > 0 { b", " } else { b"" });
            print_float8(out, number);
        }
        out.push(b')');
    }
    Ok(())
}
