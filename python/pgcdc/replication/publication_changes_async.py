"""Publications read as they are defined, and changed by a plan: all of it in one transaction, or nothing.

Source: PostgreSQL manual, "CREATE PUBLICATION", "ALTER PUBLICATION", "DROP PUBLICATION".
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from pgcdc.errors import ConfigError, Error, PublicationNotFound, ReplicationError
from pgcdc.replication.plan import PlanStale
from pgcdc.replication.publication_catalog import (
    OWN_XID,
    RowFilter,
    TableFacts,
    facts_from,
    facts_sql,
    filter_from,
    filter_sql,
    publications_from,
    publications_sql,
)
from pgcdc.replication.publication_definition import Publication, check_publication
from pgcdc.replication.publication_plan import (
    PublicationPlan,
    check_tables,
    plan_drop,
    plan_publication,
    same,
    with_filters,
)
from pgcdc.replication.session_async import StatementTimeout
from pgcdc.replication.sqlstate import Doing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgcdc.replication.session_async import AsyncSession

__all__ = ["apply", "plan", "plan_to_drop", "read", "read_all"]


async def read(session: AsyncSession, name: str) -> Publication | None:
    """Read a publication; the contract is `AsyncConnection.publication`'s."""
    sql = publications_sql(session.server_version, name)
    found = publications_from(await session.execute(sql, doing=_looking(name)))
    return found[0] if found else None


async def read_all(session: AsyncSession) -> list[Publication]:
    """Read all publications; the contract is `AsyncConnection.publications`'."""
    sql = publications_sql(session.server_version)
    return publications_from(await session.execute(sql, doing=Doing("looking at publications")))


async def plan(session: AsyncSession, wanted: Publication) -> PublicationPlan:
    """Plan a publication; the contract is `AsyncConnection.plan_publication`'s."""
    check_publication(wanted, session.server_version)
    found = await read(session, wanted.name)
    facts = await _facts(session, found, wanted)
    check_tables(wanted, facts)
    await _check_schemas(session, wanted)
    filters = await _filters(session, wanted)
    wanted = with_filters(wanted, filters)
    steps, warnings = plan_publication(found, wanted, facts, filters, session.server_version)
    return PublicationPlan(wanted.name, wanted, found, steps, warnings, _seen(facts))


async def plan_to_drop(session: AsyncSession, name: str) -> PublicationPlan:
    """Plan to drop a publication; the contract is `AsyncConnection.plan_drop_publication`'s."""
    found = await read(session, name)
    if found is None:
        raise PublicationNotFound(
            f'publication "{name}" does not exist',
            hint="correct the name: SELECT pubname FROM pg_publication;",
            publication=name,
        )
    steps, warnings = plan_drop(found)
    return PublicationPlan(name, None, found, steps, warnings, "")


async def apply(session: AsyncSession, planned: PublicationPlan, timeout: float) -> None:
    """Do what was planned; the contract is `AsyncConnection.apply`'s."""
    if not planned.steps:
        return
    if not session.idle:
        raise ConfigError(
            "a transaction is open on this connection, and a plan is applied in one of its own",
            hint="end it, or use another connection",
            publication=planned.publication,
        )
    deadline = monotonic() + timeout
    try:
        await session.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", doing=_changing(planned))
        await _check_unchanged(session, planned)
        for step in planned.steps:
            await _run(session, planned, step.command, deadline, timeout)
        await _check_outcome(session, planned)
        await session.execute("COMMIT", doing=_changing(planned))
    except BaseException:
        await _roll_back(session)
        raise


async def _roll_back(session: AsyncSession) -> None:
    """End a transaction after an error; another error would say less than the first."""
    with suppress(Error):
        if not session.closed and not session.idle:
            await session.execute("ROLLBACK")


async def _run(session: AsyncSession, planned: PublicationPlan, command: str, deadline: float, timeout: float) -> None:
    try:
        await session.execute(command, timeout=max(deadline - monotonic(), 0.001), doing=_changing(planned))
    except StatementTimeout:
        raise ReplicationError(
            f'changing publication "{planned.publication}" did not end within {timeout:g} s, and nothing was changed',
            hint="something holds a lock on one of its tables (an index that is being built, VACUUM, another command"
            " like this): wait for it, or give a longer timeout",
            publication=planned.publication,
        ) from None
    except Error as error:
        if error.sqlstate == "0A000" and " WHERE (" in command:
            error.hint = (
                "a row filter may have columns, constants, and immutable operators and functions of PostgreSQL's own"
            )
        if error.sqlstate == "42501":
            commands = " ".join(f"{step.command};" for step in planned.steps)
            error.hint = (
                f"let the owner of the publication and the tables, or a superuser, run: BEGIN; {commands} COMMIT;"
            )
        raise


