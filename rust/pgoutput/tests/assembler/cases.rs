//! What is known of single cases: errors, what may be confirmed, what takes room.
//!
//! Over 400 lines, because each case is a few lines and all are made of the same messages.
use pgoutput::assembler::{Assembler, Cause, Statistics};
use pgoutput::encode;
use pgoutput::message::{Message, Prepared};
use pgoutput::tuple::{Datum, Tuple};

use crate::assembled;
use crate::disk::Disk;
use crate::server::{Sent, bytes, in_stream, relation};

const XID: u32 = 700;

fn start(first_segment: bool) -> Sent {
    (bytes(&Message::StreamStart { xid: XID, first_segment }), 10)
}

fn stop() -> Sent {
    (bytes(&Message::StreamStop), 0)
}

fn stream_commit(lsn: u64) -> Sent {
    let commit = Message::StreamCommit { xid: XID, flags: 0, commit_lsn: lsn, end_lsn: lsn + 8, commit_time: 1 };
    (bytes(&commit), lsn)
}

fn row(xid: Option<u32>, text: &[u8]) -> Sent {
    let mut tuple = Vec::new();
    encode::tuple(&[Datum::Text(text)], &mut tuple).unwrap();
    let new = Tuple::parse(&mut pgoutput::cursor::Cursor::new(&tuple)).unwrap();
    (bytes(&Message::Insert { xid, relation_oid: 1, new }), 20)
}

fn all(messages: &[Sent], memory: usize) -> Result<Vec<u8>, Cause<&'static str>> {
    let mut assembler = Assembler::new(Disk::default(), memory);
    let out = assembled(&mut assembler, messages, usize::MAX, |_, _, _| ());
    out.map(|out| out.iter().map(|(message, _)| message[0]).collect()).map_err(|(_, error)| error.cause)
}

#[test]
fn what_cannot_follow_is_an_error() {
    let begin = (bytes(&Message::Begin { final_lsn: 5, commit_time: 1, xid: 3 }), 5);
    let commit = (bytes(&Message::Commit { flags: 0, commit_lsn: 5, end_lsn: 6, commit_time: 1 }), 6);
    let misplaced = [
        vec![begin.clone(), begin.clone()],
        vec![commit.clone()],
        vec![stop()],
        vec![start(true), start(true)],
        vec![start(true), commit],
        vec![start(true), stream_commit(30)],
        vec![begin, stream_commit(30)],
        vec![row(None, b"a")],
    ];
    for messages in misplaced {
        assert!(matches!(all(&messages, 0), Err(Cause::Misplaced)), "{messages:?}");
    }
    for messages in [vec![start(false)], vec![stream_commit(30)]] {
        assert!(matches!(all(&messages, 0), Err(Cause::UnknownStream { xid: XID })), "{messages:?}");
    }
    let mut cut = start(true);
    cut.0.pop();
    assert!(matches!(all(&[cut], 0), Err(Cause::Malformed(_))));
}

#[test]
fn the_commit_of_a_prepared_transaction_needs_its_changes() {
    let commit = |xid, gid: &'static [u8]| {
        let commit = Message::CommitPrepared { flags: 0, commit_lsn: 90, end_lsn: 98, commit_time: 1, xid, gid };
        (bytes(&commit), 98)
    };
    let of = Prepared { flags: 0, prepare_lsn: 50, end_lsn: 58, prepare_time: 1, xid: XID, gid: b"one" };
    let prepared = [start(true), (in_stream(&relation(1, 1), XID), 0), row(Some(XID), b"a"), stop()];
    let prepared = [&prepared[..], &[(bytes(&Message::StreamPrepare(of)), 58)]].concat();
    for unknown in [commit(XID, b"other"), commit(9, b"one")] {
        let failed = all(&[&prepared[..], &[unknown]].concat(), 0);
        assert!(matches!(failed, Err(Cause::UnknownPrepared { .. })));
    }
    assert_eq!(all(&[&prepared[..], &[commit(XID, b"one")]].concat(), 0).unwrap(), b"BRIC");
    // Its rollback does not: there is nothing that could have come out.
    let rollback = Message::RollbackPrepared {
        flags: 0,
        prepare_end_lsn: 58,
        rollback_end_lsn: 98,
        prepare_time: 1,
        rollback_time: 2,
        xid: XID,
        gid: b"one",
    };
    let mut assembler = Assembler::new(Disk::default(), 0);
    let out = assembled(&mut assembler, &[(bytes(&rollback), 98)], 1, |_, _, _| ()).unwrap();
    assert!(out.is_empty());
    assert_eq!((assembler.confirmable_lsn(), assembler.hold_lsn()), (98, None));
}

