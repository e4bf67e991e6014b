//! Whatever the bytes are: a message or an error, never a panic, and nothing is read that is not there; what was read is
//! written as it was.
//!
//! Over 400 lines, because the bytes of every kind of message are put together here without the code under test.
#![allow(missing_docs, clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing)]
use pgoutput::batch::{Batch, Builder, Reader, Record};
use pgoutput::copy;
use pgoutput::cursor::LONGEST_NAME;
use pgoutput::encode;
use pgoutput::error::Reason;
use pgoutput::frame::{Answer, Frame};
use pgoutput::json::{Scratch, write_value};
use pgoutput::message::{Message, Prepared, has_xid};
use pgoutput::oid::{Composite, Field, Kind, Scalar, Shape, Width};
use pgoutput::relation::{Column, Relation};
use pgoutput::session::{self, Session};
use pgoutput::value::print::print;
use pgoutput::value::{self, Format, Invalid, array};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

const SCALARS: [Scalar; 41] = [
    Scalar::Bool,
    Scalar::Int2,
    Scalar::Int4,
    Scalar::Int8,
    Scalar::Oid,
    Scalar::Float4,
    Scalar::Float8,
    Scalar::Numeric,
    Scalar::Text,
    Scalar::Char,
    Scalar::Bytea,
    Scalar::Date,
    Scalar::Time,
    Scalar::TimeTz,
    Scalar::Timestamp,
    Scalar::TimestampTz,
    Scalar::Uuid,
    Scalar::Json,
    Scalar::Jsonb,
    Scalar::Xid8,
    Scalar::Lsn,
    Scalar::Money,
    Scalar::Versioned,
    Scalar::Ewkb,
    Scalar::Interval,
    Scalar::Inet,
    Scalar::Cidr,
    Scalar::MacAddr,
    Scalar::MacAddr8,
    Scalar::Bits,
    Scalar::Cube,
    Scalar::Tid,
    Scalar::Snapshot,
    Scalar::TsVector,
    Scalar::TsQuery,
    Scalar::SparseVector,
    Scalar::Shape(Shape::Point),
    Scalar::Shape(Shape::Line),
    Scalar::Shape(Shape::Path),
    Scalar::Shape(Shape::Polygon),
    Scalar::Shape(Shape::Circle),
];

/// Values made of others, inside each other.
fn kinds() -> Vec<Kind> {
    let int4 = Kind::Scalar(Scalar::Int4);
    let text = Kind::Scalar(Scalar::Text);
    let field = |kind: &Kind| Field { name: b"f".to_vec(), type_oid: 0, kind: kind.clone() };
    let pair = Composite { name: "pair".into(), fields: vec![field(&int4), field(&text)] };
    let pair = Kind::Composite(Arc::new(pair));
    let range = Kind::Range(Arc::new(text));
    vec![
        Kind::Numbers(Scalar::Int2),
        Kind::Floats(Width::Single),
        Kind::Floats(Width::Half),
        Kind::Hstore,
        Kind::Hstore.array(),
        Kind::Range(Arc::new(pair.clone())),
        Kind::Multirange(Arc::new(int4)),
        range.array().array(),
        pair.clone().array(),
        pair,
        Kind::Scalar(Scalar::Shape(Shape::Box)).array(),
        Kind::Opaque,
    ]
}

/// Bytes that are nearly something: small numbers, and what separates the parts of values as text.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![0..4_u8, Just(255_u8), prop::sample::select(br#"{}()[],;:"\ =><N1."#.to_vec()), any::<u8>()];
    prop::collection::vec(byte, 0..60)
}

/// A tuple: each column null, unchanged, or text or binary of some bytes.
fn tuple() -> impl Strategy<Value = Vec<u8>> {
    let column = prop_oneof![
        Just(vec![b'n']),
        Just(vec![b'u']),
        (prop_oneof![Just(b't'), Just(b'b')], prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(kind, bytes)| {
            let mut column = vec![kind];
            column.extend_from_slice(&i32::try_from(bytes.len()).unwrap().to_be_bytes());
            column.extend_from_slice(&bytes);
            column
        }),
    ];
    prop::collection::vec(column, 0..8).prop_map(|columns| {
        let mut tuple = i16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        tuple.extend(columns.into_iter().flatten());
        tuple
    })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1..=255_u8, 1..12)
}