async def _check_unchanged(session: AsyncSession, planned: PublicationPlan) -> None:
    """Refuse a plan that was made for something else than what is there now."""
    found = await read(session, planned.publication)
    rows = () if found is None else found.catalog_rows
    if rows != (() if planned.found is None else planned.found.catalog_rows):
        raise _stale(planned, "it was changed since the plan was made")
    if planned.wanted is not None and _seen(await _facts(session, found, planned.wanted)) != planned.tables_seen:
        raise _stale(planned, "a table that it concerns was changed since the plan was made")


async def _check_outcome(session: AsyncSession, planned: PublicationPlan) -> None:
    """Refuse when somebody else's change, committed meanwhile, is part of what came of it."""
    found = await read(session, planned.publication)
    if planned.wanted is None or found is None:
        expected = planned.wanted is None and found is None
    else:
        [(own,)] = await session.execute(OWN_XID)
        before = () if planned.found is None else planned.found.catalog_rows
        theirs = [row for row in found.catalog_rows if row not in before and str(row[1]) != own]
        expected = same(found, planned.wanted) and not theirs
    if not expected:
        raise _stale(planned, "somebody else changed it at the same time")


def _stale(planned: PublicationPlan, why: str) -> PlanStale:
    return PlanStale(
        f'the plan for publication "{planned.publication}" is not applied: {why}',
        hint="make another plan, and look at it again",
        publication=planned.publication,
    )


async def _facts(session: AsyncSession, found: Publication | None, wanted: Publication) -> list[TableFacts]:
    concerned: Sequence[Publication] = [wanted] if found is None else [found, wanted]
    return facts_from(await session.execute(facts_sql(concerned), doing=_looking(wanted.name)))


def _seen(facts: Sequence[TableFacts]) -> str:
    """A fingerprint of what a plan was made for, so that a plan need not carry all tables of a database."""
    # Names of a database in SQL_ASCII may hold what is no text; repr writes it as it is written in source.
    return hashlib.sha256(repr([msgspec.structs.astuple(fact) for fact in facts]).encode()).hexdigest()


async def _check_schemas(session: AsyncSession, wanted: Publication) -> None:
    rows = await session.execute("SELECT nspname FROM pg_catalog.pg_namespace") if wanted.schemas else []
    for schema in wanted.schemas:
        if (schema,) not in rows:
            raise ConfigError(
                f'schema "{schema}" does not exist',
                hint="correct the name (letters are not folded), or create the schema",
                publication=wanted.name,
                sqlstate="3F000",
            )


async def _filters(session: AsyncSession, wanted: Publication) -> dict[str, RowFilter]:
    """How the server reads the row filters of a publication; without those that it cannot be asked for here."""
    filters = {}
    for table in wanted.tables:
        if table.where is None:
            continue
        doing = Doing(
            f"reading the row filter of {table.table}",
            publications=(wanted.name,),
            table=table.table,
            schema=table.name[0],
        )
        if not session.idle:
            break
        try:
            filters[table.table] = filter_from(
                await session.execute(filter_sql(table), timeout=_FILTER_SECONDS, doing=doing)
            )
        except Error as error:
            await _roll_back(session)
            if error.sqlstate not in _CANNOT_ASK and not isinstance(error, StatementTimeout):
                raise
    return filters


_FILTER_SECONDS = 5.0
"""How long a lock on the table may keep a plan waiting before it is made without having looked at the filter."""
_CANNOT_ASK = frozenset({"42501", "25006", "0LP01"})
"""The role may not read the table or make temporary ones, or this is a standby."""


def _looking(name: str) -> Doing:
    return Doing(f'looking at publication "{name}"', publications=(name,))


def _changing(planned: PublicationPlan) -> Doing:
    return Doing(f'changing publication "{planned.publication}"', publications=(planned.publication,))