#[test]
fn a_prepared_transaction_holds_until_its_commit_has_come_out() {
    let of = Prepared { flags: 0, prepare_lsn: 50, end_lsn: 58, prepare_time: 1, xid: XID, gid: b"one" };
    let mut messages = vec![start(true), (in_stream(&relation(1, 1), XID), 0)];
    messages.extend((0..20_000).map(|_| row(Some(XID), b"a")));
    let commit =
        Message::CommitPrepared { flags: 0, commit_lsn: 90, end_lsn: 98, commit_time: 1, xid: XID, gid: b"one" };
    messages.extend([stop(), (bytes(&Message::StreamPrepare(of)), 58), (bytes(&commit), 98)]);
    let mut assembler = Assembler::new(Disk::default(), 0);
    let mut seen = Vec::new();
    assembled(&mut assembler, &messages, usize::MAX, |batch, _, assembler| {
        seen.push((batch.end_lsn(), assembler.hold_lsn(), assembler.confirmable_lsn()));
    })
    .unwrap();
    assert_eq!(seen, [(None, Some(50), 50), (None, Some(50), 50), (Some(98), None, 98)]);
}

#[test]
fn what_a_logical_message_belongs_to_is_concluded_or_an_error() {
    let (whole, sub) = (row(Some(XID), b"a"), row(Some(701), b"b"));
    let relation = (in_stream(&relation(1, 1), XID), 0);
    let of = |inside: &[&Sent], aborts: &[u32]| {
        let mut messages = vec![start(true), relation.clone()];
        messages.extend(inside.iter().map(|&message| message.clone()));
        messages.push(stop());
        messages.extend(aborts.iter().map(|&subxid| abort(subxid)));
        messages.push(stream_commit(90));
        all(&messages, 0)
    };
    let one = message(30);
    assert_eq!(of(&[&one, &sub], &[]).unwrap(), b"BRMIC");
    assert_eq!(of(&[&one, &whole, &sub], &[701]).unwrap(), b"BRMIC");
    assert_eq!(of(&[&whole, &sub, &one], &[701]).unwrap(), b"BRIC");
    assert_eq!(of(&[&sub, &one, &sub], &[701]).unwrap(), b"", "nothing is left of it");
    assert_eq!(of(&[&whole, &one, &sub], &[702, 701]).map_err(|_| ()), Err(()));
    // The inner one leaves a doubt that the outer one takes away.
    let inner = row(Some(702), b"c");
    assert_eq!(of(&[&whole, &sub, &one, &inner], &[702, 701]).unwrap(), b"BRIC");
    assert!(matches!(of(&[&whole, &sub, &one, &inner], &[702]), Err(Cause::DoubtfulMessage { xid: XID, lsn: 30 })));
    assert!(matches!(of(&[&one], &[701]), Err(Cause::DoubtfulMessage { .. })));
    // Where the LSNs are the same, the row stands behind the message, and 701 may have begun there; where one is not known, too.
    let at = |(message, _): &Sent, lsn| (message.clone(), lsn);
    let (inside, behind, unknown) = (at(&sub, 20), at(&sub, 30), at(&sub, 0));
    let doubtful: [&[&Sent]; 5] = [
        &[&whole, &behind, &behind, &one, &behind],
        &[&whole, &relation, &behind, &one],
        // Relations come again wherever they are invalidated.
        &[&whole, &behind, &relation, &behind, &one],
        &[&whole, &behind, &relation, &one],
        &[&whole, &behind, &relation, &one, &behind],
    ];
    for rows in doubtful {
        assert!(matches!(of(rows, &[701]), Err(Cause::DoubtfulMessage { lsn: 30, .. })));
    }
    assert_eq!(of(&[&whole, &behind, &one], &[]).unwrap(), b"BRIMIC", "in the order of the WAL");
    let large = (row(Some(701), &vec![b'x'; 100_000]).0, 30);
    assert_eq!(of(&[&whole, &large, &one], &[]).unwrap(), b"BRIIMC", "not held back");
    assert!(matches!(of(&[&whole, &large, &one], &[701]), Err(Cause::DoubtfulMessage { lsn: 30, .. })));
    assert_eq!(of(&[&inner, &behind, &one], &[701]).unwrap(), b"BRIC", "702 began in 701");
    assert_eq!(of(&[&whole, &inside, &behind, &one], &[701]).unwrap(), b"BRIC");
    assert_eq!(of(&[&at(&whole, 30), &one, &sub], &[701]).unwrap(), b"BRMIC");
    assert!(matches!(of(&[&whole, &unknown, &one], &[701]), Err(Cause::DoubtfulMessage { .. })));
    assert_eq!(of(&[&whole, &inside, &unknown, &one], &[702, 701]).unwrap(), b"BRIC");
    // A roll-back overtakes what the server still keeps: the message was written before 703 and 704 began.
    let overtaken = [
        vec![start(true), relation.clone(), whole, stop(), abort(704), start(false), sub.clone(), one, sub, stop()],
        vec![abort(703), stream_commit(90)],
    ];
    assert_eq!(all(&overtaken.concat(), 0).unwrap(), b"BRIIMIC");
}

