"""Tables of ClickHouse, over HTTP: the current state of each table, or a log of its changes.

Over 400 lines because a sink is one file, with what it promises.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

import msgspec

from pgcdc.errors import ConfigError, SinkError, SinkRejected, SinkUnavailable
from pgcdc.events import Relation
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.protocol import Batch, JsonRow
from pgcdc.protocol.json_columns import decode_columns, decode_text, encode_columns
from pgcdc.schema import SchemaChange
from pgcdc.sinks.clickhouse_tables import (
    ACTION,
    DELETED,
    FLOORS,
    OLD_KEY,
    POSITION,
    UNSENT,
    columns_of,
    create,
    create_floors,
    has_own_text,
    name,
    text,
)
from pgcdc.sinks.dropped_tables import dropped
from pgcdc.sinks.http_service import HttpService
from pgcdc.sinks.row_states import Key, KnownRow, RowState, TableStates

__all__ = ["ClickHouse"]

_READ_AT_ONCE: Final = 500
_CODE: Final = re.compile(rb"Code: (\d+)\.")
_ROW: Final = re.compile(rb"\(at row (\d+)\)")
_COLUMN: Final = re.compile(rb"while reading the value of key ([^)]{1,200})\)")
# What a value is refused with. Source: ClickHouse, src/Common/ErrorCodes.cpp.
_REFUSED: Final = frozenset((6, 26, 27, 38, 41, 53, 69, 70, 72, 117, 131, 190, 321, 349, 376, 407, 467, 469))
_NOT_ALLOWED: Final = frozenset((192, 193, 194, 497, 516))
_GONE: Final = frozenset((60, 81))
# What will not be otherwise later: statements that it does not understand or refuses.
_FINAL: Final = frozenset((36, 44, 47, 48, 57, 62, 115, 524)) | _GONE
_SETTINGS: Final = {
    "async_insert": "0",
    "wait_end_of_query": "1",
    "date_time_input_format": "best_effort",
    "date_time_overflow_behavior": "throw",
    "input_format_skip_unknown_fields": "0",
    "input_format_null_as_default": "1",
    "input_format_parallel_parsing": "0",
    "input_format_json_read_objects_as_strings": "1",
    "input_format_json_read_arrays_as_strings": "1",
    "input_format_json_read_numbers_as_strings": "1",
    "input_format_json_read_bools_as_strings": "1",
    "output_format_json_quote_denormals": "1",
    "output_format_json_quote_64bit_integers": "0",
}


def _number(position: Position) -> int:
    """A position as a number that compares as positions do."""
    return position.commit_lsn << 32 | position.index + 1


def _position(number: int) -> Position:
    """The position that is such a number."""
    return Position(number >> 32, (number & 0xFFFFFFFF) - 1)


class _Table:
    """What is known of a table since it was looked at.

    Args:
        source: PostgreSQL's name of it.
        full: ClickHouse's, as SQL has it.
        key: The columns of its key.
        odd: Those of them that are strings here, as PostgreSQL prints them.
        uuid: What tells it from another one that had its name before.
    """

    def __init__(
        self, source: tuple[str, str], full: str, key: tuple[str, ...], odd: frozenset[str], uuid: str
    ) -> None:
        self.source = source
        self.full = full
        self.uuid = uuid
        self.key = key
        self.odd = odd
        self.shapes: list[Relation] = []
        self.floor = Position(0, SNAPSHOT_INDEX)
        """The position of the last TRUNCATE that is known of."""


class ClickHouse:
    """Keeps a table of ClickHouse for each table in step with it. For ClickHouse from 23.11 on.

    At least once, with a guard: the table is a `ReplacingMergeTree` whose version is the position of the change, all of
    it. Of all rows with one key that with the highest position counts, so what comes again changes nothing. The
    position of a table's last TRUNCATE is kept, in the table `pgcdc_floors`: what is from before that and comes later
    (a dead letter, a process that wakes up) is no row. A write that has returned is on the disk: tables are made with
    `fsync_after_insert`.

    **Read with `FINAL`**: `SELECT … FROM orders FINAL`. Rows are replaced when parts are merged, at some time; without
    `FINAL` a query sees several of one key, and deleted ones.

    - **insert, update**: a row, JSON as `Batch.to_json` has it; of several changes of a key in a batch the last one.
    - **delete**: a row with the key and `pgcdc_deleted = 1`; it stays, so no old change brings the row back.
    - **unchanged TOAST**: read from the table. Where the row is not there, the column is NULL.
    - **change of key**: a row under the new key, and one that says that the old one is deleted.
    - **TRUNCATE**: for all rows that are older one that says that they are deleted, in one statement on the server.
    - **schema changes**: a new column is added, another type is applied with MODIFY COLUMN. Dropped and renamed columns
      stay, as NULL from then on. The key cannot change.
    - **initial copy**: the same inserts, large ones.

    With `form="log"` each change is a row of its own instead, in the order of positions: `pgcdc_action` says what
    happened, `pgcdc_unsent` which columns were not sent, `pgcdc_old_key` what the key was. Changes that come again
    replace themselves; `FINAL` here, too.

    A value that its type cannot hold is `SinkRejected` with the position of its row, and nothing of the insert is
    written.

    Args:
        url: Where its HTTP interface is: `"http://localhost:8123"`; a user and password in it are taken as such.
        database: The database; it has to be there.
        table: The names of its tables, with `{schema}` and `{table}` for what is different for each. One that is
            missing is made; one that is there needs the columns `pgcdc_position UInt128` and `pgcdc_deleted UInt8`, and
            an engine that replaces rows by them.
        user: The user.
        password: The password.
        ca_file: Certificates (PEM) to check the server's with; None: those that the system trusts.
        tls: An SSL context instead.
        form: `"state"`, or `"log"`.
        key: The columns that rows of a table are known by, by the table's name, instead of the primary key.
        types: Types by column, as SQL has them, instead of those that follow from PostgreSQL's: `{"tags":
            "Array(String)"}`.
        max_bytes: How large one insert may be, in bytes; a row that is larger is sent alone.
        timeout: How long a request may take, in seconds.

    Raises:
        ConfigError: When an argument is none of the above.

    Source:
        ClickHouse documentation, "HTTP Interface", "ReplacingMergeTree", "JSONEachRow".
    """

    defaults: ClassVar[Mapping[str, Any]] = {"max_rows": 50_000, "max_wait": 1.0}
    """Few large inserts: each makes a part on the server's disk."""

    def __init__(
        self,
        url: str,
        *,
        database: str = "default",
        table: str = "{table}",
        user: str | None = None,
        password: str | None = None,
        ca_file: str | None = None,
        tls: ssl.SSLContext | None = None,
        form: Literal["state", "log"] = "state",
        key: Mapping[str, Sequence[str]] | None = None,
        types: Mapping[str, str] | None = None,
        max_bytes: int = 64 * 1024**2,
        timeout: float = 300.0,
    ) -> None:
        if form not in ("state", "log"):
            raise ConfigError(f"form={form!r} is none", hint='"state" or "log"')
        if max_bytes < 1 or timeout <= 0 or not table:
            raise ConfigError("max_bytes is at least 1, timeout more than 0, and table is a name")
        self._service = HttpService(
            url, what="ClickHouse", user=user, password=password, ca_file=ca_file, tls=tls, timeout=timeout
        )
        self._database = database
        self._template = table
        self._floors = f"{name(database)}.{name(FLOORS)}"
        self._log = form == "log"
        self._key = {} if key is None else {one: tuple(columns) for one, columns in key.items()}
        self._types = dict(types or {})
        self._max_bytes = max_bytes
        self._tables: dict[str, _Table] = {}
        self._preparing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<ClickHouse {self._database}.{self._template} at {self._service.address}>"

    async def open(self) -> None:
        """Connect.

        Raises:
            SinkUnavailable: When it does not answer.
            ConfigError: When it does not know the user, or the database.
        """
        await self._service.open()
        self._tables.clear()
        try:
            # Here and below names are quoted and strings escaped: there are no parameters for names.
            found = await self._ask(f"SELECT 1 FROM system.databases WHERE name = {text(self._database)}")  # noqa: S608
            if not found.strip():
                raise ConfigError(f"{self!r} has no database {self._database}", hint="CREATE DATABASE makes it")
        except BaseException:
            await self._service.close()
            raise

    async def close(self) -> None:
        """Disconnect."""
        await self._service.close()

    async def write(self, batch: Batch) -> None:
        """Write the rows that a batch makes.

        Args:
            batch: The batch.

        Raises:
            SinkUnavailable: When not all could be written for now.
            SinkRejected: When there is one that the table does not take.
            ConfigError: When a table is not there any more.
        """
        tables = {(one.schema, one.name): await self._prepare(batch, one) for one in batch.relations}
        changes: dict[str, list[tuple[JsonRow, Position]]] = {}
        for row in batch.json_rows(lambda relation: self._key_of(batch, relation)):
            relation, position = row.relation, row.position
            if relation is None:  # a logical message
                continue
            if position is None:
                raise SinkError("changes without a position cannot be written to ClickHouse")
            changes.setdefault(tables[relation.schema, relation.name].full, []).append((row, position))
        known = {one.full: one for one in tables.values()}
        try:
            for full, rows in changes.items():
                await (self._append if self._log else self._replace)(known[full], rows)
        except _Missing:
            for full in changes:
                if await self._ask(f"EXISTS TABLE {full}") == b"0\n":
                    raise dropped(full, "ClickHouse") from None
            raise

    async def schema_changed(self, change: SchemaChange) -> None:
        """Give columns that have another type the new one, before the first value of it.

        A table that is not there is made with its first row: nothing was written of it yet, or somebody has dropped it.

        Args:
            change: What happened.

        Raises:
            SinkUnavailable: When that is not possible for now.
            SinkError: When what is there does not fit.
        """
        full = self._full(change.new)
        if await self._ask(f"EXISTS TABLE {full}") == b"0\n":
            self._tables.pop(full, None)
            return
        there = await self._columns(full)
        for column, kind in columns_of(change.new, (), self._types).items():
            if column in change.retyped and column in there and not there[column][1] and there[column][0] != kind:
                await self._ask(f"ALTER TABLE {full} MODIFY COLUMN {name(column)} {kind}")

    # What is written.

    async def _replace(self, table: _Table, rows: Iterable[tuple[JsonRow, Position]]) -> None:
        """The last state of each row."""
        states = TableStates(table.full, _number)
        for row, position in rows:
            states.apply(row, position)
        if states.emptied is not None:
            await self._raise_floor(table, states.emptied)
            await self._empty(table, states.emptied)
        states.skip_below(table.floor)
        if wanted := states.wanted():
            columns = {column for one in states.unresolved() for column in one.missing}
            states.resolve(await self._read(table, wanted, sorted(columns)))
        lines = [(one.position, self._line(table, one)) for one in states.rows.values() if not one.done]
        if lines:
            await self._insert(table, lines)
            await self._hold_down(table, min(position for position, _ in lines))

    async def _append(self, table: _Table, rows: Iterable[tuple[JsonRow, Position]]) -> None:
        """Each change."""
        lines = []
        for row, position in rows:
            own: dict[str, Any] = {POSITION: str(_number(position)), ACTION: row.action, UNSENT: row.unsent}
            if row.key is None and row.action != "truncate":
                raise SinkRejected(
                    f"a change for the table {table.full} does not have the key of its row", positions=[position]
                )
            if row.old_key is not None:
                own[OLD_KEY] = [one or "" for one in row.old_key]
            lines.append((position, self._joined(table, row.new or b"{}", row.key, own)))
        await self._insert(table, lines)

    def _line(self, table: _Table, state: RowState) -> bytes:
        own: dict[str, Any] = {POSITION: str(state.version), DELETED: int(state.gone)}
        return self._joined(table, state.body, state.key, own, keyless=state.gone)

    def _joined(
        self, table: _Table, body: bytes, key: Key | None, own: dict[str, Any], *, keyless: bool = False
    ) -> bytes:
        """A row as one line."""
        keyless = keyless or len(body) == 2
        if key is not None and (table.odd or keyless):
            named = {
                column: value or ""
                for column, value in zip(table.key, key, strict=True)
                if keyless or column in table.odd
            }
            body = encode_columns({**(decode_columns(body) if len(body) > 2 else {}), **named})
        added = msgspec.json.encode(own)
        return added if len(body) == 2 else added[:-1] + b"," + body[1:]

    async def _insert(self, table: _Table, lines: Sequence[tuple[Position, bytes]]) -> None:
        start, size = 0, 0
        for number, (_, line) in enumerate(lines):
            if size and size + len(line) + 1 > self._max_bytes:
                await self._insert_at_once(table, lines[start:number])
                start, size = number, 0
            size += len(line) + 1
        if start < len(lines):
            await self._insert_at_once(table, lines[start:])

    async def _insert_at_once(self, table: _Table, lines: Sequence[tuple[Position, bytes]]) -> None:
        body = b"\n".join(line for _, line in lines)
        query = f"INSERT INTO {table.full} FORMAT JSONEachRow"
        try:
            await self._ask(query, body)
        except _Refused as refused:
            position = lines[refused.row - 1][0] if 0 < refused.row <= len(lines) else None
            column = f" in the column {refused.column}" if refused.column else ""
            raise SinkRejected(
                f"the table {table.full} does not take a value{column}: code {refused.code}",
                hint="give the column another type with types=, or the row to a dead letter with on_failure=",
                positions=[] if position is None else [position],
            ) from None

    async def _empty(self, table: _Table, position: Position) -> None:
        """What was written before a TRUNCATE is gone."""
        key, number = ", ".join(map(name, table.key)), f"toUInt128('{_number(position)}')"
        await self._ask(
            f"INSERT INTO {table.full} ({key}, {POSITION}, {DELETED})"  # noqa: S608
            f" SELECT {key}, {number}, 1 FROM {table.full} FINAL"
            f" WHERE {POSITION} < {number} AND {DELETED} = 0"
        )

    async def _raise_floor(self, table: _Table, position: Position) -> None:
        """Note a TRUNCATE, before anything goes: what is older is no row from now on, by whomever."""
        if position > table.floor:
            of = f"({text(table.full)}, {text(table.uuid)}, toUInt128('{_number(position)}'))"
            await self._ask(f"INSERT INTO {self._floors} (name, uuid, {POSITION}) VALUES {of}")  # noqa: S608
            table.floor = position

    async def _floor(self, table: _Table) -> Position:
        """The position of the last TRUNCATE, as it was noted."""
        answer = await self._ask(
            f"SELECT max({POSITION}) FROM {self._floors}"  # noqa: S608
            f" WHERE name = {text(table.full)} AND uuid = {text(table.uuid)}"
        )
        number = int(answer)
        return _position(number) if number else Position(0, SNAPSHOT_INDEX)

    async def _settle(self, table: _Table) -> None:
        """Of a table that is seen for the first time: where it was emptied, and what has come late since."""
        floor = await self._floor(table)
        number = f"toUInt128('{_number(floor)}')"
        late = f"SELECT 1 FROM {table.full} WHERE {POSITION} < {number} AND {DELETED} = 0 LIMIT 1"  # noqa: S608
        if await self._ask(late):
            await self._empty(table, floor)
        table.floor = floor

    async def _hold_down(self, table: _Table, first: Position) -> None:
        """Remove again what another process has emptied the table of, while this one did not look.

        That one has noted it before it removed what was there. So it has removed what was written before that, or this
        finds its note.
        """
        floor = await self._floor(table)
        if first < floor:
            await self._empty(table, floor)
        table.floor = max(floor, table.floor)

    async def _read(self, table: _Table, keys: Sequence[Key], columns: Sequence[str]) -> dict[Key, list[KnownRow]]:
        """What there is of some rows, also versions that are replaced and not removed yet."""
        found: dict[Key, list[KnownRow]] = {}
        named = {f"pgcdc_{number}": column for number, column in enumerate(columns)}
        wanted = ", ".join(f"{name(column)} AS {short}" for short, column in named.items())
        key = ", ".join(map(name, table.key))
        printed = ", ".join(f"toString({name(column)})" for column in table.key)
        for start in range(0, len(keys), _READ_AT_ONCE):
            several = ", ".join(
                f"({', '.join(text(one or '') for one in of)})" for of in keys[start : start + _READ_AT_ONCE]
            )
            answer = await self._ask(
                f"SELECT [{printed}] AS pgcdc_k, toString({POSITION}) AS pgcdc_v, {wanted}"  # noqa: S608
                f" FROM {table.full}"
                f" WHERE ({key}) IN ({several}) FORMAT JSONEachRow"
            )
            for line in answer.splitlines():
                values = decode_columns(line)
                of = tuple(decode_text(values.pop("pgcdc_k")))
                position = _position(int(msgspec.json.decode(values.pop("pgcdc_v"), type=str)))
                found.setdefault(of, []).append(
                    KnownRow(position, {named[short]: value for short, value in values.items()})
                )
        return found

    # Tables.

    def _key_of(self, batch: Batch, relation: Relation) -> tuple[str, ...]:
        chosen = self._key.get(f"{relation.schema}.{relation.name}", self._key.get(relation.name))
        return batch.key_columns(relation) if chosen is None else chosen

    def _name(self, relation: Relation) -> str:
        return self._template.replace("{schema}", relation.schema).replace("{table}", relation.name)

    def _full(self, relation: Relation) -> str:
        return f"{name(self._database)}.{name(self._name(relation))}"

    async def _uuid(self, relation: Relation) -> str:
        """The identity of a table; zeros in a database that knows none."""
        where = f"database = {text(self._database)} AND name = {text(self._name(relation))}"
        return (await self._ask(f"SELECT uuid FROM system.tables WHERE {where}")).decode().strip()  # noqa: S608

    async def _prepare(self, batch: Batch, relation: Relation) -> _Table:
        """Make sure that there is a table with all columns."""
        full, source = self._full(relation), (relation.schema, relation.name)
        if full == self._floors:
            raise ConfigError(f"a table cannot be named {FLOORS}", hint="write another template: table=")
        async with self._preparing:
            table = self._tables.get(full)
            if table is not None and table.source != source:
                raise ConfigError(
                    f"the tables {'.'.join(table.source)} and {'.'.join(source)} would be in one table, {full}",
                    hint='write what is different into its name: table="{schema}_{table}"',
                )
            if table is None or relation not in table.shapes:
                key = self._key_of(batch, relation)
                if not key:
                    raise SinkRejected(
                        f"rows of {'.'.join(source)} have no key that they could be known by",
                        hint="give the table a primary key or a replica identity, or say which columns: key=",
                        table=".".join(source),
                    )
                columns = columns_of(relation, key, self._types)
                odd = frozenset(one.name for one in relation.columns if one.name in key and has_own_text(one))
                if table is None:
                    await self._ask(create(full, columns, key, log=self._log))
                    table = _Table(source, full, key, odd, await self._uuid(relation))
                    if not self._log:
                        await self._ask(create_floors(self._floors))
                        await self._settle(table)
                elif table.key != key:
                    raise SinkError(f"the key of {'.'.join(source)} has changed, and that of the table {full} cannot")
                there = await self._columns(full)
                missing = [(column, kind) for column, kind in columns.items() if column not in there]
                for column, kind in missing:
                    await self._ask(f"ALTER TABLE {full} ADD COLUMN IF NOT EXISTS {name(column)} {kind}")
                self._tables[full] = table
                table.shapes.append(relation)
        return table

    async def _columns(self, full: str) -> dict[str, tuple[str, bool]]:
        """The columns that a table has: type, and whether they are of its key."""
        answer = await self._ask(f"DESCRIBE TABLE {full} FORMAT JSONEachRow")
        names = {}
        for line in answer.splitlines():
            one = msgspec.json.decode(line, type=dict[str, Any])
            names[one["name"]] = (one["type"], not one["type"].startswith(("Nullable", "Array", "LowCardinality")))
        return names

    # Answers.

    async def _ask(self, query: str, body: bytes | None = None) -> bytes:
        """Run a statement.

        Raises:
            _Refused: When a value of the body is not taken.
            SinkUnavailable: When it cannot be run now.
            SinkError: When it cannot be run.
        """
        # Values of an insert are the body, which may be large; any other statement may be long itself.
        settings, sent = (_SETTINGS, query.encode()) if body is None else ({**_SETTINGS, "query": query}, body)
        status, answer = await self._service.request("POST", "/", query=settings, body=sent, content_type="text/plain")
        if status == 200:
            return answer
        found = _CODE.search(answer)
        code = int(found[1]) if found is not None else 0
        if body is not None and code in _REFUSED:
            row, column = _ROW.search(answer), _COLUMN.search(answer)
            raise _Refused(code, int(row[1]) if row else 0, column[1].decode("utf-8", "replace") if column else "")
        if code in _NOT_ALLOWED or status in (401, 403):
            raise ConfigError(f"{self._service!r} does not accept the user or password, or allow what is needed")
        if code in _FINAL or code in _REFUSED:
            kind = _Missing if code in _GONE else SinkError
            raise kind(f"{self._service!r} refuses a statement: code {code}")
        raise SinkUnavailable(f"{self._service!r} does not take anything now: status {status}, code {code}")


class _Missing(SinkError):
    """A table or a database is not there."""


class _Refused(Exception):
    """A value was not taken; the text of an answer quotes it, so only its place is kept."""

    def __init__(self, code: int, row: int, column: str) -> None:
        super().__init__()
        self.code = code
        self.row = row
        self.column = column
