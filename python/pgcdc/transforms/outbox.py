"""The outbox: what an application says within its transaction, from a table or from logical messages, as rows.

Both forms become inserts into a table of the topic's name, in the schema `outbox`, with the columns `key` (text, the
key), `payload` (jsonb, or bytea), `headers` (jsonb): every sink can take them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
from msgspec import UNSET

from pgcdc.errors import ConfigError
from pgcdc.events import Column, Insert, Message, Relation
from pgcdc.tables import Table, parse_table
from pgcdc.transforms import encoding
from pgcdc.transforms.applying import AnyChange, Context
from pgcdc.transforms.functions import Functions

__all__ = ["PREFIX", "SCHEMA", "Envelope", "Events", "content_of", "key_of", "outbox"]

PREFIX: Final = "pgcdc.outbox:"
"""What the prefix of a logical message begins with that `pgcdc.emit` writes; the topic comes behind it."""
SCHEMA: Final = "outbox"
"""The schema of the tables that outbox events are rows of."""


class Envelope(msgspec.Struct, omit_defaults=True):
    """What stands before the payload in a logical message: one line of JSON.

    Attributes:
        key: What the event is about; events of one key stay in order.
        headers: What else is said of it.
        json: Whether the payload is JSON; else bytes.
    """

    key: str | None = None
    headers: dict[str, str] = {}
    json: bool = True


_envelopes = msgspec.json.Decoder(Envelope)
_json = msgspec.json.Encoder(decimal_format="number")


def content_of(payload: Any, key: str | None, headers: Mapping[str, str] | None) -> bytes:
    """The content of the logical message that says an event.

    Args:
        payload: Bytes as they are, else anything that msgspec writes as JSON.
        key: What the event is about.
        headers: What else is said of it.

    Returns:
        One line of JSON, a line feed, and the payload.
    """
    is_bytes = isinstance(payload, bytes | bytearray | memoryview)
    envelope = Envelope(key=key, headers=dict(headers or {}), json=not is_bytes)
    return _json.encode(envelope) + b"\n" + (bytes(payload) if is_bytes else _json.encode(payload))


def _relation(topic: str, payload_oid: int) -> Relation:
    columns = [
        Column(name="key", type_oid=encoding.TEXT, type_modifier=-1, is_key=True),
        Column(name="payload", type_oid=payload_oid, type_modifier=-1, is_key=False),
        Column(name="headers", type_oid=encoding.JSONB, type_modifier=-1, is_key=False),
    ]
    return Relation(oid=0, schema=SCHEMA, name=topic, replica_identity="d", columns=columns)


def outbox(
    table: str | Table | None = None,
    *,
    topic: str = "topic",
    key: str = "aggregate_id",
    payload: str = "payload",
    headers: str | None = None,
) -> Functions:
    """Make events of the rows of an outbox table, and of what `pgcdc.emit` writes.

    An event is an insert into the table `outbox.TOPIC` with the columns `key`, `payload` and `headers`. Only inserts of
    the outbox table are events: the application may delete its rows at once, in the same transaction too. All other
    changes pass.

    Args:
        table: The outbox table; None: only logical messages.
        topic: Its column with the topic.
        key: Its column with what the event is about.
        payload: Its column with the payload: json, jsonb, bytea or text.
        headers: Its column of json or jsonb with what else is said of the event; None when there is none.

    Returns:
        The transform.
    """
    return Functions([Events(None if table is None else parse_table(table), topic, key, payload, headers)])


@dataclass(frozen=True)
class Events:
    """What makes events of changes: `outbox`, for those who need to know its columns.

    Attributes:
        table: See `outbox`, as for all that follow.
        topic: Likewise.
        key: Likewise.
        payload: Likewise.
        headers: Likewise.
        former: What the table was called when rows were written that still come.
    """

    table: Table | None
    topic: str
    key: str
    payload: str
    headers: str | None
    former: frozenset[Table] = frozenset()

    def in_context(self, context: Context) -> Events:
        """The same, which knows the table also by names that it had.

        Args:
            context: What is known of the stream.
        """
        if not context.former:
            return self
        return replace(self, former=frozenset(then for then, now in context.former if now == self.table))

    def __call__(self, change: AnyChange) -> AnyChange | None:
        """Make an event of a change, if it is one.

        Args:
            change: The change.

        Returns:
            The event; None for what else happens to the outbox table; other changes as they are.
        """
        if isinstance(change, Message):
            return _of_message(change) if change.prefix.startswith(PREFIX) else change
        relation = getattr(change, "relation", None)
        if self.table is None or relation is None:
            return change
        name = (relation.schema, relation.name)
        if name != self.table and name not in self.former:
            return change
        if not isinstance(change, Insert):
            return None
        return _of_row(change, self.topic, self.key, self.payload, self.headers)


def key_of(message: Message) -> str | None:
    """The key of an event that was emitted.

    Args:
        message: The logical message.

    Returns:
        The key; None when it has none.

    Raises:
        msgspec.DecodeError: When it is no event; UnicodeDecodeError and RecursionError, too.
    """
    return _envelopes.decode(message.content.partition(b"\n")[0]).key


def _of_message(message: Message) -> Insert[dict[str, Any]]:
    line, _, payload = message.content.partition(b"\n")
    envelope = _envelopes.decode(line)
    oid = encoding.JSONB if envelope.json else encoding.BYTEA
    value = msgspec.Raw(payload) if envelope.json else payload  # as it was written, digits and all
    row = {"key": envelope.key, "payload": value, "headers": envelope.headers}
    return Insert(relation=_relation(message.prefix.removeprefix(PREFIX), oid), new=row)


def _of_row(change: Insert[Any], topic: str, key: str, payload: str, headers: str | None) -> Insert[dict[str, Any]]:
    types = {column.name: column.type_oid for column in change.relation.columns}
    names = [name for name in (topic, key, payload, headers) if name is not None]
    missing = [name for name in names if name not in types]
    if missing:
        table = f"{change.schema}.{change.table}"
        raise ConfigError(
            f"the outbox table {table} has no column {missing[0]!r}",
            hint="outbox(table=…, topic=…, key=…, payload=…) names its columns",
            table=table,
        )
    row = change.new
    fields = dict(zip((column.name for column in change.relation.columns), row.__struct_fields__, strict=True))
    values = {name: getattr(row, fields[name]) for name in names}
    of_topic, of_key = values[topic], values[key]
    if not isinstance(of_topic, str) or not of_topic:
        raise ValueError(f"column {topic!r} of an outbox row is not a topic's name")
    event = {
        "key": None if of_key is None else of_key if isinstance(of_key, str) else encoding.cell(of_key, encoding.TEXT),
        "payload": values[payload],
        "headers": {} if headers is None or values[headers] in (None, UNSET) else values[headers],
    }
    kept = {encoding.BYTEA, encoding.TEXT, *encoding.JSON}
    oid = types[payload] if types[payload] in kept else encoding.JSONB
    return Insert(relation=_relation(of_topic, oid), new=event)