fn message(lsn: u64) -> Sent {
    let message = Message::Message { xid: Some(XID), transactional: true, lsn, prefix: b"", content: b"" };
    (bytes(&message), lsn)
}

fn abort(subxid: u32) -> Sent {
    (bytes(&Message::StreamAbort { xid: XID, subxid, abort: None }), 25)
}

#[test]
fn a_message_that_stands_is_not_lost_between_two_that_do_not() {
    let told = (in_stream(&relation(1, 1), XID), 0);
    let inside = [told, row(Some(701), b"a"), message(30), row(Some(701), b"b"), message(40)];
    let outside = [row(Some(XID), b"c"), message(50), row(Some(701), b"d"), stop(), abort(701), stream_commit(90)];
    let expected = bytes(&Message::Message { xid: None, transactional: true, lsn: 40, prefix: b"", content: b"" });
    let mut assembler = Assembler::new(Disk::default(), 0);
    let sent = [&[start(true)][..], &inside, &outside].concat();
    let out = assembled(&mut assembler, &sent, usize::MAX, |_, _, _| ()).unwrap();
    let messages: Vec<_> = out.into_iter().map(|(message, _)| message).filter(|message| message[0] == b'M').collect();
    assert_eq!(messages, [expected]);
}

#[test]
fn any_number_of_logical_messages_takes_no_more_than_there_is_memory() {
    for between in [None, Some(701)] {
        let mut assembler = Assembler::new(Disk::default(), 1 << 20);
        let mut messages = vec![start(true), (in_stream(&relation(1, 1), XID), 0), row(Some(701), b"a")];
        for lsn in 0..50_000 {
            messages.push(message(100 + 8 * lsn));
            messages.extend(between.map(|subxid| row(Some(subxid), b"a")));
        }
        messages.push(stop());
        assembled(&mut assembler, &messages, 1000, |_, _, _| ()).unwrap();
        assert!(assembler.statistics().memory_bytes <= (1 << 20) + (1 << 15), "{:?}", assembler.statistics());
        let out = assembled(&mut assembler, &[abort(701), stream_commit(90)], 2, |_, _, _| ()).unwrap();
        assert!(out.is_empty(), "nothing is left of it: {out:?}");
    }
}

#[test]
fn what_is_known_of_roll_backs_is_bounded() {
    let limit = 4 << 20;
    let mut assembler = Assembler::new(Disk::default(), limit);
    let told = (in_stream(&relation(1, 1), XID), 0);
    assembled(&mut assembler, &[start(true), told, stop()], 9, |_, _, _| ()).unwrap();
    // Each message may have been rolled back with any of the sub-transactions that are still to end.
    let failed = (0..100_000).find_map(|turn: u32| {
        let piece = [start(false), message(100 + 8 * u64::from(turn)), row(Some(701 + turn), b"a"), stop()];
        let failed = assembled(&mut assembler, &piece, 9, |_, _, _| ()).err();
        let open = assembler.statistics();
        assert!(open.memory_bytes <= limit + (1 << 18), "{open:?}");
        failed
    });
    assert!(matches!(failed, Some((_, error)) if matches!(error.cause, Cause::Fixed { xid: XID, .. })));
}

