//! One message to one event.
use std::sync::Arc;

use pgoutput::batch::Position;
use pgoutput::message::{Message, Old};
use pgoutput::session::{Shape, Transaction};
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
    pub transaction: Option<Transaction>,
    pub index: Option<i64>,
}

impl Item<'_> {
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
}

type Made<'py> = Result<Bound<'py, PyAny>, Failure>;

impl<'py, 'f> Events<'py, 'f> {
    pub fn new(py: Python<'py>, format: &'f RowFormat, plan: Option<(Arc<Shape>, Arc<Plan>)>) -> PyResult<Self> {
        let maker = Maker::new(py, imports(py)?, format.json)?;
        Ok(Self { format, maker, plan, transaction: None, arguments: Vec::new() })
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

    fn event(&mut self, item: &Item<'_>) -> Made<'py> {
        match Message::parse(item.bytes)? {
            Message::Insert { relation_oid, new } => {
                let plan = self.plan_of(item.shape, relation_oid, 1)?;
                let row = self.maker.row(&plan, item.bytes, new, Role::New { old: None })?;
                let unset = self.maker.unset.clone();
                self.change(&self.maker.imports.insert, &plan, row, unset, item)
            }
            Message::Update { relation_oid, old, new } => {
                let plan = self.plan_of(item.shape, relation_oid, 1)?;
                let row = self.maker.row(&plan, item.bytes, new, Role::New { old })?;
                let old = match old {
                    None => self.maker.unset.clone(),
                    Some(old) => self.old(&plan, item, old)?,
                };
                self.change(&self.maker.imports.update, &plan, row, old, item)
            }
            Message::Delete { relation_oid, old } => {
                let plan = self.plan_of(item.shape, relation_oid, 1)?;
                let old = self.old(&plan, item, old)?;
                let unset = self.maker.unset.clone();
                self.change(&self.maker.imports.delete, &plan, unset, old, item)
            }
            Message::Relation(relation) => {
                Ok(self.plan_of(item.shape, relation.oid, 1)?.relation.bind(self.maker.py).clone())
            }
            Message::Truncate { cascade, restart_identity, relation_oids } => {
                self.truncate(item, cascade, restart_identity, &relation_oids)
            }
            Message::Message { transactional, lsn, prefix, content } => {
                self.logical_message(item, transactional, lsn, prefix, content)
            }
            other => self.control(item, &other),
        }
    }

    /// Begin, Commit, Origin, Type.
    fn control(&self, item: &Item<'_>, message: &Message<'_>) -> Made<'py> {
        let (py, imports) = (self.maker.py, self.maker.imports);
        let lsn = self.lsn(item.lsn);
        Ok(match *message {
            Message::Begin { final_lsn, commit_time, xid } => {
                imports.begin.bind(py).call1((final_lsn, self.commit_time(commit_time, 9)?, xid, lsn))?
            }
            Message::Commit { flags, commit_lsn, end_lsn, commit_time } => {
                imports.commit.bind(py).call1((flags, commit_lsn, end_lsn, self.commit_time(commit_time, 18)?, lsn))?
            }
            Message::Origin { commit_lsn, name } => {
                imports.origin.bind(py).call1((commit_lsn, construct::text(py, name)?, lsn))?
            }
            Message::Type { oid, schema, name } => {
                let schema = if schema.is_empty() { b"pg_catalog" } else { schema };
                imports.type_.bind(py).call1((oid, construct::text(py, schema)?, construct::text(py, name)?))?
            }
            // The caller has taken all others.
            _ => self.maker.unset.clone(),
        })
    }

    fn commit_time(&self, microseconds: i64, offset: usize) -> Made<'py> {
        match self.maker.instant(microseconds)? {
            Some(instant) => Ok(instant),
            None => Err(Failure::Value {
                reason: "a commit time outside the years 1 to 9999",
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
    fn push_transaction(&mut self, item: &Item<'_>, with_lsn: bool) -> Result<(), Failure> {
        let unset = &self.maker.unset;
        self.arguments.push(unset.clone());
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
        plan: &Plan,
        new: Bound<'py, PyAny>,
        old: Bound<'py, PyAny>,
        item: &Item<'_>,
    ) -> Made<'py> {
        self.arguments.clear();
        self.arguments.extend([plan.relation.bind(self.maker.py).clone(), new, old]);
        self.push_transaction(item, true)?;
        self.finish(class)
    }

    fn truncate(&mut self, item: &Item<'_>, cascade: bool, restart_identity: bool, oids: &[u32]) -> Made<'py> {
        let py = self.maker.py;
        let relations = PyList::empty(py);
        for (number, (shape, &oid)) in item.truncated.iter().zip(oids).enumerate() {
            // Kind, count and options come first: six bytes.
            let offset = number.saturating_mul(4).saturating_add(6);
            relations.append(&self.plan_of(*shape, oid, offset)?.relation)?;
        }
        self.arguments.clear();
        let flags = [cascade, restart_identity].map(|flag| PyBool::new(py, flag).to_owned().into_any());
        self.arguments.push(relations.into_any());
        self.arguments.extend(flags);
        self.push_transaction(item, true)?;
        self.finish(&self.maker.imports.truncate)
    }

    fn logical_message(
        &mut self,
        item: &Item<'_>,
        transactional: bool,
        lsn: u64,
        prefix: &[u8],
        content: &[u8],
    ) -> Made<'py> {
        let py = self.maker.py;
        self.arguments.clear();
        self.arguments.extend([
            PyBool::new(py, transactional).to_owned().into_any(),
            PyInt::new(py, lsn).into_any(),
            construct::text(py, prefix)?,
            PyBytes::new(py, content).into_any(),
        ]);
        self.push_transaction(item, false)?;
        self.finish(&self.maker.imports.message)
    }
}
