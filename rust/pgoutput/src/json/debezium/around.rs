//! What is around the rows of one transaction, prepared: the source around a change's LSN and table, the end of the line.
use super::{Options, moment};
use crate::json::text;
use crate::session::{Origin, Transaction};

/// What an `Around` was prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Of {
    /// Its number among those of the batch; None where it is not known.
    pub transaction: Option<usize>,
    /// Whether its rows are those of an initial copy.
    pub is_copied: bool,
}

/// What is around the rows of one transaction.
#[derive(Debug, Default)]
pub struct Around {
    /// None for what is outside of transactions.
    pub of: Option<Of>,
    /// From `"source":{` to the LSN in `sequence`.
    to_sequence: Vec<u8>,
    /// From there to the schema.
    to_schema: Vec<u8>,
    /// From after the table to the LSN.
    to_lsn: Vec<u8>,
    /// From there to the end of the source.
    to_end: Vec<u8>,
    /// From after the operation to the end of a row's line.
    pub end: Vec<u8>,
    /// `"ts_ms":…` of a logical message.
    pub ts_ms: Vec<u8>,
}

/// A point in time, in nanoseconds since 1970.
#[derive(Clone, Copy)]
struct Instant(i128);

impl Instant {
    fn of_commit(microseconds: i64) -> Self {
        let since_1970 = i128::from(microseconds).saturating_add(i128::from(moment::EPOCH_MICROSECONDS));
        Self(since_1970.saturating_mul(1000))
    }

    fn field(self, out: &mut Vec<u8>, name: &[u8], unit: i128) {
        out.extend_from_slice(name);
        out.extend_from_slice(itoa::Buffer::new().format(self.0.div_euclid(unit)).as_bytes());
    }

    fn milliseconds(self, out: &mut Vec<u8>) {
        self.field(out, b"\"ts_ms\":", 1_000_000);
    }

    fn others(self, out: &mut Vec<u8>) {
        self.field(out, b",\"ts_us\":", 1000);
        self.field(out, b",\"ts_ns\":", 1);
    }
}

/// The fields of a source that are not the options'.
struct Source<'a> {
    commit_time: Option<i64>,
    previous_end_lsn: Option<u64>,
    xid: Option<u32>,
    origin: Option<&'a Origin>,
    is_copied: bool,
}

fn number_or_null(out: &mut Vec<u8>, number: Option<impl itoa::Integer>) {
    match number {
        Some(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
}

impl Around {
    /// What is around the rows of a transaction.
    pub fn of(of: Of, transaction: Option<Transaction>, origin: Option<&Origin>, options: &Options) -> Self {
        let source = Source {
            commit_time: transaction.and_then(|transaction| transaction.commit_time),
            previous_end_lsn: transaction.and_then(|transaction| transaction.previous_end_lsn),
            xid: transaction.and_then(|transaction| transaction.xid),
            origin,
            is_copied: of.is_copied,
        };
        Self { of: Some(of), ..Self::new(&source, options) }
    }

    /// What is around a logical message outside of transactions: it is its own end, and has the time of what came before.
    pub fn outside(commit_time: Option<i64>, lsn: u64, options: &Options) -> Self {
        let previous_end_lsn = Some(lsn);
        Self::new(&Source { commit_time, previous_end_lsn, xid: None, origin: None, is_copied: false }, options)
    }

    fn new(source: &Source<'_>, options: &Options) -> Self {
        let now = options.now.map(|nanoseconds| Instant(nanoseconds.into()));
        let at = source.commit_time.map(Instant::of_commit).or(now).unwrap_or(Instant(0));
        let now = now.unwrap_or(at);
        let mut around = Self::default();
        let out = &mut around.to_sequence;
        out.extend_from_slice(b"\"source\":{\"version\":");
        text::string(out, options.version.as_bytes());
        out.extend_from_slice(b",\"connector\":\"postgresql\",\"name\":");
        text::string(out, options.name.as_bytes());
        out.push(b',');
        at.milliseconds(out);
        out.extend_from_slice(if source.is_copied { b",\"snapshot\":\"true\"" } else { b",\"snapshot\":\"false\"" });
        out.extend_from_slice(b",\"db\":");
        text::string(out, options.db.as_bytes());
        out.extend_from_slice(b",\"sequence\":\"[");
        match source.previous_end_lsn {
            None => out.extend_from_slice(b"null,"),
            Some(lsn) => {
                out.extend_from_slice(b"\\\"");
                out.extend_from_slice(itoa::Buffer::new().format(lsn).as_bytes());
                out.extend_from_slice(b"\\\",");
            }
        }
        let out = &mut around.to_schema;
        out.extend_from_slice(b"]\"");
        at.others(out);
        out.push(b',');
        let out = &mut around.to_lsn;
        out.extend_from_slice(b",\"txId\":");
        number_or_null(out, source.xid);
        out.extend_from_slice(b",\"lsn\":");
        let out = &mut around.to_end;
        out.extend_from_slice(b",\"xmin\":null,\"origin\":");
        match source.origin {
            Some(origin) => text::string(out, &origin.name),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"origin_lsn\":");
        number_or_null(out, source.origin.map(|origin| origin.commit_lsn));
        out.extend_from_slice(b"},\"transaction\":null");
        let out = &mut around.end;
        out.extend_from_slice(b"\",");
        now.milliseconds(out);
        now.others(out);
        out.extend_from_slice(b"}\n");
        now.milliseconds(&mut around.ts_ms);
        around
    }

    /// From `"source"` to `"transaction":null`; the LSN is 0 where it is not known.
    #[inline]
    pub fn source(&self, out: &mut Vec<u8>, lsn: u64, table: &[u8]) {
        let mut buffer = itoa::Buffer::new();
        let lsn = if lsn == 0 { "" } else { buffer.format(lsn) }.as_bytes();
        out.extend_from_slice(&self.to_sequence);
        if lsn.is_empty() {
            out.extend_from_slice(b"null");
        } else {
            out.extend_from_slice(b"\\\"");
            out.extend_from_slice(lsn);
            out.extend_from_slice(b"\\\"");
        }
        out.extend_from_slice(&self.to_schema);
        out.extend_from_slice(table);
        out.extend_from_slice(&self.to_lsn);
        out.extend_from_slice(if lsn.is_empty() { b"null" } else { lsn });
        out.extend_from_slice(&self.to_end);
    }
}
