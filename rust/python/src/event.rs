//! One message to one event.
use std::sync::Arc;

use pgoutput::batch::Position;
use pgoutput::message::{Message, Old, Prepared};
use pgoutput::session::{Shape, Transaction};
use pgoutput::versions::{Span, Versions};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyInt, PyList};

use crate::construct;
use crate::error::{About, Failure, exception};
use crate::format::{Plan, RowFormat};
use crate::imports::imports;
use crate::row::{Maker, Role};

/// A message and what is known of it.
pub struct Item<'a> {
    pub bytes: &'a [u8],
    pub lsn: u64,
    pub shape: Option<&'a Arc<Shape>>,
    pub truncated: Vec<Option<&'a Arc<Shape>>>,
    /// Whether it stood in a stream.
    pub streamed: bool,
    pub transaction: Option<Transaction>,
    pub index: Option<i64>,
    /// The versions of relations, where they are known.
    pub versions: Option<&'a Versions>,
}

impl<'a> Item<'a> {
    fn message(&self) -> Result<Message<'a>, pgoutput::Error> {
        if self.streamed { Message::parse_streamed(self.bytes) } else { Message::parse(self.bytes) }
    }

    /// The message, with the row that it ends with not walked yet.
    fn message_ahead(&self) -> Result<Message<'a>, pgoutput::Error> {
        Message::parse_ahead(self.bytes, self.streamed)
    }

    /// Where the fields of a change begin: after the kind, in a stream after the transaction's id.
    fn fields_at(&self) -> usize {
        if self.streamed { 5 } else { 1 }
    }

    fn position(&self) -> Option<Position> {
        Some((self.transaction?.commit_lsn, self.index?))
    }
}

/// Makes events in one format. What neighbours share (the transaction's objects, the relation's plan) is kept.
pub struct Events<'py, 'f> {
    format: &'f RowFormat,
    maker: Maker<'py>,
    plan: Option<(Arc<Shape>, Arc<Plan>)>,
    transaction: Option<(Transaction, Bound<'py, PyAny>, Bound<'py, PyAny>)>,
    arguments: Vec<Bound<'py, PyAny>>,
    /// The version that was used last, and of which relation.
    version: Option<(u32, Span, Bound<'py, PyAny>)>,
}

type Made<'py> = Result<Bound<'py, PyAny>, Failure>;

impl<'py, 'f> Events<'py, 'f> {
    pub fn new(py: Python<'py>, format: &'f RowFormat, plan: Option<(Arc<Shape>, Arc<Plan>)>) -> PyResult<Self> {
        let maker = Maker::new(py, imports(py)?, format.json, format.refuse_out_of_range)?;
        let plan = plan.filter(|(_, plan)| format.is_current(plan));
        Ok(Self { format, maker, plan, transaction: None, arguments: Vec::new(), version: None })
    }

    /// The plan that was used last, for the next one who makes events in this format.
    pub fn into_plan(self) -> Option<(Arc<Shape>, Arc<Plan>)> {
        self.plan
    }

