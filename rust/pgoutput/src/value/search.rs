//! tsvector and tsquery: binary to the text that PostgreSQL prints.
//!
//! Source: server functions `tsvectorout`, `tsvectorsend`, `tsqueryout`, `tsquerysend`.
use std::io::Write;

use super::{Invalid, Result};
use crate::cursor::Cursor;

/// `'it''s'`
fn lexeme(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'\'');
    for &byte in text {
        if matches!(byte, b'\'' | b'\\') {
            out.push(byte);
        }
        out.push(byte);
    }
    out.push(b'\'');
}

/// Write what `tsvectorsend` wrote as PostgreSQL prints it: `'cat':3A 'fat':2,4`.
///
/// # Errors
/// When it is not whole.
pub fn vector(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let cut = |_| Invalid("not a whole tsvector");
    let mut cursor = Cursor::new(bytes);
    let count = cursor.u32("number of lexemes").map_err(cut)?;
    for number in 0..count {
        if number > 0 {
            out.push(b' ');
        }
        lexeme(out, cursor.string("lexeme").map_err(cut)?);
        let positions = cursor.u16("number of positions").map_err(cut)?;
        for number in 0..positions {
            let position = cursor.u16("position").map_err(cut)?;
            out.push(if number > 0 { b',' } else { b':' });
            // Writing to memory does not fail.
            let _ = write!(out, "{}", position & 0x3fff);
            let weight: &[u8] = match position >> 14 {
                3 => b"A",
                2 => b"B",
                1 => b"C",
                _ => b"",
            };
            out.extend_from_slice(weight);
        }
    }
    cursor.finish("tsvector").map_err(cut)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    Not,
    And,
    Or,
    Phrase(i16),
}

impl Operator {
    /// Which binds more closely.
    fn priority(self) -> u8 {
        match self {
            Self::Not => 4,
            Self::Phrase(_) => 3,
            Self::And => 2,
            Self::Or => 1,
        }
    }
}

/// One node of a query: an operator, or a word with its weights and whether it is a prefix.
#[derive(Clone, Copy)]
enum Item<'a> {
    Operator(Operator),
    Word { text: &'a [u8], weights: u8, prefix: bool },
}

const MALFORMED: Invalid = Invalid("not a whole tsquery");

fn item<'a>(cursor: &mut Cursor<'a>) -> Result<Item<'a>> {
    let cut = |_| MALFORMED;
    match cursor.u8("item").map_err(cut)? {
        1 => {
            let weights = cursor.u8("weights").map_err(cut)?;
            let prefix = cursor.u8("prefix").map_err(cut)? != 0;
            Ok(Item::Word { text: cursor.string("word").map_err(cut)?, weights, prefix })
        }
        2 => Ok(Item::Operator(match cursor.u8("operator").map_err(cut)? {
            1 => Operator::Not,
            2 => Operator::And,
            3 => Operator::Or,
            4 => Operator::Phrase(cursor.i16("distance").map_err(cut)?),
            _ => return Err(MALFORMED),
        })),
        _ => Err(MALFORMED),
    }
}

/// What is still to be written.
enum Step {
    /// A node, inside an operator of this priority; `right` as the right side of a phrase.
    Node {
        place: usize,
        priority: u8,
        right: bool,
    },
    Between(Operator),
    Close,
}

/// Write what `tsquerysend` wrote as PostgreSQL prints it: `'fat' & ( 'rat':* | 'cat':AB )`.
///
/// The nodes come with each operator in front of its right and then its left side; they are printed the other way round.
/// Not recursive: a query may be nested as deep as it is long.
///
/// # Errors
/// When it is not a whole query.
pub fn query(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut cursor = Cursor::new(bytes);
    let count = cursor.u32("number of items").map_err(|_| MALFORMED)?;
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(item(&mut cursor)?);
    }
    cursor.finish("tsquery").map_err(|_| MALFORMED)?;
    if items.is_empty() {
        return Ok(());
    }
    let after = ends(&items)?;
    let mut steps = vec![Step::Node { place: 0, priority: 0, right: false }];
    while let Some(step) = steps.pop() {
        match step {
            Step::Close => out.extend_from_slice(b" )"),
            Step::Between(operator) => between(out, operator),
            Step::Node { place, priority, right } => match items.get(place).copied().ok_or(MALFORMED)? {
                Item::Word { text, weights, prefix } => word(out, text, weights, prefix),
                Item::Operator(operator) => {
                    let own = operator.priority();
                    let first = place.saturating_add(1);
                    let is_phrase = matches!(operator, Operator::Phrase(_));
                    if own < priority || is_phrase && right {
                        out.extend_from_slice(b"( ");
                        steps.push(Step::Close);
                    }
                    if operator == Operator::Not {
                        out.push(b'!');
                        steps.push(Step::Node { place: first, priority: own, right: false });
                    } else {
                        let second = after.get(first).copied().ok_or(MALFORMED)?;
                        steps.push(Step::Node { place: first, priority: own, right: is_phrase });
                        steps.push(Step::Between(operator));
                        steps.push(Step::Node { place: second, priority: own, right: false });
                    }
                }
            },
        }
    }
    Ok(())
}

/// For each node the place after all that belongs to it. All of them together must be one tree.
fn ends(items: &[Item<'_>]) -> Result<Vec<usize>> {
    let mut ends = vec![0; items.len()];
    let end = |ends: &[usize], place: usize| ends.get(place).copied().ok_or(MALFORMED);
    for (place, item) in items.iter().enumerate().rev() {
        let first = place.saturating_add(1);
        let after = match item {
            Item::Word { .. } => first,
            Item::Operator(Operator::Not) => end(&ends, first)?,
            Item::Operator(_) => end(&ends, end(&ends, first)?)?,
        };
        if let Some(slot) = ends.get_mut(place) {
            *slot = after;
        }
    }
    if ends.first() == Some(&items.len()) { Ok(ends) } else { Err(MALFORMED) }
}

fn between(out: &mut Vec<u8>, operator: Operator) {
    match operator {
        Operator::And => out.extend_from_slice(b" & "),
        Operator::Or => out.extend_from_slice(b" | "),
        Operator::Phrase(1) => out.extend_from_slice(b" <-> "),
        Operator::Phrase(distance) => {
            let _ = write!(out, " <{distance}> ");
        }
        Operator::Not => {}
    }
}

fn word(out: &mut Vec<u8>, text: &[u8], weights: u8, prefix: bool) {
    lexeme(out, text);
    if weights == 0 && !prefix {
        return;
    }
    out.extend_from_slice(if prefix { b":*" } else { b":" });
    for (bit, letter) in [(8, b'A'), (4, b'B'), (2, b'C'), (1, b'D')] {
        if weights & bit != 0 {
            out.push(letter);
        }
    }
}
