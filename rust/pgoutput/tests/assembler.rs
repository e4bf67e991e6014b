//! Streamed and prepared transactions come out as protocol 1 would have sent them, whatever is open at the same time, however
//! little memory there is, and whichever I/O fails.
//!
//! Over 400 lines, because a small server is in here: it runs transactions and says of each what protocol 1 sends and what
//! protocols 2 to 4 send.
#![allow(missing_docs, clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use pgoutput::assembler::storage::{File, Storage};
use pgoutput::assembler::{Assembler, Cause, Error, Statistics};
use pgoutput::batch::{Batch, Builder};
use pgoutput::encode;
use pgoutput::message::{Message, Old, Prepared, kind};
use pgoutput::relation::{Column, Relation};
use pgoutput::session::{Origin, Session, Transaction};
use pgoutput::tuple::{Datum, Tuple};
use proptest::prelude::*;

/// Files in memory that can be told to fail at the n-th use of any of them.
#[derive(Clone, Default)]
struct Disk {
    uses: Rc<Cell<usize>>,
    fails_at: Option<usize>,
    written: Rc<Cell<u64>>,
    open: Rc<Cell<usize>>,
}

struct InMemory {
    disk: Disk,
    blocks: Vec<Vec<u8>>,
    at: usize,
}

impl Disk {
    fn used(&self) -> Result<(), &'static str> {
        self.uses.set(self.uses.get() + 1);
        if self.fails_at == Some(self.uses.get()) { Err("no space left on device") } else { Ok(()) }
    }
}

impl Storage for Disk {
    type File = InMemory;
    type Error = &'static str;

    fn create(&mut self) -> Result<InMemory, &'static str> {
        self.used()?;
        self.open.set(self.open.get() + 1);
        Ok(InMemory { disk: self.clone(), blocks: Vec::new(), at: 0 })
    }
}

impl File for InMemory {
    type Error = &'static str;

    fn append(&mut self, block: &[u8]) -> Result<(), &'static str> {
        self.disk.used()?;
        self.disk.written.set(self.disk.written.get() + block.len() as u64);
        self.blocks.push(block.to_vec());
        Ok(())
    }

    fn rewind(&mut self) -> Result<(), &'static str> {
        self.disk.used()?;
        self.at = 0;
        Ok(())
    }

    fn read(&mut self, block: &mut Vec<u8>) -> Result<bool, &'static str> {
        self.disk.used()?;
        let Some(next) = self.blocks.get(self.at) else { return Ok(false) };
        block.clone_from(next);
        self.at += 1;
        Ok(true)
    }

    fn stored_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.len() as u64).sum()
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.disk.open.set(self.disk.open.get() - 1);
    }
}

type Sent = (Vec<u8>, u64);

fn bytes(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out).unwrap();
    out
}

fn in_stream(message: &[u8], xid: u32) -> Vec<u8> {
    [&message[..1], &xid.to_be_bytes(), &message[1..]].concat()
}

/// A table that has so many columns.
fn relation(oid: u32, columns: u8) -> Vec<u8> {
    let column = |number| Column {
        is_key: number == 0,
        name: format!("c{number}").into_bytes(),
        type_oid: 25,
        type_modifier: -1,
    };
    let relation = Relation {
        oid,
        schema: b"public".to_vec(),
        name: format!("t{oid}").into_bytes(),
        replica_identity: b'd',
        columns: (0..columns).map(column).collect(),
    };
    bytes(&Message::Relation { xid: None, relation })
}

