//! The exercises: any bytes through every part of the crate. They end, and what is read of the input hangs together.
//!
//! The fuzz targets run them on inputs that libFuzzer finds, `rust/pgoutput/tests/corpus.rs` on those that are kept.
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, LazyLock};

use pgoutput::assembler::Assembler;
use pgoutput::assembler::storage::{File, Storage};
use pgoutput::batch::{Batch, Builder, Reader, Record};
use pgoutput::catalog::{Catalog, Definition};
use pgoutput::frame::Frame;
use pgoutput::json::debezium::{Decimals, Options, Times};
use pgoutput::json::{self, Envelope, Scratch, write_value};
use pgoutput::message::{Message, kind};
use pgoutput::relation::{Column, Relation};
use pgoutput::session::{Session, Shape};
use pgoutput::value::Format;
use pgoutput::{arrow, copy};

/// The most memory that an exercise may have at one time for an input: a small multiple of its size.
///
/// The multiple is what the smallest parts need: a row of two bytes has a record of more than a hundred and a line of JSON
/// that is as long, and what grows by doubling has twice what it needs. PostgreSQL prints 147,456 characters for a numeric
/// that takes eight bytes, and so do we: where there can be numerics, each possible one may have its digits in each of the
/// forms that an exercise holds at a time.
pub fn allowance(input: &[u8]) -> usize {
    const NUMERIC: usize = 10 * 147_456;
    let numerics = if has_numeric(input) { (input.len() / 8 + 1) * NUMERIC } else { 0 };
    32 * 1024 + 512 * input.len() + numerics
}

/// OIDs of types that numerics are part of: numeric, its array, range, multirange and their arrays, and what `CATALOG` adds.
const NUMERICS: [u32; 14] = [
    1700,
    1231,
    3906,
    3907,
    4532,
    6151,
    DOMAIN,
    DOMAINS,
    COMPOSITE,
    COMPOSITES,
    NESTED,
    RANGE,
    MULTIRANGE,
    MULTIRANGES,
];

fn has_numeric(input: &[u8]) -> bool {
    input.windows(4).any(|four| NUMERICS.iter().any(|oid| oid.to_be_bytes() == four))
}

const ENUM: u32 = 16_384;
const DOMAIN: u32 = 16_385;
const DOMAINS: u32 = 16_386;
const ENUMS: u32 = 16_387;
const CIRCLE: u32 = 16_388;
const COMPOSITE: u32 = 16_389;
const COMPOSITES: u32 = 16_390;
const NESTED: u32 = 16_391;
const RANGE: u32 = 16_392;
const MULTIRANGE: u32 = 16_393;
const MULTIRANGES: u32 = 16_394;
const BOXES: u32 = 16_395;
const CIRCLES: u32 = 16_396;
/// The types of extensions have their OIDs from here on.
const EXTENSIONS: u32 = 16_400;

/// A catalog with a type of each kind that users can make, nested in each other, one of them wrong: a circle.
pub static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let array = |element| Definition::Array { element, delimiter: b',' };
    let composite = |name: &str, types: &[u32]| Definition::Composite {
        name: name.to_owned(),
        fields: types.iter().map(|oid| (format!("f{oid}").into_bytes(), *oid)).collect(),
    };
    let mut catalog = Catalog::default();
    for (oid, definition) in [
        (ENUM, Definition::Enum),
        (DOMAIN, Definition::Domain { base: 1700, modifier: (9 << 16 | 4) + 4 }),
        (DOMAINS, array(DOMAIN)),
        (ENUMS, array(ENUM)),
        (CIRCLE, composite("circle", &[CIRCLES])),
        (CIRCLES, array(CIRCLE)),
        (COMPOSITE, composite("c", &[23, 25, DOMAINS, EXTENSIONS, 3802, 17])),
        (COMPOSITES, array(COMPOSITE)),
        (NESTED, composite("n", &[COMPOSITES, MULTIRANGE, BOXES])),
        (RANGE, Definition::Range { subtype: COMPOSITE }),
        (MULTIRANGE, Definition::Multirange { range: RANGE }),
        (MULTIRANGES, array(MULTIRANGE)),
        (BOXES, Definition::Array { element: 603, delimiter: b';' }),
    ] {
        catalog.add(oid, definition);
    }
    let names = ["hstore", "citext", "ltree", "cube", "vector", "halfvec", "sparsevec", "geometry"];
    for (name, oid) in names.into_iter().zip(EXTENSIONS..) {
        catalog.add(oid, Definition::extension(name).expect("an extension that is known"));
    }
    catalog
});

/// A relation whose columns have these types; the first is the key.
fn relation(types: &[u32]) -> Relation {
    let column = |(number, &type_oid): (usize, &u32)| Column {
        is_key: number == 0,
        name: format!("c{number}").into_bytes(),
        type_oid,
        type_modifier: (12 << 16 | 2) + 4,
    };
    Relation {
        oid: 1,
        schema: b"s".to_vec(),
        name: b"t".to_vec(),
        replica_identity: b'd',
        columns: types.iter().enumerate().map(column).collect(),
    }
}

