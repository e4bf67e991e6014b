//! Streamed and prepared transactions come out as protocol 1 would have sent them, whatever is open at the same time, however
//! little memory there is, and whichever I/O fails.
#![allow(missing_docs, clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
mod cases;
mod disk;
mod server;

use std::collections::HashSet;

use disk::Disk;
use pgoutput::assembler::{Assembler, Cause, Error};
use pgoutput::batch::{Batch, Builder};
use pgoutput::message::kind;
use pgoutput::session::{Origin, Session, Transaction};
use proptest::prelude::*;
use server::{Sent, TABLES, careless, ran, run};

/// What a message means to who reads it: all of it but Relation and Type, which may be said again.
type Meaning = (Vec<u8>, u64, Option<Transaction>, Option<i64>, Option<Origin>, Vec<Vec<u8>>);

fn meaning(batch: &Batch) -> Vec<Meaning> {
    let said = batch.records().iter().filter(|record| !matches!(record.kind, kind::RELATION | kind::TYPE));
    said.map(|record| {
        assert!(!record.streamed);
        let numbers = record.shape.into_iter().chain(batch.truncated(record).iter().map(|number| number.unwrap()));
        // A Begin comes before the Origin, which it learns of only in a batch that has both.
        let origin = batch.origin(record).filter(|_| record.kind != kind::BEGIN).map(|origin| (**origin).clone());
        let shapes = numbers.map(|number| batch.shapes()[number].bytes.to_vec()).collect();
        (batch.bytes(record).to_vec(), record.lsn, batch.transaction(record), record.index, origin, shapes)
    })
    .collect()
}

/// Messages read as they are.
fn read<B: AsRef<[u8]>>(messages: impl IntoIterator<Item = (B, u64)>) -> Batch {
    let (mut builder, mut session) = (Builder::default(), Session::default());
    for (message, lsn) in messages {
        builder.push(&mut session, message.as_ref(), lsn);
    }
    builder.finish()
}

fn raw(batch: &Batch) -> Vec<Sent> {
    batch.records().iter().map(|record| (batch.bytes(record).to_vec(), record.lsn)).collect()
}

/// All that comes out of some messages, given so many at a time; after each batch `look` sees how many were given.
fn assembled(
    assembler: &mut Assembler<Disk>,
    messages: &[Sent],
    at_a_time: usize,
    mut look: impl FnMut(&Batch, usize, &Assembler<Disk>),
) -> Result<Vec<Sent>, (Vec<Sent>, Error<&'static str>)> {
    let mut out = Vec::new();
    for (number, some) in messages.chunks(at_a_time).enumerate() {
        let mut input = some.iter().map(|(message, lsn)| (message, *lsn));
        loop {
            match assembler.next_batch(&mut input) {
                Ok(Some(batch)) => {
                    assert!(!batch.records().is_empty());
                    look(&batch, number * at_a_time, assembler);
                    out.extend(raw(&batch));
                }
                Ok(None) => break,
                Err(error) => return Err((out, error)),
            }
        }
    }
    Ok(out)
}

fn steps() -> impl Strategy<Value = Vec<[u8; 4]>> {
    prop::collection::vec(any::<[u8; 4]>(), 1..150)
}

