//! Batches with other rows: whatever the bytes are, a change keeps its place or is refused, and none is passed over.
#![allow(missing_docs, clippy::unwrap_used, clippy::arithmetic_side_effects)]
use std::sync::Arc;

use pgoutput::batch::reshape::{Keys, Reshape, Source};
use pgoutput::batch::{Batch, Builder, Record};
use pgoutput::catalog::Catalog;
use pgoutput::message::Message;
use pgoutput::relation::{Column, Relation};
use pgoutput::session::{Session, Shape};
use proptest::prelude::*;

fn relation(oid: u32, columns: &[(&str, u32)]) -> Relation {
    let column = |&(name, type_oid): &(&str, u32)| Column {
        is_key: name == "id",
        name: name.as_bytes().to_vec(),
        type_oid,
        type_modifier: -1,
    };
    Relation {
        oid,
        schema: b"s".to_vec(),
        name: b"t".to_vec(),
        replica_identity: b'd',
        columns: columns.iter().map(column).collect(),
    }
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out).unwrap();
    out
}

fn shape(relation: Relation) -> Arc<Shape> {
    let bytes = encoded(&Message::Relation { xid: None, relation: relation.clone() });
    Arc::new(Shape { relation, bytes: bytes.into() })
}

/// A cell as it is in a tuple, good or not.
fn cell() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => Just(b"n".to_vec()),
        1 => Just(b"u".to_vec()),
        4 => (prop_oneof![Just(b't'), Just(b'b')], prop::collection::vec(any::<u8>(), 0..6)).prop_map(|(kind, value)| {
            let mut bytes = vec![kind];
            bytes.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&value);
            bytes
        }),
        1 => prop::collection::vec(any::<u8>(), 0..3),
    ]
}

fn row() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(cell(), 0..4).prop_map(|cells| {
        let mut bytes = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(cells.concat());
        bytes
    })
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let oid = || prop_oneof![9 => Just(1_u32), 1 => Just(2)];
    prop_oneof![
        3 => (oid(), row()).prop_map(|(oid, row)| [b"I", &oid.to_be_bytes()[..], b"N", &row].concat()),
        3 => (oid(), row(), row()).prop_map(|(oid, old, new)| {
            [b"U", &oid.to_be_bytes()[..], b"K", &old, b"N", &new].concat()
        }),
        2 => (oid(), row()).prop_map(|(oid, row)| [b"D", &oid.to_be_bytes()[..], b"O", &row].concat()),
        1 => oid().prop_map(|oid| {
            encoded(&Message::Truncate { xid: None, cascade: false, restart_identity: false, relation_oids: vec![oid] })
        }),
        1 => prop::collection::vec(any::<u8>(), 0..12),
    ]
}

fn batch(messages: &[Vec<u8>]) -> Batch {
    let (mut session, mut builder) = (Session::default(), Builder::default());
    let table = relation(1, &[("id", 23), ("email", 25), ("total", 1700)]);
    let before = [
        encoded(&Message::Relation { xid: None, relation: table }),
        encoded(&Message::Begin { final_lsn: 100, commit_time: 1, xid: 7 }),
    ];
    for (lsn, message) in (1_u64..).zip(before.iter().chain(messages)) {
        builder.push(&mut session, message, lsn);
    }
    builder.finish()
}

fn changes(batch: &Batch) -> Vec<&Record> {
    batch.records().iter().filter(|record| record.is_change()).collect()
}

proptest! {
    #[test]
    fn a_reshaped_change_keeps_its_place_and_what_cannot_be_read_is_refused(
        messages in prop::collection::vec(message(), 0..8),
        sources in prop::collection::vec(prop_oneof![
            (0..3_usize).prop_map(Source::Column),
            (0..3_usize, prop::option::of(Just(b"***".to_vec()))).prop_map(|(at, text)| Source::Constant(at, text)),
            (0..3_usize).prop_map(|at| Source::Digest(at, 0)),
        ], 0..4),
    ) {
        let batch = batch(&messages);
        let names = ["a", "b", "c", "d"].map(|name| (name, 25));
        let to = shape(relation(1, names.get(..sources.len()).unwrap()));
        let catalog = Catalog::default();
        let reshape = |from: &Arc<Shape>| {
            (from.relation.oid == 1).then(|| Reshape::new(from, Arc::clone(&to), sources.clone(), &catalog).unwrap())
        };
        let reshapes: Vec<Option<Reshape>> = batch.shapes().iter().map(reshape).collect();
        match batch.reshaped(&reshapes, &mut |_, value| Some(vec![b'x'; value.len()])) {
            Ok(made) => {
                let (was, now) = (changes(&batch), changes(&made));
                prop_assert_eq!(was.len(), now.len());
                for (was, now) in was.into_iter().zip(now) {
                    prop_assert_eq!(batch.position(was), made.position(now));
                    prop_assert_eq!((was.lsn, was.kind), (now.lsn, now.kind));
                    prop_assert!(made.message(now).is_ok());
                    if let Some(number) = now.shape {
                        let columns = made.shapes().get(number).unwrap().relation.columns.len();
                        if let Message::Insert { new, .. } = made.message(now).unwrap() {
                            prop_assert_eq!(new.len(), columns);
                        }
                    }
                }
            }
            Err(failed) => prop_assert!(batch.records().get(failed.record).is_some_and(Record::is_change)),
        }
    }

    #[test]
    fn pieces_and_parts_are_all_there_is(messages in prop::collection::vec(message(), 0..12), most in 1..5_usize) {
        let batch = batch(&messages);
        let all: Vec<&[u8]> = changes(&batch).into_iter().map(|record| batch.bytes(record)).collect();
        let pieces = batch.pieces(most, usize::MAX, false);
        let found: Vec<&[u8]> =
            pieces.iter().flat_map(|piece| changes(piece).into_iter().map(|record| piece.bytes(record))).collect();
        prop_assert_eq!(&all, &found);
        prop_assert!(pieces.iter().all(|piece| (1..=most).contains(&piece.records().len())));
        let whole = batch.pieces(most, usize::MAX, true);
        prop_assert_eq!(whole.iter().map(|piece| changes(piece).len()).sum::<usize>(), all.len());
        for (one, next) in whole.iter().zip(whole.iter().skip(1)) {
            let (last, first) = (one.records().last().unwrap(), next.records().first().unwrap());
            prop_assert!(one.transaction(last).is_none() || one.transaction(last) != next.transaction(first));
        }
        let odd = (0..all.len()).filter(|number| number % 2 == 1).collect();
        let taken = batch.take(&odd);
        let expected: Vec<&[u8]> = all.iter().skip(1).step_by(2).copied().collect();
        prop_assert_eq!(changes(&taken).into_iter().map(|record| taken.bytes(record)).collect::<Vec<_>>(), expected);
        let id = [b"id".to_vec()];
        let keys = batch.keys(|shape| (shape.relation.oid == 1).then_some(&id[..]), true);
        prop_assert_eq!(keys.len(), all.len());
        for (record, keys) in changes(&batch).into_iter().zip(keys) {
            prop_assert!(keys == Keys::All || batch.message(record).is_ok());
        }
    }
}
