//! The name of a column in front of its value, prepared.
use super::text;
use crate::value::digits::append_first;

/// `,"name":`
#[derive(Debug)]
pub(super) struct Name {
    /// The first bytes, of a length that the compiler knows, so that a short name is copied without a call.
    head: [u8; 16],
    /// How many of them count.
    length: usize,
    /// What is longer.
    tail: Vec<u8>,
}

impl Name {
    /// That of a column.
    pub(super) fn of(column: &[u8]) -> Self {
        let mut name = vec![b','];
        text::string(&mut name, column);
        name.push(b':');
        let (first, tail) = name.split_at(name.len().min(16));
        let mut head = [0; 16];
        for (place, byte) in head.iter_mut().zip(first) {
            *place = *byte;
        }
        Self { head, length: first.len(), tail: tail.to_vec() }
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.length.saturating_add(self.tail.len())
    }

    #[inline]
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        append_first(out, &self.head, self.length);
        if !self.tail.is_empty() {
            out.extend_from_slice(&self.tail);
        }
    }
}
