//! A batch that was written is the same when it is read; whatever the bytes are, they are a batch or an error.
#![allow(missing_docs, clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing)]
use std::collections::HashSet;
use std::sync::Arc;

use pgoutput::batch::{Batch, Builder, Record};
use pgoutput::copy;
use pgoutput::encode;
use pgoutput::error::Reason;
use pgoutput::message::{Message, Prepared};
use pgoutput::relation::{Column, Relation};
use pgoutput::session::{Origin, Place, Session, Shape, Transaction};
use proptest::prelude::*;

fn relation(oid: u32, columns: usize) -> Relation {
    let column = |number: usize| Column {
        is_key: number == 0,
        name: format!("c{number}").into_bytes(),
        type_oid: 25,
        type_modifier: -1,
    };
    // One in a schema whose name is not sent.
    let schema = if oid == 3 { b"pg_catalog".to_vec() } else { b"s".to_vec() };
    let name = format!("t{oid}").into_bytes();
    Relation { oid, schema, name, replica_identity: b'd', columns: (0..columns).map(column).collect() }
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out).unwrap();
    out
}

/// Messages that make each other's meaning: few tables, few transactions, so that rows find theirs.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let oid = || 1..4_u32;
    let row = prop_oneof![Just(b'I'), Just(b'U'), Just(b'D')];
    let xid = || prop_oneof![Just(7_u32), Just(8)];
    prop_oneof![
        6 => (row, oid(), prop::option::of(xid()), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(kind, oid, xid, cell)| {
            let mut bytes = vec![kind];
            bytes.extend(xid.iter().flat_map(|xid| xid.to_be_bytes()));
            bytes.extend_from_slice(&oid.to_be_bytes());
            bytes.extend_from_slice(if kind == b'D' { b"K\0\x01t" } else { b"N\0\x01t" });
            bytes.extend_from_slice(&u32::try_from(cell.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&cell);
            bytes
        }),
        3 => (oid(), 0..3_usize, prop::option::of(xid())).prop_map(|(oid, columns, xid)| {
            encoded(&Message::Relation { xid, relation: relation(oid, columns) })
        }),
        2 => (any::<u64>(), any::<i64>(), any::<u32>()).prop_map(|(final_lsn, commit_time, xid)| {
            encoded(&Message::Begin { final_lsn, commit_time, xid })
        }),
        2 => (any::<u64>(), any::<u64>()).prop_map(|(commit_lsn, end_lsn)| {
            encoded(&Message::Commit { flags: 0, commit_lsn, end_lsn, commit_time: 1 })
        }),
        1 => (any::<u64>(), prop::collection::vec(1..=255_u8, 0..9)).prop_map(|(commit_lsn, name)| {
            encoded(&Message::Origin { commit_lsn, name: &name })
        }),
        1 => prop::collection::vec(oid(), 0..4).prop_map(|relation_oids| {
            encoded(&Message::Truncate { xid: None, cascade: true, restart_identity: false, relation_oids })
        }),
        1 => (any::<bool>(), any::<u64>()).prop_map(|(transactional, lsn)| {
            encoded(&Message::Message { xid: None, transactional, lsn, prefix: b"p", content: b"c" })
        }),
        1 => oid().prop_map(|oid| encoded(&Message::Type { xid: None, oid, schema: b"s", name: b"mood" })),
        1 => (xid(), any::<bool>()).prop_map(|(xid, first)| encoded(&Message::StreamStart { xid, first_segment: first })),
        1 => Just(b"E".to_vec()),
        1 => (xid(), any::<u64>()).prop_map(|(xid, lsn)| {
            let prepared = Prepared { flags: 0, prepare_lsn: lsn, end_lsn: lsn, prepare_time: 3, xid, gid: b"g" };
            encoded(&Message::StreamPrepare(prepared))
        }),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ]
}

fn read(messages: &[(Vec<u8>, u64)]) -> Batch {
    let (mut session, mut builder) = (Session::default(), Builder::default());
    for (message, lsn) in messages {
        builder.push(&mut session, message, *lsn);
    }
    builder.finish()
}

fn stored(batch: &Batch) -> Vec<u8> {
    let mut out = b"before".to_vec();
    batch.encode(&mut out).unwrap();
    out.split_off(6)
}

/// All that is known of a batch, except what its messages are numbered as.
fn facts(batch: &Batch) -> Vec<impl PartialEq + std::fmt::Debug> {
    let shape = |number: Option<usize>| number.map(|number| Arc::clone(&batch.shapes()[number]));
    let one = |record: &Record| {
        (
            (batch.bytes(record).to_vec(), record.lsn, record.kind, record.streamed, record.index),
            (shape(record.shape), batch.truncated(record).iter().copied().map(shape).collect::<Vec<_>>()),
            (batch.transaction(record), batch.origin(record).cloned(), batch.position(record)),
            (record.is_change(), record.is_in_progress(), record.fields_at()),
        )
    };
    batch.records().iter().map(one).collect()
}

fn comes_back(batch: &Batch) {
    let bytes = stored(batch);
    let again = Batch::parse(&bytes).unwrap();
    assert_eq!(facts(&again), facts(batch));
    assert_eq!((again.end_lsn(), again.nbytes()), (batch.end_lsn(), batch.nbytes()));
    assert!(again.records().iter().enumerate().all(|(number, record)| record.number == number));
    // What cannot be seen from here is in these bytes, too.
    assert_eq!(stored(&again), bytes);
}