fn relation() -> impl Strategy<Value = Relation> {
    let column = (any::<bool>(), name(), any::<u32>(), any::<i32>())
        .prop_map(|(is_key, name, type_oid, type_modifier)| Column { is_key, name, type_oid, type_modifier });
    let columns = prop::collection::vec(column, 0..6);
    (any::<u32>(), name(), name(), prop::sample::select(b"dnfi".to_vec()), columns).prop_map(
        |(oid, schema, name, replica_identity, columns)| Relation { oid, schema, name, replica_identity, columns },
    )
}

/// Where the xid of a message in a stream goes, if it has one.
fn in_stream((bytes, xid): (Vec<u8>, u32)) -> Vec<u8> {
    if has_xid(bytes[0]) { [&bytes[..1], &xid.to_be_bytes(), &bytes[1..]].concat() } else { bytes }
}

fn fixed(kind: u8, length: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), length).prop_map(move |rest| [vec![kind], rest].concat())
}

/// A kind, so many bytes, a gid.
fn named(kind: u8, length: usize) -> impl Strategy<Value = Vec<u8>> {
    (fixed(kind, length), name()).prop_map(|(bytes, gid)| [bytes, gid, vec![0]].concat())
}

/// Whole messages of the kinds that stand in ordinary transactions, in prepared ones and in streams.
fn change() -> impl Strategy<Value = Vec<u8>> {
    let oid = any::<u32>().prop_map(|oid| oid.to_be_bytes().to_vec());
    let insert = (oid.clone(), tuple()).prop_map(|(oid, new)| [b"I".to_vec(), oid, b"N".to_vec(), new].concat());
    let update = (oid.clone(), prop::option::of((prop::sample::select(b"KO".to_vec()), tuple())), tuple()).prop_map(
        |(oid, old, new)| {
            let old = old.map_or_else(Vec::new, |(kind, old)| [vec![kind], old].concat());
            [b"U".to_vec(), oid, old, b"N".to_vec(), new].concat()
        },
    );
    let delete = (oid, prop::sample::select(b"KO".to_vec()), tuple())
        .prop_map(|(oid, kind, old)| [b"D".to_vec(), oid, vec![kind], old].concat());
    let truncate = (prop::collection::vec(any::<u32>(), 0..5), 0..4_u8).prop_map(|(oids, options)| {
        let count = u32::try_from(oids.len()).unwrap().to_be_bytes().to_vec();
        let oids = oids.into_iter().flat_map(u32::to_be_bytes).collect();
        [b"T".to_vec(), count, vec![options], oids].concat()
    });
    let logical = (0..2_u8, any::<u64>(), name(), prop::collection::vec(any::<u8>(), 0..30)).prop_map(
        |(flags, lsn, prefix, content)| {
            let length = u32::try_from(content.len()).unwrap().to_be_bytes().to_vec();
            [vec![b'M', flags], lsn.to_be_bytes().to_vec(), prefix, vec![0], length, content].concat()
        },
    );
    let relation = relation().prop_map(|relation| {
        let zero = [0_u8].as_slice();
        let count = i16::try_from(relation.columns.len()).unwrap().to_be_bytes();
        let head = [b"R", relation.oid.to_be_bytes().as_slice(), &relation.schema, zero, &relation.name, zero].concat();
        let columns = relation.columns.iter().map(|column| {
            let type_ = [column.type_oid.to_be_bytes(), column.type_modifier.to_be_bytes()].concat();
            [&[u8::from(column.is_key)], column.name.as_slice(), zero, &type_].concat()
        });
        [head, vec![relation.replica_identity], count.to_vec(), columns.collect::<Vec<_>>().concat()].concat()
    });
    prop_oneof![
        insert,
        update,
        delete,
        truncate,
        logical,
        relation,
        (any::<u64>(), name())
            .prop_map(|(lsn, name)| [b"O".to_vec(), lsn.to_be_bytes().to_vec(), name, vec![0]].concat()),
        (any::<u32>(), name(), name()).prop_map(|(oid, schema, name)| [
            b"Y".to_vec(),
            oid.to_be_bytes().to_vec(),
            schema,
            vec![0],
            name,
            vec![0]
        ]
        .concat()),
    ]
}