/// The Relation message of a relation.
fn encoded(relation: &Relation) -> Vec<u8> {
    let mut bytes = Vec::new();
    Message::Relation { xid: None, relation: relation.clone() }
        .encode(&mut bytes)
        .expect("a relation without zero bytes");
    bytes
}

fn parse(bytes: &[u8], streamed: bool) -> pgoutput::error::Result<Message<'_>> {
    if streamed { Message::parse_streamed(bytes) } else { Message::parse(bytes) }
}

/// One message, or one frame: alone, and as a row of a table that is known, outside of a stream and in one.
pub fn message(input: &[u8]) {
    for streamed in [false, true] {
        let Ok(message) = parse(input, streamed) else { continue };
        for end in [0, input.len() / 2, input.len() - 1] {
            assert!(parse(&input[..end], streamed).is_err(), "a proper prefix of a message is none: {message:?}");
        }
        let longer = [input, &[0]].concat();
        assert!(parse(&longer, streamed).is_err(), "a message and another byte are none: {message:?}");
        let mut again = Vec::new();
        message.encode(&mut again).expect("what was read can be written");
        assert_eq!(parse(&again, streamed).as_ref(), Ok(&message), "what was written is read alike");
        // The server leaves the schema of its catalog out.
        assert!(again == input || matches!(message, Message::Relation { .. }), "it is written as it was read");
    }
    if let Ok(frame) = Frame::parse(input) {
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(Frame::parse(&again), Ok(frame), "what was written is read alike");
    }
    let known = encoded(&relation(&[23, 25, 701, 1007, 1184, 17]));
    let streamed = [&known[..1], &[0, 0, 0, 9], &known[1..]].concat();
    for before in [[b"Y\0\0\0\0\0\0".as_slice(), &known], [b"S\0\0\0\x09\x01".as_slice(), &streamed]] {
        let mut session = Session::default();
        let mut builder = Builder::default();
        for bytes in before.into_iter().chain([input, input]) {
            builder.push(&mut session, bytes, 1);
        }
        batch(&builder.finish(), 4);
    }
}