fn messages() -> impl Strategy<Value = Vec<(Vec<u8>, u64)>> {
    prop::collection::vec((message(), prop_oneof![Just(0), any::<u64>()]), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_was_written_comes_back(messages in messages(), more in messages(), at in any::<prop::sample::Index>()) {
        let batch = read(&messages);
        comes_back(&batch);
        let tables = HashSet::from([(b"s".to_vec(), b"t1".to_vec())]);
        let selected = batch.select(Some(&tables), None);
        comes_back(&selected);
        // Of the shapes those are kept that are used.
        let used = Batch::parse(&stored(&batch.select(Some(&HashSet::new()), Some(b"")))).unwrap();
        prop_assert_eq!(used.shapes().len(), 0);
        let positions: Vec<_> = batch.records().iter().filter_map(|record| batch.position(record)).collect();
        if !positions.is_empty() {
            let position = *at.get(&positions);
            comes_back(&batch.after(position));
            comes_back(&batch.up_to(position));
        }
        let mut builder = Builder::default();
        builder.push_batch(&selected);
        builder.push_batch(&read(&more));
        comes_back(&builder.finish());
    }

    #[test]
    fn every_prefix_and_every_extra_byte_is_refused(messages in messages(), extra in any::<u8>()) {
        let mut bytes = stored(&read(&messages));
        for end in (0..bytes.len()).step_by(7) {
            prop_assert!(Batch::parse(&bytes[..end]).is_err(), "{end}");
        }
        bytes.push(extra);
        prop_assert!(Batch::parse(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_a_batch_or_an_error(
        messages in messages(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        noise in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut bytes = stored(&read(&messages));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for bytes in [bytes, [b"pgb\x01\0\0\0".as_slice(), &noise].concat(), noise] {
            if let Ok(batch) = Batch::parse(&bytes) {
                for record in batch.records() {
                    let _ = (batch.message(record), batch.truncated(record), batch.origin(record), record.fields_at());
                }
                comes_back(&batch);
            }
        }
    }
}

#[test]
fn rows_of_a_copy_come_back() {
    let relation = relation(9, 1);
    let bytes = encoded(&Message::Relation { xid: None, relation: relation.clone() });
    let mut copied = Vec::new();
    encode::copy_header(&mut copied);
    for cell in [Some(b"one".as_slice()), None] {
        encode::copy_row(&[cell], &mut copied).unwrap();
    }
    encode::copy_trailer(&mut copied);
    let mut reader = copy::Reader::new(Arc::new(Shape { bytes: bytes.into(), relation }), 5, vec![true]);
    let mut builder = Builder::default();
    reader.read(&copied, &mut builder).unwrap();
    let batch = builder.finish();
    assert_eq!(batch.records().len(), 2);
    comes_back(&batch);
}

#[test]
fn all_that_can_be_known_of_a_transaction_comes_back() {
    let mut builder = Builder::default();
    for known in 0..16_u8 {
        let is = |bit: u8| known & bit != 0;
        let transaction = Transaction {
            commit_lsn: 1 + u64::from(known),
            commit_time: is(1).then_some(i64::MIN),
            xid: is(2).then_some(u32::MAX),
            previous_end_lsn: is(4).then_some(u64::MAX),
        };
        let origin = is(8).then(|| Arc::new(Origin { commit_lsn: 9, name: b"elsewhere".to_vec() }));
        let place =
            Place { transaction: Some(transaction), origin, index: Some(-1), end_lsn: Some(3), ..Place::default() };
        builder.bytes_mut().push(b'?');
        builder.push_written(usize::from(known), &place);
    }
    comes_back(&builder.finish());
}

#[test]
fn a_row_takes_little_more_than_its_message() {
    let row = [b"I".as_slice(), &1_u32.to_be_bytes(), b"N\0\x01n"].concat();
    let begin = encoded(&Message::Begin { final_lsn: 1, commit_time: 2, xid: 3 });
    let relation = encoded(&Message::Relation { xid: None, relation: relation(1, 1) });
    let mut messages = vec![(begin, 0), (relation, 0)];
    messages.extend((0..1000).map(|lsn| (row.clone(), lsn)));
    let batch = read(&messages);
    let size = stored(&batch).len();
    assert!(size <= batch.nbytes() + 13 * 1000 + 200, "{size} of {}", batch.nbytes());
}

#[test]
fn what_is_no_batch_or_of_another_version_is_named() {
    let bytes = stored(&Batch::default());
    assert_eq!(bytes, b"pgb\x01\0\0\0\0\0\0\0\0\0\0\0\0");
    let error = |bytes: &[u8]| Batch::parse(bytes).unwrap_err();
    assert_eq!(error(b"PGCOPY").to_string(), "unexpected byte 0x50 in signature of a batch at byte 0");
    assert_eq!(error(b"pgb\x02\0\0").to_string(), "unexpected byte 0x02 in version of a batch at byte 3");
    // A count is believed only as far as there are bytes: nothing is made ready for four billion messages.
    for at in [4, 8, 12] {
        let mut many = bytes.clone();
        many[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        let error = error(&many);
        assert_eq!((error.reason, error.offset), (Reason::BadLength(i64::from(u32::MAX)), at));
    }
}
