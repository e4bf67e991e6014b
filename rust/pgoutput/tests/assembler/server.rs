//! A small server: it runs transactions and says of each what protocol 1 sends and what protocols 2 to 4 send.
use std::collections::{BTreeMap, HashMap};

use pgoutput::encode;
use pgoutput::message::{Message, Old, Prepared};
use pgoutput::relation::{Column, Relation};
use pgoutput::tuple::{Datum, Tuple};

pub type Sent = (Vec<u8>, u64);

pub fn bytes(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out).unwrap();
    out
}

pub fn in_stream(message: &[u8], xid: u32) -> Vec<u8> {
    [&message[..1], &xid.to_be_bytes(), &message[1..]].concat()
}

/// A table that has so many columns.
pub fn relation(oid: u32, columns: u8) -> Vec<u8> {
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
pub struct Change {
    xid: u32,
    lsn: u64,
    /// The table and its columns at the time; None for a logical message.
    table: Option<(u32, u8)>,
    message: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub struct Running {
    xid: u32,
    has_origin: bool,
    /// The open sub-transactions, each with those inside it that were released, and the tables as they were before it.
    saved: Vec<(Vec<u32>, BTreeMap<u32, u8>)>,
    altered: BTreeMap<u32, u8>,
    changes: Vec<Change>,
    unsent: Vec<Change>,
    /// The `wal_start` of its first piece.
    pub streamed: Option<u64>,
    told: HashMap<u32, (u64, u8)>,
}

/// Transactions, what protocol 1 says of them, and what a streaming server does.
#[derive(Default)]
pub struct Server {
    lsn: u64,
    next_xid: u32,
    tables: BTreeMap<u32, u8>,
    told: HashMap<u32, (u64, u8)>,
    relations_sent: u64,
    pub running: Vec<Running>,
    pub prepared: Vec<(Running, u64, u64)>,
    /// Whether logical messages stand where nobody can say what they belong to.
    is_careless: bool,
    pub streamed: Vec<Sent>,
    pub plain: Vec<Sent>,
    /// For each message that was sent the LSN past which nothing may be confirmed then.
    pub holds: Vec<(usize, u64, bool)>,
    /// From where to where a slot would be sent the end of a prepared transaction without its changes.
    pub spans: Vec<(u64, u64)>,
}

pub const TABLES: u32 = 3;

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
        let is_message = how % 8 == 7;
        if is_message && !self.is_careless {
            self.change_one(running, which, how - 7);
        }
        self.change_one(running, which, how);
        if is_message && !self.is_careless {
            self.change_one(running, which, how - 7);
        }
    }

    fn change_one(&mut self, running: &mut Running, which: u8, how: u8) {
        let xid = running.saved.last().map_or(running.xid, |(ids, _)| ids[0]);
        let table = Some((u32::from(which) % TABLES + 1, 0));
        let is_row = |change: &&Change| {
            change.xid == xid && change.lsn == self.lsn && change.table.map(|(oid, _)| (oid, 0)) == table
        };
        let goes_on = how % 64 < 4 && running.unsent.last().as_ref().is_some_and(is_row);
        let lsn = match how % 8 {
            // Rows that are written together are one record; the LSN of a logical message is the end of its own.
            _ if goes_on => self.lsn,
            7 => self.tick() + 8,
            _ => self.tick(),
        };
        let oid = u32::from(which) % TABLES + 1;
        let columns = *running.altered.get(&oid).unwrap_or(&self.tables[&oid]);
        let text = format!("{how} {lsn}").repeat(if which % 16 == 5 { 1500 } else { usize::from(how / 64 + 1) });
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
        let mut unsent = std::mem::take(&mut running.unsent);
        // It sorts by LSN, and where these are the same as it comes.
        for number in (0..unsent.len()).rev() {
            let rows = unsent[number + 1..].iter().take_while(|row| row.lsn == unsent[number].lsn).count();
            // Rows that are too large to be held back let no message pass.
            let size: usize = unsent[number + 1..=number + rows].iter().map(|row| row.message.len() + 50).sum();
            if rows > 0 && size < 8000 && unsent[number].table.is_none() && unsent[number].xid != unsent[number + 1].xid
            {
                let behind = usize::try_from(unsent[number].lsn / 8).unwrap() % (rows + 1);
                unsent[number..=number + behind].rotate_left(1);
            }
        }
        for change in unsent {
            if let Some(relation) = self.introduce(change.table, &mut told) {
                let type_ = bytes(&Message::Type { xid: None, oid: 16400, schema: b"s", name: b"mood" });
                self.send(in_stream(&type_, change.xid), 0);
                self.send(in_stream(&relation, change.xid), 0);
            }
            // The server gives logical messages the id of the whole transaction.
            let xid = if change.table.is_none() { running.xid } else { change.xid };
            self.send(in_stream(&change.message, xid), change.lsn);
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
            self.spans.push((prepare_lsn, end_lsn));
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

/// One whose logical messages stand anywhere.
pub fn careless() -> Server {
    Server { is_careless: true, ..Server::new() }
}

pub fn ran(steps: &[[u8; 4]]) -> Server {
    run(steps, Server::new())
}

pub fn run(steps: &[[u8; 4]], mut server: Server) -> Server {
    for &step in steps {
        if step[0] % 16 == 3 && !server.prepared.is_empty() {
            server.end_prepared(usize::from(step[1]) % server.prepared.len(), step[2] % 3 != 0);
        } else {
            server.step(step);
        }
    }
    server
}