/// A change as the server has it until it knows what becomes of its transaction.
#[derive(Clone, Debug)]
struct Change {
    xid: u32,
    lsn: u64,
    /// The table and its columns at the time; None for a logical message.
    table: Option<(u32, u8)>,
    message: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct Running {
    xid: u32,
    has_origin: bool,
    /// The open sub-transactions, each with those inside it that were released, and the tables as they were before it.
    saved: Vec<(Vec<u32>, BTreeMap<u32, u8>)>,
    altered: BTreeMap<u32, u8>,
    changes: Vec<Change>,
    unsent: Vec<Change>,
    /// The `wal_start` of its first piece.
    streamed: Option<u64>,
    told: HashMap<u32, (u64, u8)>,
}

/// Transactions, what protocol 1 says of them, and what a streaming server does.
#[derive(Default)]
struct Server {
    lsn: u64,
    next_xid: u32,
    tables: BTreeMap<u32, u8>,
    told: HashMap<u32, (u64, u8)>,
    relations_sent: u64,
    running: Vec<Running>,
    prepared: Vec<(Running, u64, u64)>,
    streamed: Vec<Sent>,
    plain: Vec<Sent>,
    /// For each message that was sent the LSN past which nothing may be confirmed then.
    holds: Vec<(usize, u64, bool)>,
}

const TABLES: u32 = 3;

impl Server {
    fn new() -> Self {
        Self { next_xid: 700, tables: (1..=TABLES).map(|oid| (oid, 1)).collect(), ..Self::default() }
    }

    fn tick(&mut self) -> u64 {
        self.lsn += 8;
        self.lsn
    }

    fn xid(&mut self) -> u32 {
        self.next_xid += 1;
        self.next_xid
    }

    fn send(&mut self, message: Vec<u8>, lsn: u64) {
        self.streamed.push((message, lsn));
    }

    /// One step of the workload, decided by four numbers.
    fn step(&mut self, [what, who, which, how]: [u8; 4]) {
        if self.running.is_empty() || (what < 24 && self.running.len() < 4) {
            let running = Running { xid: self.xid(), has_origin: how < 40, ..Running::default() };
            self.running.push(running);
            return;
        }
        let number = usize::from(who) % self.running.len();
        let mut running = self.running.swap_remove(number);
        match what {
            0..=119 => self.change(&mut running, which, how),
            120..=139 => {
                running.saved.push((vec![self.xid()], running.altered.clone()));
            }
            140..=154 => {
                if let Some((inside, _)) = running.saved.pop()
                    && let Some((outer, _)) = running.saved.last_mut()
                {
                    outer.extend(inside);
                }
            }
            155..=174 => self.roll_back_to(&mut running),
            175..=189 => {
                let oid = u32::from(which) % TABLES + 1;
                let columns = running.altered.get(&oid).or(self.tables.get(&oid)).copied().unwrap();
                running.altered.insert(oid, if columns > 3 { 1 } else { columns + 1 });
            }
            190..=194 => self.message_outside(how),
            195..=225 => self.piece(&mut running),
            _ => return self.end(running, which, how),
        }
        self.running.push(running);
    }

    fn change(&mut self, running: &mut Running, which: u8, how: u8) {
        let lsn = self.tick();
        let xid = running.saved.last().map_or(running.xid, |(ids, _)| ids[0]);
        let oid = u32::from(which) % TABLES + 1;
        let columns = *running.altered.get(&oid).unwrap_or(&self.tables[&oid]);
        let text = format!("{how} {lsn}").repeat(usize::from(how / 64 + 1));
        let mut tuple = Vec::new();
        encode::tuple(&vec![Datum::Text(text.as_bytes()); usize::from(columns)], &mut tuple).unwrap();
        let tuple = Tuple::parse(&mut pgoutput::cursor::Cursor::new(&tuple)).unwrap();
        let message = match how % 8 {
            0..4 => Message::Insert { xid: None, relation_oid: oid, new: tuple },
            4 => Message::Update { xid: None, relation_oid: oid, old: Some(Old::Key(tuple)), new: tuple },
            5 => Message::Delete { xid: None, relation_oid: oid, old: Old::Row(tuple) },
            6 => Message::Truncate { xid: None, cascade: true, restart_identity: false, relation_oids: vec![oid] },
            _ => Message::Message { xid: None, transactional: true, lsn, prefix: b"inside", content: text.as_bytes() },
        };
        let table = (how % 8 != 7).then_some((oid, columns));
        let change = Change { xid, lsn, table, message: bytes(&message) };
        running.changes.push(change.clone());
        running.unsent.push(change);
    }