#[test]
fn what_one_roll_back_took_is_known_as_one() {
    let mut assembler = Assembler::new(Disk::default(), 2 << 20);
    let told = (in_stream(&relation(1, 1), XID), 0);
    let first = [start(true), told, row(Some(XID), b"a"), row(Some(701), b"outer"), stop()];
    assembled(&mut assembler, &first, 9, |_, _, _| ()).unwrap();
    for turn in 0..14_000 {
        let inner = row(Some(702 + turn), &[b'x'; 300]);
        let piece = [start(false), message(100 + 8 * u64::from(turn)), inner, stop()];
        assembled(&mut assembler, &piece, 9, |_, _, _| ()).unwrap();
    }
    let aborts: Vec<_> = (0..14_000).rev().map(|turn| abort(702 + turn)).chain([abort(701)]).collect();
    assembled(&mut assembler, &aborts, 999, |_, _, _| ()).unwrap();
    let out = assembled(&mut assembler, &[stream_commit(900_000)], 1, |_, _, _| ()).unwrap();
    assert_eq!(out.iter().map(|(message, _)| message[0]).collect::<Vec<_>>(), b"BRIC");
}

#[test]
fn of_messages_in_any_order_those_of_a_roll_back_are_lost() {
    for [first, second] in [[50, 30], [30, 50], [30, 30]] {
        let told = (in_stream(&relation(1, 1), XID), 0);
        let inside = [row(Some(701), b"a"), message(first), message(second), message(40)];
        let sent = [&[start(true), told, row(Some(XID), b"a")][..], &inside, &[stop(), abort(701), stream_commit(90)]];
        assert_eq!(all(&sent.concat(), 0).unwrap(), b"BRIC", "{first} {second}");
    }
}

fn prepared(xid: u32, prepare_lsn: u64) -> [Sent; 4] {
    let end_lsn = prepare_lsn + 8;
    let of = Prepared { flags: 0, prepare_lsn, end_lsn, prepare_time: 1, xid, gid: b"p" };
    let begin = Message::BeginPrepare { prepare_lsn, end_lsn, prepare_time: 1, xid, gid: b"p" };
    [(bytes(&begin), 0), (relation(1, 1), 0), row(None, b"a"), (bytes(&Message::Prepare(of)), 0)]
}

fn committed(xid: u32, commit_lsn: u64) -> [Sent; 1] {
    let end_lsn = commit_lsn + 8;
    let of = Message::CommitPrepared { flags: 0, commit_lsn, end_lsn, commit_time: 1, xid, gid: b"p" };
    [(bytes(&of), commit_lsn)]
}

#[test]
fn any_number_of_prepared_transactions_behind_one_that_nobody_ends() {
    let mut assembler = Assembler::new(Disk::default(), 1 << 20);
    let mut last = None;
    let mut after = |sent: &[Sent]| {
        assembled(&mut assembler, sent, 99, |batch, _, _| last = batch.end_lsn()).unwrap();
        (last, assembler.confirmable_lsn(), assembler.take_spans())
    };
    after(&prepared(1, 50));
    after(&prepared(2, 60));
    assert_eq!(after(&committed(1, 70)), (Some(50), 50, vec![(50, 78)]));
    for xid in 3..5000 {
        let lsn = 100 * u64::from(xid);
        after(&prepared(xid, lsn));
        assert_eq!(after(&committed(xid, lsn + 50)), (Some(50), 50, vec![(lsn, lsn + 58)]));
    }
    assert_eq!(after(&committed(2, 600_000)), (Some(600_008), 600_008, vec![(60, 600_008)]));
}

/// Two prepared transactions that overlap: until both are committed, a slot between the two would be sent the end of the first
/// without its changes.
#[test]
fn nothing_between_prepare_and_commit_prepared_is_to_be_confirmed() {
    let ordinary = |lsn| {
        let begin = Message::Begin { final_lsn: lsn, commit_time: 1, xid: 9 };
        let commit = Message::Commit { flags: 0, commit_lsn: lsn, end_lsn: lsn + 8, commit_time: 1 };
        [(bytes(&begin), lsn), row(None, b"a"), (bytes(&commit), lsn)]
    };
    let mut assembler = Assembler::new(Disk::default(), 0);
    let mut after = |sent: &[Sent]| {
        let mut said = Vec::new();
        assembled(&mut assembler, sent, 99, |batch, _, _| said.extend(batch.end_lsn())).unwrap();
        (said.last().copied(), assembler.confirmable_lsn(), assembler.hold_lsn())
    };
    after(&prepared(1, 10));
    after(&prepared(2, 20));
    assert_eq!(after(&committed(1, 30)), (Some(10), 10, Some(20)));
    assert_eq!(after(&ordinary(40)), (Some(10), 10, Some(20)));
    after(&prepared(3, 50));
    assert_eq!(after(&committed(2, 60)), (Some(10), 10, Some(50)));
    assert_eq!(after(&committed(3, 70)), (Some(78), 78, None));
    after(&prepared(4, 80));
    assert_eq!(after(&ordinary(90)), (Some(80), 80, Some(80)));
    assert_eq!(after(&committed(4, 100)), (Some(108), 108, None));
}