/// Whole messages of the kinds that begin and end transactions; Stream Abort has a strategy of its own.
fn control() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        fixed(b'B', 20),
        fixed(b'C', 25),
        (any::<u32>(), 0..2_u8)
            .prop_map(|(xid, first)| [b"S".to_vec(), xid.to_be_bytes().to_vec(), vec![first]].concat()),
        Just(b"E".to_vec()),
        fixed(b'c', 29),
        named(b'b', 28),
        named(b'P', 29),
        named(b'p', 29),
        named(b'K', 29),
        named(b'r', 37),
    ]
}

/// Without where and when, or with them.
fn stream_abort() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![fixed(b'A', 8), fixed(b'A', 24)]
}

/// Whole messages of every kind, as they are outside streams.
fn message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![2 => change(), 1 => control(), 1 => stream_abort()]
}

/// Messages of every kind, and where they stood: inside a stream or not.
fn placed() -> impl Strategy<Value = (Vec<u8>, bool)> {
    prop_oneof![
        message().prop_map(|bytes| (bytes, false)),
        (message(), any::<u32>()).prop_map(|message| (in_stream(message), true)),
    ]
}

fn parse(bytes: &[u8], streamed: bool) -> pgoutput::error::Result<Message<'_>> {
    if streamed { Message::parse_streamed(bytes) } else { Message::parse(bytes) }
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut out = b"before".to_vec();
    message.encode(&mut out).unwrap();
    out.split_off(6)
}