    fn roll_back_to(&mut self, running: &mut Running) {
        let Some((mut ids, tables)) = running.saved.pop() else { return };
        running.altered = tables;
        let own = ids.remove(0);
        ids.reverse();
        ids.push(own);
        running.changes.retain(|change| !ids.contains(&change.xid));
        running.unsent.retain(|change| !ids.contains(&change.xid));
        let lsn = self.tick();
        if running.streamed.is_some() {
            // Also of those of which no change was sent.
            for subxid in ids {
                let abort = (subxid % 2 == 0).then_some((lsn, 5));
                self.send(bytes(&Message::StreamAbort { xid: running.xid, subxid, abort }), lsn);
            }
            running.told.clear();
        }
    }

    /// Its relation, if the client was not told.
    fn introduce(&mut self, table: Option<(u32, u8)>, told: &mut HashMap<u32, (u64, u8)>) -> Option<Vec<u8>> {
        let (oid, columns) = table?;
        if told.get(&oid).is_some_and(|&(_, known)| known == columns) {
            return None;
        }
        self.relations_sent += 1;
        told.insert(oid, (self.relations_sent, columns));
        Some(relation(oid, columns))
    }

    fn origin() -> Sent {
        (bytes(&Message::Origin { commit_lsn: 0, name: b"elsewhere" }), 1)
    }

    fn piece(&mut self, running: &mut Running) {
        let lsn = running.unsent.first().map_or(self.lsn, |change| change.lsn);
        let first_segment = running.streamed.is_none();
        self.send(bytes(&Message::StreamStart { xid: running.xid, first_segment }), lsn);
        if first_segment {
            running.streamed = Some(lsn);
            if running.has_origin {
                self.streamed.push(Self::origin());
            }
        }
        let mut told = std::mem::take(&mut running.told);
        for change in std::mem::take(&mut running.unsent) {
            if let Some(relation) = self.introduce(change.table, &mut told) {
                let type_ = bytes(&Message::Type { xid: None, oid: 16400, schema: b"s", name: b"mood" });
                self.send(in_stream(&type_, change.xid), 0);
                self.send(in_stream(&relation, change.xid), 0);
            }
            self.send(in_stream(&change.message, change.xid), change.lsn);
        }
        running.told = told;
        self.send(bytes(&Message::StreamStop), 0);
    }

    fn message_outside(&mut self, how: u8) {
        let lsn = self.tick();
        let content = [how];
        let message = Message::Message { xid: None, transactional: false, lsn, prefix: b"outside", content: &content };
        self.send(bytes(&message), lsn);
        self.plain.push((bytes(&message), lsn));
    }

    /// The changes with Relation messages where the client needs them.
    fn whole(&mut self, running: &Running) {
        let mut told = std::mem::take(&mut self.told);
        for change in &running.changes {
            if let Some(relation) = self.introduce(change.table, &mut told) {
                self.send(relation, 0);
            }
            self.send(change.message.clone(), change.lsn);
        }
        self.told = told;
    }

    fn end(&mut self, mut running: Running, which: u8, how: u8) {
        let is_committed = which >= 60;
        let is_prepared = how >= 128;
        if running.streamed.is_some() && is_committed {
            self.piece(&mut running);
        }
        let lsn = self.tick();
        if is_prepared && is_committed {
            let gid = format!("prepared {}", running.xid).into_bytes();
            let (xid, prepare_lsn, end_lsn) = (running.xid, lsn, lsn + 4);
            let of = Prepared { flags: 0, prepare_lsn, end_lsn, prepare_time: 3, xid, gid: &gid };
            let mut first = lsn;
            if let Some(streamed) = running.streamed {
                first = streamed;
                self.send(bytes(&Message::StreamPrepare(of)), lsn);
            } else {
                let begin = Message::BeginPrepare { prepare_lsn, end_lsn, prepare_time: 3, xid, gid: &gid };
                self.send(bytes(&begin), first);
                if running.has_origin {
                    self.streamed.push(Self::origin());
                }
                self.whole(&running);
                self.send(bytes(&Message::Prepare(of)), lsn);
            }
            self.holds.push((self.streamed.len(), prepare_lsn, false));
            self.prepared.push((running, prepare_lsn, first));
        } else if let Some(first) = running.streamed {
            let (xid, commit_lsn) = (running.xid, lsn);
            if is_committed {
                let commit = Message::StreamCommit { xid, flags: 0, commit_lsn, end_lsn: lsn + 4, commit_time: 9 };
                self.send(bytes(&commit), lsn + 4);
                for (oid, (number, columns)) in running.told.drain() {
                    if self.told.get(&oid).is_none_or(|&(known, _)| known < number) {
                        self.told.insert(oid, (number, columns));
                    }
                }
                self.committed(&running, lsn, first);
            } else {
                self.send(bytes(&Message::StreamAbort { xid, subxid: xid, abort: None }), lsn);
            }
        } else if is_committed && !running.changes.is_empty() {
            let begin = Message::Begin { final_lsn: lsn, commit_time: 9, xid: running.xid };
            self.send(bytes(&begin), lsn);
            if running.has_origin {
                self.streamed.push(Self::origin());
            }
            self.whole(&running);
            self.send(bytes(&Message::Commit { flags: 0, commit_lsn: lsn, end_lsn: lsn + 4, commit_time: 9 }), lsn + 4);
            self.committed(&running, lsn, lsn);
        }
    }

