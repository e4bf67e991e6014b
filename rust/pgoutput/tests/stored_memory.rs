//! Bytes that may be a batch take no more memory than a small multiple of their size, whatever they announce.
#![allow(missing_docs, clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing)]
use std::alloc::System;

use cap::Cap;
use pgoutput::batch::{Batch, Builder};
use pgoutput::message::Message;
use pgoutput::relation::{Column, Relation};
use pgoutput::session::Session;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// What takes the most room for its bytes: messages of nothing, tables of few columns, truncates, short transactions.
fn batch() -> Vec<u8> {
    let mut messages = Vec::new();
    let mut put = |message: &Message<'_>| {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        messages.push(bytes);
    };
    for oid in 1..200 {
        let column = Column { is_key: false, name: b"c".to_vec(), type_oid: 23, type_modifier: -1 };
        let columns = vec![column; usize::try_from(oid % 4).unwrap()];
        let name = oid.to_string().into_bytes();
        let relation = Relation { oid, schema: b"s".to_vec(), name, replica_identity: b'd', columns };
        put(&Message::Relation { xid: None, relation });
    }
    for xid in 1..500_u32 {
        put(&Message::Begin { final_lsn: u64::from(xid), commit_time: 1, xid });
        put(&Message::Origin { commit_lsn: u64::from(xid), name: b"o" });
        put(&Message::Truncate {
            xid: None,
            cascade: false,
            restart_identity: false,
            relation_oids: (1..xid % 9).collect(),
        });
    }
    messages.resize(messages.len() + 1000, Vec::new());
    let (mut session, mut builder) = (Session::default(), Builder::default());
    for message in &messages {
        builder.push(&mut session, message, 1);
    }
    let mut bytes = Vec::new();
    builder.finish().encode(&mut bytes).unwrap();
    bytes
}

/// The one test here, because the allocator counts for the whole process.
#[test]
fn no_bytes_take_more_memory_than_they_justify() {
    let whole = batch();
    assert_eq!(Batch::parse(&whole).unwrap().records().len(), 199 + 3 * 499 + 1000);
    let mut changed = whole.clone();
    let is_batch = |bytes: &[u8]| {
        // More is not given, which ends the process.
        ALLOCATOR.set_limit(ALLOCATOR.allocated() + 16_384 + 32 * bytes.len()).unwrap();
        let parsed = Batch::parse(bytes).is_ok();
        ALLOCATOR.set_limit(usize::MAX).unwrap();
        parsed
    };
    assert!(is_batch(&whole));
    for end in (0..whole.len()).step_by(4999) {
        assert!(!is_batch(&whole[..end]), "{end}");
    }
    let mut refused = 0;
    // Wherever a count or a length may be: four billion.
    for at in (0..whole.len() - 4).step_by(401).chain(4..16) {
        changed[at..at + 4].fill(0xff);
        refused += usize::from(!is_batch(&changed));
        changed[at..at + 4].copy_from_slice(&whole[at..at + 4]);
    }
    assert!(refused > 20, "{refused}");
    let few = [b"pgb\x01".as_slice(), &[0; 8], &u32::MAX.to_be_bytes()].concat();
    assert!(!is_batch(&few));
}
