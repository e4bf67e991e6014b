"""The sink `Redis`: rows as values or hashes under keys of their own, keys that are deleted, counters, streams."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias

from pgcdc.errors import ConfigError, SinkRejected
from pgcdc.events import Relation
from pgcdc.protocol import Batch, JsonRow
from pgcdc.sinks import redis_scripts as scripts
from pgcdc.sinks.redis_rows import CHUNK, Counting, Keeping, Refusal, Table, Tables, refuse_key
from pgcdc.sinks.redis_server import Call, Server, pages
from pgcdc.sinks.template import KEY, SCHEMA, TABLE, Template

__all__ = ["Redis"]

Form: TypeAlias = Literal["json", "hash", "delete", "count", "stream"]
_FORMS: Final = ("json", "hash", "delete", "count", "stream")
_MESSAGES: Final = "messages"


class Redis:
    """Keeps keys of a Redis or Valkey server in step with tables.

    **Promise: at least once, guarded.** A function on the server holds each change against the position of the row's
    last change and skips what is not above it: what comes again, also from a process that wakes up late, changes
    nothing, and a counter counts nothing twice. A batch takes effect as a whole, in one round trip. A deleted row stays
    deleted for `tombstones` seconds of such repetitions; a row that was removed by TRUNCATE for ever. It is as durable
    as the server: one that may lose its last second, or everything, is filled again by a new copy.

    - `form="json"`: the value of a key is the row as JSON, as in `Batch.to_json`. Beside it the position is kept.
    - `form="hash"`: a hash with a field for each column that is not NULL. Likewise.
    - `form="delete"`: the key of each row that changes is deleted, so that a cache asks the database again. Nothing is
      kept; to delete it twice is harmless.
    - `form="count"`: a row is one more, or `amount` more, in the counter of its key. A counter of 0 is no key. Of each
      row its position is kept, and what it counts for, so no old row has to be sent.
    - `form="stream"`: an entry for each change: `action`, `table`, `position`, and `change`, the line of
      `Batch.to_json`. Its id is the position, `commit_lsn-(index + 1)`, by which what was given before is known. What
      comes after later ones (with several lanes, from a dead letter, of a table that was added) goes to the end under
      the next id. That, and rows of the initial copy, which have ids just below, can be there twice after a crash.

    A change of key moves the row. An unchanged TOAST value is taken from what is there; where nothing is (it expired,
    or was evicted), the key is deleted: a miss is never wrong. TRUNCATE removes all rows of the table that were written
    before it (`"delete"`: all keys that the template could have made; `"stream"`: an entry). New columns are in the
    next value, and nothing has to be altered. Logical messages are entries of a stream, and nothing elsewhere.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://` with TLS, `unix:///path`.
        key: The key of a row: names of columns of the table's key in braces, `{schema}`, `{table}`, or `{key}` for all
            columns of the key, joined by colons: see `pgcdc.sinks.template.Template`. Form `"count"`: the counter's
            key, of any columns. Form `"stream"`: the stream's key, without columns. Forms `"json"` and `"hash"`: each
            table needs keys of its own, so with several tables it names what tells them apart.
        form: See above.
        ttl: After how many seconds a value expires when it was not written again; None for never.
        amount: The column that is added up, of an integer type; None counts rows.
        tombstones: How many seconds it is remembered that a row is gone.
        max_entries: How many entries a stream keeps about; None for all.
        max_value: The largest value in bytes; a row that makes a larger one is refused. Redis's own limit by default.
        prefix: What the keys of what it keeps besides begin with.
        timeout: How long an answer is waited for, in seconds.

    Raises:
        ConfigError: When an argument is none of the above.
    """

    defaults: ClassVar[dict[str, Any]] = {"max_rows": 5000}
    """A batch is one transaction, and Redis does nothing else meanwhile: some 10 ms."""

    def __init__(
        self,
        url: str,
        *,
        key: str,
        form: Form = "json",
        ttl: int | None = None,
        amount: str | None = None,
        tombstones: int = 86_400,
        max_entries: int | None = None,
        max_value: int = 512 << 20,
        prefix: str = "pgcdc",
        timeout: float = 10.0,
    ) -> None:
        if form not in _FORMS:
            raise ConfigError(f"form={form!r} is no form of Redis", hint=f"one of {', '.join(_FORMS)}")
        template = Template(key, "key")
        for name, value, of in (("ttl", ttl, ("json", "hash")), ("amount", amount, ("count",))):
            if value is not None and form not in of:
                raise ConfigError(f"{name}= is not for form={form!r}", hint=f"for {' and '.join(of)}")
        for name, value in (("ttl", ttl), ("tombstones", tombstones), ("max_entries", max_entries)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} has to be 1 at least")
        self._server = Server(url, timeout)
        self._form: _Form
        if form == "stream":
            self._form = _Stream(self._server, template, max_entries or 0)
        elif form == "delete":
            self._form = _Deleting(self._server, template)
        elif form == "count":
            self._form = Counting(self._server, template, prefix, tombstones, amount)
        else:
            self._form = Keeping(self._server, template, prefix, tombstones, form, ttl or 0, max_value)

    def open(self) -> None:
        """Connect.

        Raises:
            SinkUnavailable: When the server cannot be reached.
        """
        self._server.open(self._form.scripts)

    def write(self, batch: Batch) -> None:
        """Apply a batch.

        Raises:
            SinkUnavailable: When the server cannot take it now.
            SinkRejected: When a row has no key, makes too large a value, or its key holds something else.
            ConfigError: When rows of two tables, or two rows of one, would have the same key (forms `"json"` and
                `"hash"`).
        """
        self._form.write(batch)

    def close(self) -> None:
        """Close the connections."""
        self._server.close()


class _Form(Protocol):
    """What becomes of changes."""

    @property
    def scripts(self) -> Sequence[str]: ...

    def write(self, batch: Batch) -> None: ...


class _Deleting:
    """Keys of a cache that somebody else fills."""

    scripts: Sequence[str] = ()

    def __init__(self, server: Server, template: Template) -> None:
        if not template.beginning:
            raise ConfigError(
                f"key={template.text!r} begins with a name, so that a TRUNCATE would delete all keys of the server",
                hint='begin it with a word: "orders:{id}"',
            )
        self._server = server
        self._template = template
        self._tables = Tables(template, "")

    def write(self, batch: Batch) -> None:
        def key(relation: Relation) -> Sequence[str]:
            return self._template.key(batch.key_columns(relation))

        refusal = Refusal()
        keys: dict[str, None] = {}
        truncated: dict[str, None] = {}
        known: dict[int, Table] = {}
        for row in batch.json_rows(key):
            relation = row.relation
            if relation is None:
                continue
            table = known.get(id(relation))
            if table is None:
                table = known[id(relation)] = self._tables.of(batch, relation, key(relation))
            if row.action == "truncate":
                truncated[self._pattern(relation)] = None
                continue
            of = [one for one in (row.key, row.old_key) if one is not None and None not in one]
            if not of:
                refuse_key(refusal, row, table.key)
            keys.update((table.fill(one), None) for one in of)  # type: ignore[arg-type]  # none of them is None
        refusal.raise_any()
        names = list(keys)
        self._server.unlink([names[start : start + CHUNK] for start in range(0, len(names), CHUNK)])
        for pattern in truncated:
            for found in pages(self._server.find(pattern)):
                self._server.unlink([found])

    def _pattern(self, relation: Relation) -> str:
        known = {SCHEMA: relation.schema, TABLE: relation.name}
        parts = []
        for literal, name in self._template.parts:
            parts.append(_glob(literal))
            if name is not None:
                parts.append(_glob(known[name]) if name in known else "*")
        return "".join(parts)


_Entries: TypeAlias = tuple[list[JsonRow], list[str | bytes]]
"""Changes, and the five words of each that make its entry."""


class _Stream:
    """Changes as the entries of streams."""

    scripts = (scripts.ADD,)

    def __init__(self, server: Server, template: Template, max_entries: int) -> None:
        if template.columns or KEY in template.names:
            raise ConfigError(
                f"key={template.text!r} names a column, and a stream holds changes of all rows",
                hint='only {schema} and {table}: "changes:{table}"',
            )
        self._server = server
        self._template = template
        self._max_entries = str(max_entries)

    def write(self, batch: Batch) -> None:
        entries: dict[str, _Entries] = {}
        known: dict[int, tuple[str, _Entries]] = {}
        lines = batch.to_json().split(b"\n")
        for row in batch.json_rows(lambda _: ()):
            relation = row.relation
            found = known.get(id(relation))
            if found is None:
                schema, table = ("", _MESSAGES) if relation is None else (relation.schema, relation.name)
                stream = self._template.filler(schema, table, (), ())(())
                name = f"{schema}.{table}" if schema else table
                found = known[id(relation)] = name, entries.setdefault(stream, ([], []))
            name, (rows, words) = found
            position = row.position_text
            if position is None:
                raise SinkRejected("a change has no position, and so no place in a stream")
            # As the text has it, counted from 1; 0 is a copied row, which has no number.
            number = int(position[17:], 16)
            at = f"{row.commit_lsn}-{number}" if number else f"{int(position[:16], 16) - 1}-*"
            rows.append(row)
            words += (at, row.action, name, position, lines[row.number])
        calls, of = [], []
        for stream, (rows, words) in entries.items():
            for start in range(0, len(rows), CHUNK):
                arguments = [self._max_entries, *words[5 * start : 5 * (start + CHUNK)]]
                calls.append(Call(scripts.ADD, ["", "", stream], arguments))
                of.append(rows[start : start + CHUNK])
        refused = [
            those[int(number)] for numbers, those in zip(self._server.run(calls), of, strict=True) for number in numbers
        ]
        if refused:
            raise SinkRejected(
                "a change cannot be an entry of its stream, whose key holds something else",
                hint="TYPE of the key",
                positions=[row.position for row in refused if row.position is not None],
            )


def _glob(text: str) -> str:
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)