    /// The event, or the exception that says why there is none; an error that is not about the bytes is raised.
    pub fn event_or_error(&mut self, item: &Item<'_>) -> PyResult<Result<Bound<'py, PyAny>, PyErr>> {
        match self.event(item) {
            Ok(event) => Ok(Ok(event)),
            Err(Failure::Python(error)) => Err(error),
            Err(failure) => {
                let shape = item.shape.map(AsRef::as_ref);
                let about = About { bytes: item.bytes, shape, lsn: item.lsn, position: item.position() };
                exception(self.maker.py, failure, &about).map(Err)
            }
        }
    }

    /// The event. The message is read while its row is made; where that fails, it is read again with all checks: what is
    /// wrong with the message goes before what is wrong with a value.
    fn event(&mut self, item: &Item<'_>) -> Made<'py> {
        let made = self.make(item);
        if made.is_err() {
            item.message()?;
        }
        made
    }

    fn make(&mut self, item: &Item<'_>) -> Made<'py> {
        match item.message_ahead()? {
            Message::Insert { xid, relation_oid, new } => {
                let plan = self.plan_of(item.shape, relation_oid, item.fields_at())?;
                let row = self.maker.row(&plan, item.bytes, new, Role::New { old: None })?;
                let unset = self.maker.unset.clone();
                self.change(&self.maker.imports.insert, xid, &plan, row, unset, item)
            }
            Message::Update { xid, relation_oid, old, new } => {
                let plan = self.plan_of(item.shape, relation_oid, item.fields_at())?;
                let row = self.maker.row(&plan, item.bytes, new, Role::New { old })?;
                let old = match old {
                    None => self.maker.unset.clone(),
                    Some(old) => self.old(&plan, item, old)?,
                };
                self.change(&self.maker.imports.update, xid, &plan, row, old, item)
            }
            Message::Delete { xid, relation_oid, old } => {
                let plan = self.plan_of(item.shape, relation_oid, item.fields_at())?;
                let old = self.old(&plan, item, old)?;
                let unset = self.maker.unset.clone();
                self.change(&self.maker.imports.delete, xid, &plan, unset, old, item)
            }
            Message::Relation { relation, .. } => {
                Ok(self.plan_of(item.shape, relation.oid, item.fields_at())?.relation.bind(self.maker.py).clone())
            }
            Message::Truncate { xid, cascade, restart_identity, relation_oids } => {
                self.truncate(item, xid, [cascade, restart_identity], &relation_oids)
            }
            Message::Message { xid, transactional, lsn, prefix, content } => {
                let own = (
                    PyBool::new(self.maker.py, transactional).to_owned().into_any(),
                    PyInt::new(self.maker.py, lsn).into_any(),
                    construct::text(self.maker.py, prefix)?,
                    PyBytes::new(self.maker.py, content).into_any(),
                );
                self.arguments.clear();
                self.arguments.extend(<[_; 4]>::from(own));
                self.push_transaction(item, xid, false)?;
                self.finish(&self.maker.imports.message)
            }
            other => self.control(item, &other),
        }
    }

    /// Begin, Commit, Origin, Type, and what is said of streamed and prepared transactions.
    fn control(&self, item: &Item<'_>, message: &Message<'_>) -> Made<'py> {
        let (py, imports) = (self.maker.py, self.maker.imports);
        let lsn = self.lsn(item.lsn);
        Ok(match *message {
            Message::Begin { final_lsn, commit_time, xid } => {
                imports.begin.bind(py).call1((final_lsn, self.time(commit_time, 9)?, xid, lsn))?
            }
            Message::Commit { flags, commit_lsn, end_lsn, commit_time } => {
                imports.commit.bind(py).call1((flags, commit_lsn, end_lsn, self.time(commit_time, 18)?, lsn))?
            }
            Message::Origin { commit_lsn, name } => {
                imports.origin.bind(py).call1((commit_lsn, construct::text(py, name)?, lsn))?
            }
            Message::Type { oid, schema, name, .. } => {
                let schema = if schema.is_empty() { b"pg_catalog" } else { schema };
                imports.type_.bind(py).call1((oid, construct::text(py, schema)?, construct::text(py, name)?))?
            }
            Message::StreamStart { xid, first_segment } => {
                imports.stream_start.bind(py).call1((xid, first_segment, lsn))?
            }
            Message::StreamStop => imports.stream_stop.bind(py).call1((lsn,))?,
            Message::StreamCommit { xid, flags, commit_lsn, end_lsn, commit_time } => imports
                .stream_commit
                .bind(py)
                .call1((xid, flags, commit_lsn, end_lsn, self.time(commit_time, 22)?, lsn))?,
            Message::StreamAbort { xid, subxid, abort } => {
                let (abort_lsn, abort_time) = match abort {
                    Some((abort_lsn, time)) => (PyInt::new(py, abort_lsn).into_any(), self.time(time, 17)?),
                    None => (self.maker.unset.clone(), self.maker.unset.clone()),
                };
                imports.stream_abort.bind(py).call1((xid, subxid, abort_lsn, abort_time, lsn))?
            }
            Message::BeginPrepare { prepare_lsn, end_lsn, prepare_time, xid, gid } => {
                let (time, gid) = (self.time(prepare_time, 17)?, construct::text(py, gid)?);
                imports.begin_prepare.bind(py).call1((prepare_lsn, end_lsn, time, xid, gid, lsn))?
            }
            Message::Prepare(of) => self.prepared(&imports.prepare, of, lsn)?,
            Message::StreamPrepare(of) => self.prepared(&imports.stream_prepare, of, lsn)?,
            Message::CommitPrepared { flags, commit_lsn, end_lsn, commit_time, xid, gid } => {
                let (time, gid) = (self.time(commit_time, 18)?, construct::text(py, gid)?);
                imports.commit_prepared.bind(py).call1((flags, commit_lsn, end_lsn, time, xid, gid, lsn))?
            }
            Message::RollbackPrepared {
                flags,
                prepare_end_lsn,
                rollback_end_lsn,
                prepare_time,
                rollback_time,
                xid,
                gid,
            } => {
                let (prepared, rolled_back) = (self.time(prepare_time, 18)?, self.time(rollback_time, 26)?);
                let gid = construct::text(py, gid)?;
                let lsns = (prepare_end_lsn, rollback_end_lsn);
                imports.rollback_prepared.bind(py).call1((
                    flags,
                    lsns.0,
                    lsns.1,
                    prepared,
                    rolled_back,
                    xid,
                    gid,
                    lsn,
                ))?
            }
            // The caller has taken all others.
            _ => self.maker.unset.clone(),
        })
    }

    fn prepared(&self, class: &Py<PyAny>, of: Prepared<'_>, lsn: Bound<'py, PyAny>) -> Made<'py> {
        let py = self.maker.py;
        let (time, gid) = (self.time(of.prepare_time, 18)?, construct::text(py, of.gid)?);
        Ok(class.bind(py).call1((of.flags, of.prepare_lsn, of.end_lsn, time, of.xid, gid, lsn))?)
    }

    /// The time that a transaction's message gives, at this byte of it.
    fn time(&self, microseconds: i64, offset: usize) -> Made<'py> {
        match self.maker.instant(microseconds)? {
            Some(instant) => Ok(instant),
            None => Err(Failure::Value {
                reason: "a time outside the years 1 to 9999",
                column: usize::MAX,
                offset,
                cause: None,
            }),
        }
    }