fn relation_bytes(relation: &Relation) -> Vec<u8> {
    encoded(&Message::Relation { xid: None, relation: relation.clone() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_are_a_value_or_none(bytes in nearly()) {
        let scalars = SCALARS.into_iter().map(Kind::Scalar);
        for kind in scalars.chain(kinds()) {
            for format in [Format::Text, Format::Binary] {
                let mut printed = Vec::new();
                if print(&mut printed, &kind, format, &bytes).is_err() {
                    continue;
                }
                // What is printed is read again, and means the same. A money or float can be written in several ways.
                let mut again = Vec::new();
                if kind != Kind::Opaque {
                    prop_assert!(print(&mut again, &kind, Format::Text, &printed).is_ok(), "{kind:?} {format:?}");
                    prop_assert_eq!(&again, &printed, "{:?} {:?}", &kind, format);
                }
                let is_json = matches!(kind, Kind::Scalar(Scalar::Json | Scalar::Jsonb));
                let written = write_value(&mut Vec::new(), &kind, format, &bytes, &mut Scratch::default());
                prop_assert!(written.is_ok() || is_json, "{kind:?} {format:?}");
                // In proportion to what came: a float of two bytes prints as up to ten, a quote is doubled at each level.
                prop_assert!(printed.len() <= 64 + bytes.len() * 24, "{kind:?} {format:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for streamed in [false, true] {
            if let Ok(message) = parse(&bytes, streamed) {
                let again = encoded(&message);
                prop_assert_eq!(parse(&again, streamed), Ok(message));
            }
        }
        let _ = Frame::parse(&bytes);
        let _ = Answer::parse(&bytes);
        let mut scratch = Vec::new();
        for scalar in SCALARS {
            for format in [Format::Text, Format::Binary] {
                let _ = value::decode(scalar, format, &bytes, &mut scratch);
            }
        }
        for format in [Format::Text, Format::Binary] {
            let mut count = 0_usize;
            let _ = array::decode::<Invalid>(b',', format, &bytes, |_| {
                count += 1;
                Ok(())
            });
            prop_assert!(count <= bytes.len());
        }
    }

    #[test]
    fn every_proper_prefix_and_every_extra_byte_is_refused((message, streamed) in placed(), extra in any::<u8>()) {
        prop_assert!(parse(&message, streamed).is_ok());
        // Of a Stream Abort with where and when, the one without is a prefix.
        let whole = |end| message[0] == b'A' && end == 9;
        for end in (0..message.len()).filter(|&end| !whole(end)) {
            prop_assert!(parse(&message[..end], streamed).is_err());
        }
        let longer = [message, vec![extra]].concat();
        prop_assert!(parse(&longer, streamed).is_err());
    }

    #[test]
    fn what_was_read_is_written_as_it_was((message, streamed) in placed()) {
        let read = parse(&message, streamed).unwrap();
        let written = encoded(&read);
        prop_assert_eq!(&written, &message);
        prop_assert_eq!(parse(&written, streamed), Ok(read));
    }

    #[test]
    fn a_relation_is_what_its_message_says(relation in relation(), xid in prop::option::of(any::<u32>())) {
        let message = Message::Relation { xid, relation };
        let bytes = encoded(&message);
        prop_assert_eq!(parse(&bytes, xid.is_some()), Ok(message));
    }

    #[test]
    fn what_no_message_can_say_is_refused_and_leaves_nothing(name in name(), at in any::<prop::sample::Index>()) {
        let mut broken = name;
        let at = at.index(broken.len());
        broken[at] = 0;
        let column = Column { is_key: true, name: broken.clone(), type_oid: 1, type_modifier: -1 };
        let relation = Relation { oid: 1, schema: b"s".to_vec(), name: b"t".to_vec(), replica_identity: b'd', columns: vec![column] };
        let prepared = Prepared { flags: 0, prepare_lsn: 1, end_lsn: 2, prepare_time: 3, xid: 4, gid: &broken };
        for message in [
            Message::Origin { commit_lsn: 0, name: &broken },
            Message::Type { xid: Some(1), oid: 1, schema: b"s", name: &broken },
            Message::Message { xid: None, transactional: true, lsn: 0, prefix: &broken, content: b"" },
            Message::Relation { xid: None, relation },
            Message::Prepare(prepared),
        ] {
            let mut out = b"before".to_vec();
            prop_assert_eq!(message.encode(&mut out).map_err(|error| error.reason), Err(Reason::UnexpectedByte(0)));
            prop_assert_eq!(out, b"before".to_vec());
        }
    }

    #[test]
    fn a_name_has_an_end(
        lengths in prop::array::uniform5(prop_oneof![4 => 1..64_usize, 2 => Just(LONGEST_NAME), 1 => LONGEST_NAME + 1..LONGEST_NAME * 3]),
        xid in prop::option::of(any::<u32>()),
    ) {
        let [schema, name, column, type_schema, type_name] = lengths.map(|length| vec![b'n'; length]);
        let (zero, kept) = (vec![0_u8], |names: &[usize]| names.iter().all(|&length| length <= LONGEST_NAME));
        let column = Column { is_key: true, name: column, type_oid: 25, type_modifier: -1 };
        let bytes = [b"R\0\0\0\x01".to_vec(), schema.clone(), zero.clone(), name.clone(), zero.clone(), b"d\0\x01\x01".to_vec(),
            column.name.clone(), zero.clone(), vec![0, 0, 0, 25, 255, 255, 255, 255]].concat();
        let relation = Relation { oid: 1, schema, name, replica_identity: b'd', columns: vec![column] };
        let said = [b"Y\0\0\0\x01".to_vec(), type_schema.clone(), zero.clone(), type_name.clone(), zero].concat();
        let type_ = Message::Type { xid, oid: 1, schema: &type_schema, name: &type_name };
        for (bytes, message, whole) in [
            (bytes, Message::Relation { xid, relation }, kept(&lengths[..3])),
            (said, type_, kept(&lengths[3..])),
        ] {
            let bytes = if let Some(xid) = xid { in_stream((bytes, xid)) } else { bytes };
            let mut written = Vec::new();
            prop_assert_eq!(message.encode(&mut written).is_ok(), whole);
            prop_assert_eq!(&written, if whole { &bytes } else { &[][..] });
            match parse(&bytes, xid.is_some()) {
                Ok(read) => prop_assert!(whole && read == message),
                Err(error) => prop_assert!(!whole && matches!(error.reason, Reason::BadLength(1025..)), "{error}"),
            }
        }
    }

    #[test]
    fn the_oldest_that_is_prepared_is_known(said in prop::collection::vec((0..4_u32, 0..4_u8, 0..6_u64), 0..40)) {
        let mut session = Session::default();
        let mut prepared = HashMap::new();
        for (xid, what, lsn) in said {
            let of = Prepared { flags: 0, prepare_lsn: lsn, end_lsn: 9, prepare_time: 0, xid, gid: b"g" };
            let committed = Message::CommitPrepared { flags: 0, commit_lsn: lsn, end_lsn: 9, commit_time: 0, xid, gid: b"g" };
            session.observe(&encoded(&match what {
                0 => Message::BeginPrepare { prepare_lsn: lsn, end_lsn: 9, prepare_time: 0, xid, gid: b"g" },
                1 => Message::Prepare(of),
                2 => Message::StreamPrepare(of),
                _ => committed,
            }));
            if what == 3 { prepared.remove(&xid) } else { prepared.insert(xid, lsn) };
            prop_assert_eq!(session.oldest_prepared(), prepared.values().min().copied());
        }
    }

    #[test]
    fn frames_and_answers_are_read_as_they_were_written(
        (a, b, c, time) in any::<(u64, u64, u64, i64)>(),
        (d, e, f, g) in any::<(u32, u32, u32, u32)>(),
        flag in any::<bool>(),
        payload in prop::collection::vec(any::<u8>(), 0..50),
        extra in any::<u8>(),
    ) {
        let data = Frame::XLogData { wal_start: a, wal_end: b, send_time: time, payload: &payload };
        let keepalive = Frame::Keepalive { wal_end: a, send_time: time, reply_requested: flag };
        for frame in [data, keepalive] {
            let mut out = Vec::new();
            frame.encode(&mut out);
            prop_assert_eq!(Frame::parse(&out), Ok(frame));
            for end in 0..out.len().saturating_sub(if frame == data { payload.len() } else { 0 }) {
                prop_assert!(Frame::parse(&out[..end]).is_err());
            }
        }
        let update = Answer::StatusUpdate { written: a, flushed: b, applied: c, send_time: time, reply_requested: flag };
        let feedback = Answer::HotStandbyFeedback { send_time: time, xmin: d, xmin_epoch: e, catalog_xmin: f, catalog_xmin_epoch: g };
        for (answer, length) in [(update, 34), (feedback, 25)] {
            let mut out = Vec::new();
            answer.encode(&mut out);
            prop_assert_eq!(out.len(), length);
            prop_assert_eq!(Answer::parse(&out), Ok(answer));
            for end in 0..out.len() {
                prop_assert!(Answer::parse(&out[..end]).is_err());
            }
            out.push(extra);
            prop_assert!(Answer::parse(&out).is_err());
        }
    }

    #[test]
    fn any_stream_gives_a_batch_of_as_many_messages(
        messages in prop::collection::vec(placed().prop_map(|(bytes, _)| bytes), 0..30),
        position in any::<(u64, i64)>(),
    ) {
        let mut session = Session::default();
        let mut builder = Builder::default();
        for message in &messages {
            builder.push(&mut session, message, 1);
        }
        let batch = builder.finish();
        prop_assert_eq!(batch.records().len(), messages.len());
        for (record, message) in batch.records().iter().zip(&messages) {
            prop_assert_eq!(batch.bytes(record), message.as_slice());
        }
        // Cutting down keeps the order and never keeps what is at or below the position.
        for record in batch.after(position).records() {
            prop_assert!(batch.position(record).is_none_or(|own| own > position));
        }
        prop_assert!(batch.select(None, None).records().iter().all(Record::is_change));
        // Cut down and put together again it is the same; what cannot be read is in every selection.
        let mut builder = Builder::default();
        builder.push_batch(&batch.select(None, Some(b"IUDTM")));
        let (again, changes) = (builder.finish(), batch.select(None, None));
        let facts = |batch: &Batch| {
            let one = |record: &Record| (batch.bytes(record).to_vec(), record.lsn, record.streamed, batch.position(record), batch.truncated(record).len());
            batch.records().iter().map(one).collect::<Vec<_>>()
        };
        prop_assert_eq!(facts(&again), facts(&changes));
    }

    #[test]
    fn indexes_count_the_changes_of_a_transaction(rows in 1..20_i64) {
        let begin = [b"B".as_slice(), &7_u64.to_be_bytes(), &0_u64.to_be_bytes(), &1_u32.to_be_bytes()].concat();
        let row = [b"I".as_slice(), &1_u32.to_be_bytes(), b"N", &0_i16.to_be_bytes()].concat();
        let mut session = Session::default();
        let mut builder = Builder::default();
        builder.push(&mut session, &begin, 0);
        for _ in 0..rows {
            builder.push(&mut session, &row, 0);
        }
        let batch = builder.finish();
        let positions: Vec<_> = batch.records().iter().filter_map(|record| batch.position(record)).collect();
        prop_assert_eq!(positions, (0..rows).map(|index| (7, index)).collect::<Vec<_>>());
    }

    #[test]
    fn a_copy_cut_anywhere_gives_the_same_rows(
        rows in prop::collection::vec(prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), 2), 0..20),
        cuts in prop::collection::vec(1..40_usize, 1..10),
    ) {
        let column = Column { is_key: false, name: b"c".to_vec(), type_oid: 17, type_modifier: -1 };
        let relation = Relation { oid: 9, schema: b"s".to_vec(), name: b"t".to_vec(), replica_identity: b'd', columns: vec![column.clone(), column] };
        let shape = Arc::new(session::Shape { bytes: relation_bytes(&relation).into(), relation });
        let mut copied = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        for row in &rows {
            copied.extend_from_slice(&2_i16.to_be_bytes());
            for field in row {
                match field {
                    None => copied.extend_from_slice(&(-1_i32).to_be_bytes()),
                    Some(bytes) => {
                        copied.extend_from_slice(&i32::try_from(bytes.len()).unwrap().to_be_bytes());
                        copied.extend_from_slice(bytes);
                    }
                }
            }
        }
        copied.extend_from_slice(&(-1_i16).to_be_bytes());
        let mut written = Vec::new();
        encode::copy_header(&mut written);
        for row in &rows {
            let fields: Vec<_> = row.iter().map(Option::as_deref).collect();
            encode::copy_row(&fields, &mut written).unwrap();
        }
        encode::copy_trailer(&mut written);
        prop_assert_eq!(&written, &copied);
        let mut reader = copy::Reader::new(Arc::clone(&shape), 5, Vec::new());
        let mut builder = Builder::default();
        let mut rest = copied.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            prop_assert!(!reader.finished());
            let (piece, after) = rest.split_at(rest.len().min(*cut));
            prop_assert!(reader.read(piece, &mut builder).is_ok());
            rest = after;
        }
        prop_assert!(reader.finished());
        let batch = builder.finish();
        prop_assert_eq!(batch.records().len(), rows.len());
        for record in batch.records() {
            prop_assert!(Message::parse(batch.bytes(record)).is_ok());
            prop_assert_eq!(batch.position(record), Some((5, -1)));
        }
        prop_assert!(reader.read(b"x", &mut Builder::default()).is_err());
    }

    #[test]
    fn any_frames_leave_the_reader_sane(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..10)) {
        let mut reader = Reader::default();
        let mut builder = Builder::default();
        for frame in &frames {
            let before = (reader.received_lsn(), reader.idle_lsn());
            let _ = reader.read(frame, &mut builder);
            prop_assert!(reader.received_lsn() >= before.0 && reader.idle_lsn() >= before.1);
            prop_assert!(reader.idle_lsn() <= reader.received_lsn());
        }
    }
}