    fn end_prepared(&mut self, number: usize, is_committed: bool) {
        let (running, prepare_lsn, first) = self.prepared.remove(number);
        let lsn = self.tick();
        let gid = format!("prepared {}", running.xid).into_bytes();
        let (xid, gid) = (running.xid, gid.as_slice());
        if is_committed {
            let end_lsn = lsn + 4;
            let commit = Message::CommitPrepared { flags: 0, commit_lsn: lsn, end_lsn, commit_time: 9, xid, gid };
            self.send(bytes(&commit), lsn + 4);
            self.committed(&running, lsn, first);
        } else {
            let rollback = Message::RollbackPrepared {
                flags: 0,
                prepare_end_lsn: prepare_lsn + 4,
                rollback_end_lsn: lsn + 4,
                prepare_time: 3,
                rollback_time: 9,
                xid,
                gid,
            };
            self.send(bytes(&rollback), lsn + 4);
        }
        self.holds.push((self.streamed.len(), prepare_lsn, true));
    }

    /// What protocol 1 says of a transaction; that has all relations, because it is read for what it means.
    fn committed(&mut self, running: &Running, commit_lsn: u64, first: u64) {
        for (&oid, &columns) in &running.altered {
            self.tables.insert(oid, columns);
        }
        if running.changes.is_empty() {
            return;
        }
        let (commit_time, end_lsn) = (9, commit_lsn + 4);
        let begin = Message::Begin { final_lsn: commit_lsn, commit_time, xid: running.xid };
        self.plain.push((bytes(&begin), first));
        if running.has_origin {
            self.plain.push(Self::origin());
        }
        for change in &running.changes {
            if let Some((oid, columns)) = change.table {
                self.plain.push((relation(oid, columns), 0));
            }
            self.plain.push((change.message.clone(), change.lsn));
        }
        self.plain.push((bytes(&Message::Commit { flags: 0, commit_lsn, end_lsn, commit_time }), end_lsn));
    }
}

fn ran(steps: &[[u8; 4]]) -> Server {
    let mut server = Server::new();
    for &step in steps {
        if step[0] % 16 == 3 && !server.prepared.is_empty() {
            server.end_prepared(usize::from(step[1]) % server.prepared.len(), step[2] % 3 != 0);
        } else {
            server.step(step);
        }
    }
    server
}

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
        prop_assert!(open.memory_bytes <= memory + 200 * 16, "{:?}", open);
        let streamed = server.running.iter().filter(|running| running.streamed.is_some()).count();
        prop_assert_eq!((open.streamed, open.prepared), (streamed, server.prepared.len()));
        drop(assembler);
        prop_assert_eq!(disk.open.get(), 0);
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
        messages.push((bytes(&Message::StreamAbort { xid: XID, subxid, abort: None }), 0));
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
    assert!(disk.written.get() > 4 << 20 && assembler.statistics().memory_bytes <= 1 << 20);
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