    fn lsn(&self, lsn: u64) -> Bound<'py, PyAny> {
        if lsn == 0 { self.maker.unset.clone() } else { PyInt::new(self.maker.py, lsn).into_any() }
    }

    fn plan_of(&mut self, shape: Option<&Arc<Shape>>, oid: u32, offset: usize) -> Result<Arc<Plan>, Failure> {
        let shape = shape.ok_or(Failure::UnknownRelation { oid, offset })?;
        if let Some((known, plan)) = &self.plan
            && Arc::ptr_eq(known, shape)
        {
            return Ok(Arc::clone(plan));
        }
        let plan = self.format.plan(self.maker.py, shape)?;
        self.plan = Some((Arc::clone(shape), Arc::clone(&plan)));
        Ok(plan)
    }

    fn old(&mut self, plan: &Plan, item: &Item<'_>, old: Old<'_>) -> Made<'py> {
        match old {
            Old::Key(tuple) => self.maker.row(plan, item.bytes, tuple, Role::Key),
            Old::Row(tuple) => self.maker.row(plan, item.bytes, tuple, Role::OldRow),
        }
    }

    /// The fields that every change has, after its own: xid, lsn, `commit_lsn`, `commit_time`, index.
    fn push_transaction(&mut self, item: &Item<'_>, xid: Option<u32>, with_lsn: bool) -> Result<(), Failure> {
        let unset = &self.maker.unset;
        self.arguments.push(match xid {
            Some(xid) => PyInt::new(self.maker.py, xid).into_any(),
            None => unset.clone(),
        });
        if with_lsn {
            self.arguments.push(self.lsn(item.lsn));
        }
        let Some(transaction) = item.transaction.filter(|_| item.index.is_some()) else {
            self.arguments.extend([unset.clone(), unset.clone(), unset.clone()]);
            return Ok(());
        };
        if self.transaction.as_ref().is_none_or(|(known, ..)| *known != transaction) {
            let lsn = PyInt::new(self.maker.py, transaction.commit_lsn).into_any();
            let time = match transaction.commit_time {
                Some(time) => self.maker.instant(time)?.unwrap_or_else(|| unset.clone()),
                None => unset.clone(),
            };
            self.transaction = Some((transaction, lsn, time));
        }
        if let Some((_, lsn, time)) = &self.transaction {
            self.arguments.extend([lsn.clone(), time.clone()]);
        }
        self.arguments.push(match item.index {
            Some(index) => PyInt::new(self.maker.py, index).into_any(),
            None => self.maker.unset.clone(),
        });
        Ok(())
    }

    fn finish(&mut self, class: &Py<PyAny>) -> Made<'py> {
        let event = construct::call(class.bind(self.maker.py), &self.arguments, None);
        self.arguments.clear();
        Ok(event?)
    }

    fn change(
        &mut self,
        class: &'py Py<PyAny>,
        xid: Option<u32>,
        plan: &Plan,
        new: Bound<'py, PyAny>,
        old: Bound<'py, PyAny>,
        item: &Item<'_>,
    ) -> Made<'py> {
        self.arguments.clear();
        self.arguments.extend([plan.relation.bind(self.maker.py).clone(), new, old]);
        self.push_transaction(item, xid, true)?;
        self.push_version(item, item.shape);
        self.finish(class)
    }

    /// The last field of a change; left out where it is not known.
    fn push_version(&mut self, item: &Item<'_>, shape: Option<&Arc<Shape>>) {
        let (Some(versions), Some(shape), Some(position)) = (item.versions, shape, item.position()) else { return };
        let oid = shape.relation.oid;
        if !matches!(&self.version, Some((known, span, _)) if *known == oid && span.contains(position)) {
            let Some(span) = versions.span(oid, position) else { return };
            self.version = Some((oid, span, PyInt::new(self.maker.py, span.version).into_any()));
        }
        if let Some((_, _, version)) = &self.version {
            self.arguments.push(version.clone());
        }
    }

    fn truncate(&mut self, item: &Item<'_>, xid: Option<u32>, flags: [bool; 2], oids: &[u32]) -> Made<'py> {
        let py = self.maker.py;
        let relations = PyList::empty(py);
        for (number, (shape, &oid)) in item.truncated.iter().zip(oids).enumerate() {
            // Count and options come first: five bytes.
            let offset = number.saturating_mul(4).saturating_add(5).saturating_add(item.fields_at());
            relations.append(&self.plan_of(*shape, oid, offset)?.relation)?;
        }
        self.arguments.clear();
        let flags = flags.map(|flag| PyBool::new(py, flag).to_owned().into_any());
        self.arguments.push(relations.into_any());
        self.arguments.extend(flags);
        self.push_transaction(item, xid, true)?;
        self.push_version(item, item.truncated.first().copied().flatten());
        self.finish(&self.maker.imports.truncate)
    }
}