#[test]
fn large_rows_of_many_transactions_are_no_more_than_there_is_memory() {
    let limit = 1 << 20;
    let mut assembler = Assembler::new(Disk::default(), limit);
    for xid in 800..840 {
        let start = (bytes(&Message::StreamStart { xid, first_segment: true }), 10);
        let rows = [row(Some(xid), &vec![b'x'; 1 << 20]), row(Some(xid), b"small")];
        let told = (in_stream(&relation(1, 1), xid), 0);
        assembled(&mut assembler, &[&[start, told][..], &rows, &[stop()]].concat(), 9, |_, _, _| ()).unwrap();
        let open = assembler.statistics();
        // And a page of each, which may have to let a logical message pass.
        assert!(open.memory_bytes <= limit + open.streamed * (1 << 14), "{open:?}");
    }
}

#[test]
fn a_transaction_that_is_sent_again_counts_once() {
    let piece = [start(true), (in_stream(&relation(1, 1), XID), 0), row(Some(XID), b"a"), stop()];
    let again = [&piece[..], &piece, &[stream_commit(30)]].concat();
    assert_eq!(all(&again, 0).unwrap(), b"BRIC");
}

#[test]
fn what_cannot_be_read_comes_out_with_its_transaction() {
    let relation = (in_stream(&relation(1, 1), XID), 0);
    let mut cut = row(Some(XID), b"a");
    cut.0.truncate(4);
    let aborted = (bytes(&Message::StreamAbort { xid: XID, subxid: 701, abort: None }), 25);
    let unknown = (b"?".to_vec(), 22);
    let messages = [start(true), relation, row(Some(701), b"b"), cut, unknown, stop(), aborted, stream_commit(30)];
    assert_eq!(all(&messages, 0).unwrap(), b"BRI?C");
}

#[test]
fn what_was_rolled_back_is_not_written_to_a_file() {
    let disk = Disk::default();
    let mut assembler = Assembler::new(disk.clone(), 100_000);
    let mut messages = vec![start(true), (in_stream(&relation(1, 1), XID), 0), row(Some(XID), b"kept"), stop()];
    for subxid in 701..1701 {
        messages.extend([start(false), row(Some(subxid), &[b'x'; 900]), stop()]);
        messages.push(abort(subxid));
    }
    for some in messages.chunks(20) {
        assembled(&mut assembler, some, 20, |_, _, _| ()).unwrap();
        // What is nowhere any more is not remembered either.
        assert!(assembler.statistics().memory_bytes < 105_000);
    }
    assert_eq!(disk.written.get(), 0);
    let out = assembled(&mut assembler, &[stream_commit(30)], 1, |_, _, _| ()).unwrap();
    assert_eq!(out.iter().map(|(message, _)| message[0]).collect::<Vec<_>>(), b"BRIC");
    assert_eq!(assembler.statistics(), Statistics::default());
}

#[test]
fn a_large_transaction_comes_out_in_bounded_batches() {
    let disk = Disk::default();
    let mut assembler = Assembler::new(disk.clone(), 1 << 20);
    let mut messages = vec![start(true), (in_stream(&relation(1, 1), XID), 0)];
    messages.extend((0..30_000).map(|_| row(Some(XID), &[b'x'; 200])));
    messages.push(stop());
    assembled(&mut assembler, &messages, 1000, |_, _, _| ()).unwrap();
    // The latest rows may have to let a logical message pass.
    assert!(disk.written.get() > 4 << 20 && assembler.statistics().memory_bytes <= (1 << 20) + (1 << 15));
    assert!(!assembler.is_idle());
    let mut batches = Vec::new();
    let mut most = 0;
    assembled(&mut assembler, &[stream_commit(30)], 1, |batch, _, assembler| {
        batches.push(batch.records().len());
        most = most.max(batch.nbytes());
        assert!(assembler.statistics().memory_bytes <= 1 << 20);
    })
    .unwrap();
    assert_eq!(batches.iter().sum::<usize>(), 30_000 + 3);
    assert!(batches.len() > 5 && most < 2 << 20, "{batches:?} {most}");
    assert!(assembler.is_idle());
    assert_eq!(disk.open.get(), 0);
}