/// The parts of an input, each with its length in two bytes before it.
fn pieces(input: &[u8]) -> Vec<&[u8]> {
    let mut rest = input;
    let mut pieces = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (piece, after) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// A file that is none.
#[derive(Debug, Default)]
struct Blocks(VecDeque<Vec<u8>>);

impl File for Blocks {
    type Error = Infallible;

    fn append(&mut self, block: &[u8]) -> Result<(), Infallible> {
        self.0.push_back(block.to_vec());
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn read(&mut self, block: &mut Vec<u8>) -> Result<bool, Infallible> {
        let next = self.0.pop_front();
        let is_there = next.is_some();
        *block = next.unwrap_or_default();
        Ok(is_there)
    }

    fn stored_bytes(&self) -> u64 {
        self.0.iter().map(|block| block.len() as u64).sum()
    }
}

struct Memory;

impl Storage for Memory {
    type File = Blocks;
    type Error = Infallible;

    fn create(&mut self) -> Result<Blocks, Infallible> {
        Ok(Blocks::default())
    }
}

/// Messages put together to whole transactions: the same whether there is room for them or each goes to a file.
pub fn assembler(input: &[u8]) {
    let pieces = pieces(input);
    let assembled = |max_memory: usize| {
        let mut assembler = Assembler::new(Memory, max_memory);
        let mut messages = pieces.iter().zip(1_u64..);
        let mut all = Vec::new();
        let end = loop {
            match assembler.next_batch(&mut messages) {
                Ok(Some(made)) => {
                    let count = made.records().len();
                    all.extend(
                        made.records().iter().map(|record| (made.bytes(record).to_vec(), made.position(record))),
                    );
                    batch(&made, count);
                }
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
            assert!(assembler.hold_lsn().is_none_or(|hold| assembler.confirmable_lsn() <= hold));
        };
        assert!(end.is_none() || assembler.next_batch(&mut messages).is_err(), "after an error nothing comes any more");
        (all, end)
    };
    assert_eq!(assembled(usize::MAX), assembled(0), "files change nothing");
}

/// Messages, or frames, one after the other: each with its length in two bytes.
pub fn stream(input: &[u8]) {
    let pieces = pieces(input);
    let mut session = Session::default();
    let mut builder = Builder::default();
    for piece in &pieces {
        builder.push(&mut session, piece, 1);
    }
    batch(&builder.finish(), pieces.len());
    let mut reader = Reader::default();
    let mut builder = Builder::default();
    for piece in &pieces {
        let before = (reader.received_lsn(), reader.idle_lsn());
        let _ = reader.read(piece, &mut builder);
        assert!(reader.received_lsn() >= before.0 && reader.idle_lsn() >= before.1, "positions go forward");
        assert!(reader.idle_lsn() <= reader.received_lsn(), "what is idle was received");
    }
    let read = builder.finish();
    batch(&read, read.records().len());
}

/// A COPY: the number of columns, which of them are text, the size of the pieces it comes in, and its bytes.
pub fn copy(input: &[u8]) {
    let [columns, text, size, data @ ..] = input else { return };
    let types = [23, 25, 701, 1009, 1184, 17, 3802, 16];
    let count = usize::from(*columns) % (types.len() + 1);
    let relation = relation(&types[..count]);
    let bytes = encoded(&relation).into();
    let text = (0..count).map(|number| text >> number & 1 == 1).collect();
    let mut reader = copy::Reader::new(Arc::new(Shape { relation, bytes }), 5, text);
    let mut builder = Builder::default();
    for piece in data.chunks(usize::from(*size) + 1) {
        if reader.read(piece, &mut builder).is_err() {
            break;
        }
    }
    let rows = builder.finish();
    assert!(rows.nbytes() <= data.len() * 5, "a row is hardly longer as a message");
    for record in rows.records() {
        assert!(Message::parse(rows.bytes(record)).is_ok(), "a row that was read is a message");
    }
    batch(&rows, rows.records().len());
}

/// One value: its type's OID in four bytes, its format in one, and its bytes.
pub fn value(input: &[u8]) {
    let Some((oid, [format, bytes @ ..])) = input.split_first_chunk() else { return };
    let oid = u32::from_be_bytes(*oid);
    let (format, letter) = if format & 1 == 0 { (Format::Text, b't') } else { (Format::Binary, b'b') };
    let mut out = Vec::new();
    let written = write_value(&mut out, &CATALOG.kind(oid), format, bytes, &mut Scratch::default()).is_ok();
    let mut row = [b"I".as_slice(), &1_u32.to_be_bytes(), b"N", &1_u16.to_be_bytes(), &[letter]].concat();
    row.extend(u32::try_from(bytes.len()).expect("an input of less than 4 GiB").to_be_bytes());
    row.extend(bytes);
    let mut session = Session::default();
    let mut builder = Builder::default();
    builder.push(&mut session, &encoded(&relation(&[oid])), 1);
    builder.push(&mut session, &row, 1);
    let made = builder.finish();
    let lines = json::lines(&made, &CATALOG, Envelope::Plain);
    assert_eq!(lines.is_ok(), written, "a value is written alone as it is in a row");
    batch(&made, 2);
}

/// How many rows the changes of a batch are in Arrow: a Truncate is one of each of its tables.
fn rows(batch: &Batch) -> usize {
    let changes = batch.records().iter().filter(|record| record.is_change());
    changes.map(|record| if record.kind == kind::TRUNCATE { batch.truncated(record).len() } else { 1 }).sum()
}

/// Everything that can be done with a batch of so many messages.
fn batch(batch: &Batch, count: usize) {
    assert_eq!(batch.records().len(), count, "as many records as messages");
    let changes = batch.records().iter().filter(|record| record.is_change()).count();
    match json::lines(batch, &CATALOG, Envelope::Plain) {
        Ok(lines) => {
            let text = std::str::from_utf8(&lines).expect("lines are UTF-8");
            assert_eq!(text.lines().count(), changes, "a line for each change");
            assert!(text.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "each an object");
        }
        Err(failed) => assert!(failed.record < count, "the record that failed is one of them"),
    }
    let keys = HashMap::from([(b"t".to_vec(), vec![b"c1".to_vec()])]);
    for options in [
        Options::default(),
        Options { decimals: Decimals::Text, times: Times::IsoText, unknown: true, keys, ..Options::default() },
    ] {
        match json::lines(batch, &CATALOG, Envelope::Debezium(&options)) {
            Ok(lines) => {
                let text = std::str::from_utf8(&lines).expect("lines are UTF-8");
                assert!(text.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "each an object");
                // An update can be two, a Truncate is one of each of its tables and may have none.
                assert!(text.lines().count() <= rows(batch) + changes, "a line for each change, or two");
            }
            Err(failed) => assert!(failed.record < count, "the record that failed is one of them"),
        }
    }
    match arrow::parts(batch, &CATALOG, &BTreeSet::new()) {
        Ok(parts) => assert_eq!(parts.iter().map(|part| part.rows.num_rows()).sum::<usize>(), rows(batch)),
        Err(arrow::NotMade::Failed(failed)) => assert!(failed.record < count, "the record that failed is one of them"),
        Err(arrow::NotMade::Arrow(error)) => panic!("columns that make no record batch: {error}"),
    }
    let middle = batch.records().get(count / 2).and_then(|record| batch.position(record));
    let position = middle.unwrap_or((1, 0));
    let later = batch.after(position);
    assert!(later.records().iter().all(|record| batch.position(record).is_none_or(|own| own > position)));
    drop(later);
    let table = HashSet::from([(b"s".to_vec(), b"t".to_vec())]);
    let selected = batch.select(Some(&table), Some(b"IUDTM"));
    assert!(selected.records().iter().all(Record::is_change));
    let mut builder = Builder::default();
    builder.push_batch(&selected);
    assert_eq!(builder.finish().records().len(), selected.records().len());
}
