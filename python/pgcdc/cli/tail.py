"""`pgcdc tail`: what is committed in a database from now on, as lines, without leaving anything behind.

A temporary slot ends with the connection, a publication that was made for the tail is dropped at its end. Ctrl-C,
SIGTERM and a reader that is gone (`| head`) end it with 0.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pgcdc.cli.arguments import Dsn, Tables
from pgcdc.cli.complaint import complaining
from pgcdc.cli.output import forget_stdout
from pgcdc.cli.stopping import Stopping

if TYPE_CHECKING:
    from pgcdc.cli.lines import Condition, Template
    from pgcdc.protocol import Batch
    from pgcdc.replication import Connection, PublishedTable, Stream

__all__ = ["tail"]

_IDLE: Final = 0.25
"""Seconds between two looks at whether a signal came or the reader is gone."""
_LAST: Final = 2**31
"""An index behind all changes of a transaction."""
_ACTIONS: Final = ("insert", "update", "delete", "truncate", "message")


def tail(
    dsn: Dsn = "",
    table: Tables = None,
    action: Annotated[
        list[str] | None,
        typer.Option(help="Only insert, update, delete, truncate or message; several times.", show_default=False),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Only rows for which it holds: 'status=paid', 'total >= 100', 'note ~ ^urgent', 'note is null';"
            " several times: all of them.",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Instead of JSON: '{table} {action} {row[id]}'.", show_default=False),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many lines.", show_default=False)] = None,
    publication: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Take what this publication publishes; several times. Else one is made, and dropped at the end.",
            show_default=False,
        ),
    ] = None,
    slot: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A slot that stays, made when it does not exist; with --publication. Else a temporary one.",
            show_default=False,
        ),
    ] = None,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="With --slot: what was printed does not come again next time.")
    ] = False,
    from_lsn: Annotated[
        str | None,
        typer.Option(metavar="LSN", help="With --slot: only what commits there or later.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Lines of JSON, which is so anyway; errors, too.")] = False,
) -> None:
    """Print changes as they are committed, each as a line of JSON, until Ctrl-C."""
    from pgcdc.cli.logs import log_to_stderr
    from pgcdc.errors import ConfigError

    with complaining(json=json) as redactor:
        redactor.learn_dsn(dsn)
        _check(action or (), template, json=json)
        if slot is None and (confirm or from_lsn is not None):
            raise ConfigError(
                "--confirm and --from-lsn are for a slot that stays", hint="--slot NAME --publication NAME"
            )
        if slot is not None and not publication:
            raise ConfigError(
                "a slot that stays needs a publication that stays",
                hint="--publication NAME; pgcdc init and CREATE PUBLICATION make one",
            )
        one = _Tail(dsn, table, action, where, template, count)
        log_to_stderr("warning", json, redactor)
        with Stopping() as stopping:
            one.run(publication, slot, from_lsn, stopping, confirm=confirm)


def _check(actions: Collection[str], template: str | None, *, json: bool) -> None:
    from pgcdc.config import meant
    from pgcdc.errors import ConfigError

    for action in actions:
        if action not in _ACTIONS:
            raise ConfigError(f"--action {action} does not exist", hint=meant(action, _ACTIONS, "actions"))
    if json and template is not None:
        raise ConfigError("--json and --template contradict each other", hint="give one of them")


class _Tail:
    """One tail: what is wanted of the stream, and what is printed of it."""

    def __init__(
        self,
        dsn: str,
        tables: Sequence[str] | None,
        actions: Sequence[str] | None,
        where: Sequence[str] | None,
        template: str | None,
        count: int | None,
    ) -> None:
        from pgcdc.cli.lines import parse_template
        from pgcdc.replication import parse_table

        self._dsn = dsn
        self._tables = [parse_table(table) for table in tables or ()]
        self._actions = list(actions) if actions else None
        self._where = list(where or ())
        self._conditions: list[Condition] = []
        self._template: Template | None = None if template is None else parse_template(template)
        self._left = count
        self._poll: Any = None
        if hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(sys.stdout.fileno(), 0)  # only whether the other end is gone

    def run(
        self,
        publications: Sequence[str] | None,
        slot: str | None,
        from_lsn: str | None,
        stopping: Stopping,
        *,
        confirm: bool,
    ) -> None:
        """Print until it is enough."""
        from pgcdc.lsn import format_lsn, parse_lsn
        from pgcdc.replication import check_server, connect

        start_lsn = 0 if from_lsn is None else parse_lsn(from_lsn)
        with connect(self._dsn) as connection, contextlib.ExitStack() as stack:
            check_server(connection)  # before a publication is made on it
            names = self._published(connection, publications) if publications else self._lent(connection, stack)
            name = slot or f"pgcdc_tail_{secrets.token_hex(6)}"
            if slot is not None and confirm:
                _refuse_slot_of_pipeline(connection, slot)
            made = connection.create_slot(name, temporary=slot is None, if_not_exists=slot is not None)
            keeps = slot is not None and not confirm
            with connection.stream(name, names, start_lsn=start_lsn, confirm_idle=not keeps) as stream:
                kept = f"slot {name}" if slot is not None else "a temporary slot"
                since = f", from {format_lsn(made.consistent_point)} on" if made.created else ""
                if slot is not None and made.created:
                    _say(f"tail: the slot stays, and keeps WAL: SELECT pg_drop_replication_slot('{name}')")
                _say(f"tail: {kept}{since}; Ctrl-C ends it")
                self._follow(stream, stopping, confirm=not keeps)

    def _follow(self, stream: Stream, stopping: Stopping, *, confirm: bool) -> None:
        while not stopping.asked and not self._reader_is_gone():
            batch = stream.read(_IDLE)
            if not len(batch):
                continue
            try:
                last = self._print(batch)
            except BrokenPipeError:
                forget_stdout()
                return
            if last is not None:
                if confirm:
                    self._confirm_partly(stream, batch, last)
                return
            if confirm:
                stream.confirm(batch)

    def _print(self, batch: Batch) -> bytes | None:
        """Print what is wanted; gives the line behind which it is enough, else None."""
        lines = self._select(batch).to_json().split(b"\n")[:-1]
        for line in lines:
            text = self._text(line)
            if text is None:
                continue
            sys.stdout.buffer.write(text + b"\n")
            if self._left is not None:
                self._left -= 1
                if not self._left:
                    sys.stdout.buffer.flush()
                    return line
        sys.stdout.buffer.flush()
        return None

    def _text(self, line: bytes) -> bytes | None:
        """What is printed of a line; None when it is not wanted."""
        from pgcdc.cli.lines import parse_line

        if not self._conditions and self._template is None:
            return line
        parsed = parse_line(line)
        if not all(condition.holds(parsed) for condition in self._conditions):
            return None
        return line if self._template is None else self._template.fill(parsed).encode(errors="surrogateescape")

    def _select(self, batch: Batch) -> Batch:
        if not self._tables and self._actions is None:
            return batch
        return batch.select(self._tables or None, self._actions)

    def _confirm_partly(self, stream: Stream, batch: Batch, line: bytes) -> None:
        """Confirm what was printed whole: a transaction whose last lines were too many comes again."""
        from pgcdc.cli.lines import parse_line
        from pgcdc.events import Commit
        from pgcdc.lsn import Position

        place = parse_line(line).get("position")
        if place is None:
            return  # a logical message outside of transactions, which comes again
        position = Position.parse(place)
        stream.confirm(batch.up_to(position))
        rest = batch.after(position)
        while not self._select(rest.up_to((position.commit_lsn, _LAST))).changes_count:
            for event in rest.events():
                if isinstance(event, Commit) and event.commit_lsn == position.commit_lsn:
                    stream.confirm(event)
                    return
            if not stream.in_transaction:
                return
            rest = stream.read(_IDLE)  # the Commit is still to come

    def _reader_is_gone(self) -> bool:
        return self._poll is not None and any(event & select.POLLERR for _, event in self._poll.poll(0))

    def _published(self, connection: Connection, publications: Sequence[str]) -> list[str]:
        from pgcdc.errors import ConfigError
        from pgcdc.replication import published_tables

        tables = published_tables(connection, publications)
        found = {(table.schema, table.name) for table in tables}
        for schema, name in self._tables:
            if (schema, name) not in found:
                raise ConfigError(
                    f"table {schema}.{name} is not published by {', '.join(publications)}",
                    hint="leave --publication out, and one is made for as long as it takes",
                    table=f"{schema}.{name}",
                )
        self._check_columns(
            [table for table in tables if not self._tables or (table.schema, table.name) in self._tables]
        )
        return list(publications)

    def _lent(self, connection: Connection, stack: contextlib.ExitStack) -> list[str]:
        from pgcdc.cli.borrowing import lent, tables_of_database
        from pgcdc.errors import ConfigError
        from pgcdc.replication.publication import named_tables_sql, tables_from

        tables: Sequence[tuple[str, str]] = self._tables
        others: Sequence[tuple[str, str]] = ()
        if not tables:
            tables, others = tables_of_database(connection, "publish")
        if not tables:
            raise ConfigError(
                f"database {connection.database!r} has no table that this role may publish",
                hint="a table is published by its owner; --publication NAME takes what is published already",
            )
        self._check_columns(tables_from(connection.execute(named_tables_sql(tables)), connection.server_version))
        if others:
            count = f"{len(others)} table{'s' * (len(others) > 1)}"
            _say(f"tail: without {count} of other roles: --publication takes what is published already")
        found = stack.enter_context(lent(connection, tables, lambda text: _say(f"warning: {text}")))
        for table in found.inserts_only:
            _say(f"tail: of {table} only inserts and truncates: it has no replica identity")
        return found.publications

    def _check_columns(self, tables: Sequence[PublishedTable]) -> None:
        """Read the conditions, before anything is made."""
        from pgcdc.cli.lines import parse_condition

        columns = sorted({column.name for table in tables for column in table.relation.columns})
        self._conditions = [parse_condition(text, columns) for text in self._where]


def _refuse_slot_of_pipeline(connection: Connection, slot: str) -> None:
    """A pipeline would lose what somebody else confirms from its slot."""
    from pgcdc.errors import ConfigError
    from pgcdc.replication.quoting import literal

    # By the catalog: a role that may not use the schema may not even ask to_regclass for what is in it.
    readable = """
        SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'pgcdc' AND c.relname = 'positions' AND has_schema_privilege(n.oid, 'USAGE')
            AND has_table_privilege(c.oid, 'SELECT')"""
    if not connection.execute(readable):
        return
    query = f"SELECT pipeline FROM pgcdc.positions WHERE slot = {literal(slot)} LIMIT 1"  # noqa: S608 (quoted)
    for (pipeline,) in connection.execute(query):
        raise ConfigError(
            f"slot {slot} is that of pipeline {pipeline!r}, which would lose what is confirmed here",
            hint="leave --confirm out, or take a slot of its own",
            slot=slot,
        )


def _say(text: str) -> None:
    typer.echo(text, err=True)