fn told(oid: u32, columns: u8) -> Sent {
    (in_stream(&relation(oid, columns), XID), 0)
}

#[test]
fn a_shape_counts_once_however_often_it_is_told() {
    let disk = Disk::default();
    let mut assembler = Assembler::new(disk.clone(), 1 << 20);
    let mut memory = Vec::new();
    assembled(&mut assembler, &[start(true), stop()], 2, |_, _, _| ()).unwrap();
    for _ in 0..200 {
        let mut piece = vec![start(false)];
        piece.extend((0..50).flat_map(|_| [told(1, 50), row(Some(XID), b"a"), told(1, 51), row(Some(XID), b"b")]));
        // After a roll-back to a savepoint the server says all shapes again.
        piece.extend([stop(), (bytes(&Message::StreamAbort { xid: XID, subxid: 701, abort: None }), 0)]);
        assembled(&mut assembler, &piece, 999, |_, _, _| ()).unwrap();
        memory.push(assembler.statistics().memory_bytes);
    }
    assert!(memory.iter().all(|&memory| memory > 2000 && memory <= 1 << 20), "{memory:?}");
    let out = assembled(&mut assembler, &[stream_commit(30)], 1, |batch, _, _| {
        assert!(batch.shapes().len() <= 2, "the same shapes are the same objects");
    });
    // Each row with the shape that it had.
    let mut last = 0;
    let rows = out.unwrap().into_iter().filter_map(|(message, _)| {
        last = if message[0] == b'R' { u16::from_be_bytes([message[16], message[17]]) } else { last };
        (message[0] == b'I').then_some((*message.last().unwrap(), last))
    });
    assert!(rows.eq([(b'a', 50), (b'b', 51)].into_iter().cycle().take(20_000)));
    assert_eq!(assembler.statistics(), Statistics::default());
}

#[test]
fn shapes_are_counted_and_have_a_limit_of_their_own() {
    let limit = 8 << 20;
    let mut assembler = Assembler::new(Disk::default(), limit);
    assembled(&mut assembler, &[start(true)], 1, |_, _, _| ()).unwrap();
    let mut most = 0;
    let failed = (1..100_000).find_map(|oid| {
        let messages = [told(oid, 200), row(Some(XID), &[b'x'; 900])];
        let failed = assembled(&mut assembler, &messages, 2, |_, _, _| ()).err();
        if failed.is_none() {
            most = most.max(assembler.statistics().memory_bytes);
        }
        failed
    });
    let (_, error) = failed.unwrap();
    assert!(matches!(error.cause, Cause::Fixed { xid: XID, memory } if memory > limit / 2), "{error}");
    assert!(most <= limit && most > limit / 2, "shapes and rows together: {most}");

    // However little memory there is, a mebibyte of shapes is taken; and what was rolled back takes nothing.
    let mut assembler = Assembler::new(Disk::default(), 0);
    for _ in 0..20 {
        let mut messages = vec![start(true)];
        messages.extend((1..30).map(|oid| told(oid, 200)));
        assembled(&mut assembler, &messages, 99, |_, _, _| ()).unwrap();
        assert!(assembler.statistics().memory_bytes > 100_000);
        let aborted = (bytes(&Message::StreamAbort { xid: XID, subxid: XID, abort: None }), 0);
        assembled(&mut assembler, &[stop(), aborted], 2, |_, _, _| ()).unwrap();
        assert_eq!(assembler.statistics(), Statistics::default());
    }
}

#[test]
fn before_the_first_change_each_table_and_type_is_told_once() {
    let of_type = |xid| bytes(&Message::Type { xid, oid: 99_999, schema: b"public", name: b"mood" });
    let mut messages = vec![start(true)];
    for _ in 0..1000 {
        messages.extend([(of_type(Some(XID)), 0), told(1, 1), told(2, 1), told(1, 2)]);
    }
    messages.extend([row(Some(XID), b"a"), stop(), stream_commit(30)]);
    assert_eq!(all(&messages, 0).unwrap(), b"BYRRIC");
    let mut assembler = Assembler::new(Disk::default(), 0);
    let out = assembled(&mut assembler, &messages, 99, |_, _, _| ()).unwrap();
    assert_eq!(out[1].0, of_type(None));
    assert_eq!([&out[2].0, &out[3].0], [&relation(2, 1), &relation(1, 2)]);
}