fn memory() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 1..400_usize, Just(4000), Just(1 << 20)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_out_is_what_protocol_1_says(steps in steps(), memory in memory(), at_a_time in 1..40_usize) {
        let server = ran(&steps);
        let expected = meaning(&read(server.plain.clone()));
        let disk = Disk::default();
        let mut assembler = Assembler::new(disk.clone(), memory);
        let mut of_batches = Vec::new();
        let out = assembled(&mut assembler, &server.streamed, at_a_time, |batch, _, _| {
            of_batches.extend(meaning(batch));
        });
        let out = out.map_err(|(_, error)| error.cause).unwrap();
        prop_assert_eq!(&of_batches, &expected);
        // And so it is for who reads the messages again.
        prop_assert_eq!(&meaning(&read(out)), &expected);
        let open = assembler.statistics();
        // Besides, ids of what was rolled back, and in each transaction a table's shapes once: it has one to four columns.
        let shapes = (open.streamed + open.prepared) * TABLES as usize * 4 * 1000;
        // What came last of each is in no file yet, also when it was streamed first and then prepared.
        let latest = (open.streamed + open.prepared) * (1 << 14);
        prop_assert!(open.memory_bytes <= memory + 200 * 16 + shapes + latest, "{:?}", open);
        let streamed = server.running.iter().filter(|running| running.streamed.is_some()).count();
        prop_assert_eq!((open.streamed, open.prepared), (streamed, server.prepared.len()));
        drop(assembler);
        prop_assert_eq!(disk.open.get(), 0);
    }

    #[test]
    fn a_logical_message_comes_out_as_protocol_1_has_it_or_is_an_error(steps in steps(), memory in memory()) {
        let server = run(&steps, careless());
        let expected = meaning(&read(server.plain.clone()));
        let mut assembler = Assembler::new(Disk::default(), memory);
        match assembled(&mut assembler, &server.streamed, 9, |_, _, _| ()) {
            Ok(out) => prop_assert_eq!(meaning(&read(out)), expected),
            Err((out, error)) => {
                let is_in_doubt = matches!(error.cause, Cause::DoubtfulMessage { .. });
                prop_assert!(is_in_doubt, "{}", error);
                let out = meaning(&read(out));
                prop_assert_eq!(&out, &expected[..out.len()]);
                // Where nothing is left, or what belongs to no transaction comes next, the message in doubt was all that the
                // transaction had, and it was rolled back.
                let comes_whole = |(message, _, transaction, ..): &Meaning| message[0] == kind::BEGIN || transaction.is_none();
                prop_assert!(expected.get(out.len()).is_none_or(comes_whole), "a part of the transaction came out");
            }
        }
    }

    #[test]
    fn nothing_is_to_be_confirmed_past_what_is_prepared(steps in steps(), memory in memory(), at_a_time in 1..9_usize) {
        let server = ran(&steps);
        let mut assembler = Assembler::new(Disk::default(), memory);
        let mut last = 0;
        let mut delivered = HashSet::new();
        let out = assembled(&mut assembler, &server.streamed, at_a_time, |batch, given, assembler| {
            delivered.extend(batch.records().iter().filter(|record| record.kind == kind::COMMIT).map(|record| {
                batch.transaction(record).unwrap().xid
            }));
            let Some(confirmable) = batch.end_lsn() else { return };
            assert!(confirmable >= last, "what may be confirmed does not go back");
            last = confirmable;
            assert!(server.spans.iter().all(|&(prepared, ended)| confirmable <= prepared || confirmable >= ended));
            assert!(assembler.confirmable_lsn() >= confirmable || assembler.hold_lsn() == Some(assembler.confirmable_lsn()));
            let prepared_before = |&&(at, _, is_end): &&(usize, u64, bool)| !is_end && at <= given;
            for &(_, prepare_lsn, _) in server.holds.iter().filter(prepared_before) {
                // Its end is only known to have come if it came with an earlier message than this batch is made of.
                let has_ended = server.holds.iter().any(|&(at, lsn, end)| end && lsn == prepare_lsn && at <= given + at_a_time);
                assert!(has_ended || confirmable <= prepare_lsn);
            }
        });
        prop_assert!(out.is_ok());
        let open = server.prepared.iter().map(|(_, prepare_lsn, _)| *prepare_lsn).min();
        prop_assert_eq!(assembler.hold_lsn(), open);
        if let Some(open) = open {
            prop_assert!(assembler.confirmable_lsn() <= open);
        }
    }

}

proptest! {
    // Each runs as often as it uses files.
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn the_nth_io_fails(steps in prop::collection::vec(any::<[u8; 4]>(), 60..150), memory in 0..600_usize) {
        let server = ran(&steps);
        let disk = Disk::default();
        let mut assembler = Assembler::new(disk.clone(), memory);
        let whole = assembled(&mut assembler, &server.streamed, 7, |_, _, _| ()).unwrap();
        let uses = disk.uses.get();
        for n in 1..=uses {
            let disk = Disk { fails_at: Some(n), ..Disk::default() };
            let mut assembler = Assembler::new(disk.clone(), memory);
            let mut confirmable = 0;
            let failed = assembled(&mut assembler, &server.streamed, 7, |batch, _, _| {
                confirmable = batch.end_lsn().unwrap_or(confirmable);
            });
            let (out, error) = failed.unwrap_err();
            let is_storage = matches!(error.cause, Cause::Storage { cause: "no space left on device", .. });
            prop_assert!(is_storage, "{}", error);
            // What came out is good, and what did not is not to be confirmed.
            prop_assert_eq!(&out, &whole[..out.len()]);
            let left = meaning(&read(whole[..].to_vec())).into_iter().skip(meaning(&read(out)).len());
            for (_, _, transaction, ..) in left {
                prop_assert!(transaction.is_none_or(|of| of.commit_lsn + 4 > confirmable));
            }
            // And it says so as often as it is asked.
            for _ in 0..2 {
                let again = assembler.next_batch(&mut server.streamed.iter().map(|(message, lsn)| (message, *lsn)));
                let has_stopped = matches!(again, Err(Error { cause: Cause::Stopped, .. }));
                prop_assert!(has_stopped);
            }
        }
    }

}

proptest! {
    #[test]
    fn any_messages_in_any_order(
        order in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..60),
        steps in steps(),
    ) {
        let server = ran(&steps);
        if server.streamed.is_empty() {
            return Ok(());
        }
        let mut messages = Vec::new();
        for (index, damage) in order {
            let (mut message, lsn) = index.get(&server.streamed).clone();
            if damage < 60 {
                message.truncate(usize::from(damage) % (message.len() + 1));
            }
            messages.push((message, lsn));
        }
        let mut assembler = Assembler::new(Disk::default(), 300);
        // A batch or an error; never something that stands in a stream.
        let _ = assembled(&mut assembler, &messages, 5, |batch, _, _| {
            assert!(batch.records().iter().all(|record| !record.is_in_progress()));
        });
    }
}
