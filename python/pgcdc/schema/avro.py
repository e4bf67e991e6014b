"""Changes in Avro: the schema of a table, and records framed as Confluent's readers expect them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from fastavro import parse_schema, schemaless_writer

from pgcdc.events import Column, Relation
from pgcdc.protocol.json_columns import decode_columns
from pgcdc.schema.columns import Kind, Line, kind_of, legal_names, precision_of, read_line, value_of
from pgcdc.schema.registry import Registry, framed

__all__ = ["AvroWriter", "avro_schemas"]

_TYPES: Final[dict[Kind, Any]] = {
    "date": {"type": "int", "logicalType": "date"},
    "time": {"type": "long", "logicalType": "time-micros"},
    "timestamp": {"type": "long", "logicalType": "local-timestamp-micros"},
    "instant": {"type": "long", "logicalType": "timestamp-micros"},
}
_Schema = dict[str, Any]

_MESSAGE: Final[_Schema] = {
    "type": "record",
    "name": "LogicalMessage",
    "fields": [
        {"name": "action", "type": "string"},
        {"name": "position", "type": ["null", "string"], "default": None},
        {"name": "prefix", "type": "string"},
        {"name": "content", "type": "bytes"},
        {"name": "transactional", "type": "boolean"},
    ],
}
_MESSAGE_KEY: Final[_Schema] = {
    "type": "record",
    "name": "LogicalMessageKey",
    "fields": [{"name": "prefix", "type": "string"}],
}


def _field(name: str, column: Column) -> _Schema:
    kind = kind_of(column)
    kinds: list[Any] = ["null"]
    if kind == "decimal":
        precision, scale = precision_of(column) or (1, 0)
        kinds.append({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
    else:
        kinds.append(_TYPES.get(kind, kind))
    if kind == "decimal" or kind in _TYPES:
        kinds.append("string")  # what its type cannot hold
    return {"name": name, "type": kinds, "default": None}


def avro_schemas(relation: Relation, key: Sequence[str], namespace: str) -> tuple[_Schema | None, _Schema]:
    """The schemas of a table's keys and values.

    Every column may be null and is null by default, so columns come and go without a reader that cannot follow; another
    type is what registries refuse.

    Args:
        relation: The table.
        key: The columns of its key.
        namespace: Of the schemas' names.

    Returns:
        The key's, None where there is no key, and the value's.
    """
    names = legal_names(column.name for column in relation.columns)
    fields = {column.name: _field(name, column) for column, name in zip(relation.columns, names, strict=True)}
    of_key = [fields[name] for name in key]
    row = {"type": "record", "name": "Row", "fields": list(fields.values())}
    optional: Any = {"default": None}
    value = {
        "type": "record",
        "name": "Envelope",
        "namespace": namespace,
        "fields": [
            {"name": "action", "type": "string"},
            {"name": "position", "type": ["null", "string"], **optional},
            {"name": "schema_version", "type": ["null", "int"], **optional},
            {"name": "commit_time", "type": ["null", _TYPES["instant"], "string"], **optional},
            {"name": "new", "type": ["null", row], **optional},
            {"name": "old", "type": ["null", "Row"], **optional},
            {"name": "unset", "type": {"type": "array", "items": "string"}, "default": []},
        ],
    }
    return ({"type": "record", "name": "Key", "namespace": namespace, "fields": of_key} if of_key else None), value


class _Registered(NamedTuple):
    relation: Relation
    key: Any
    key_frame: bytes
    value: Any
    value_frame: bytes
    columns: dict[str, tuple[str, Kind]]


class AvroWriter:
    """Makes records of Avro from lines of JSON; schemas are registered as tables need them.

    Args:
        registry: Where.

    Attributes:
        registry: The same.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._known: dict[str, _Registered] = {}
        self._message: tuple[str, Any, bytes, Any, bytes] | None = None

    def use(self, topic: str, relation: Relation, key: Sequence[str]) -> None:
        """Register the schemas of a table, if that was not done.

        Args:
            topic: Its topic.
            relation: Its shape now.
            key: The columns of its key.

        Raises:
            RegistryError: When the registry refuses one.
            SinkUnavailable: When it cannot be reached.
        """
        known = self._known.get(topic)
        if known is not None and (known.relation is relation or known.relation == relation):
            return
        namespace = ".".join(legal_names(topic.split(".")))
        key_schema, value_schema = avro_schemas(relation, key, namespace)
        key_id = 0
        if key_schema is not None:
            key_id = self.registry.register(f"{topic}-key", json.dumps(key_schema), "AVRO")
        value_id = self.registry.register(f"{topic}-value", json.dumps(value_schema), "AVRO")
        names = legal_names(column.name for column in relation.columns)
        self._known[topic] = _Registered(
            relation,
            None if key_schema is None else parse_schema(key_schema),
            framed(key_id),
            parse_schema(value_schema),
            framed(value_id),
            {column.name: (name, kind_of(column)) for column, name in zip(relation.columns, names, strict=True)},
        )

    def row(self, topic: str, key: bytes | None, value: bytes | None) -> tuple[bytes | None, bytes | None]:
        """A record of a table that is in use.

        Args:
            topic: Its topic.
            key: The key in JSON.
            value: The line of JSON; None for a tombstone.
        """
        known = self._known[topic]
        written_key = None
        if key is not None and known.key is not None:
            columns = self._columns(known, decode_columns(key))
            written_key = _written(known.key_frame, known.key, columns)
        if value is None:
            return written_key, None
        line = read_line(value)
        unset: list[str] = []
        if line.new is not None:
            unset = [name for column, (name, _) in known.columns.items() if column not in line.new]
        envelope = {
            "action": line.action,
            "position": line.position,
            "schema_version": line.schema_version,
            "commit_time": _time(line),
            "new": None if line.new is None else self._columns(known, line.new),
            "old": None if line.old is None else self._columns(known, line.old),
            "unset": unset,
        }
        return written_key, _written(known.value_frame, known.value, envelope)

    def message(self, topic: str, key: bytes | None, value: bytes | None) -> tuple[bytes | None, bytes | None]:
        """A record of a logical message.

        Args:
            topic: The topic.
            key: The key in JSON.
            value: The line of JSON.

        Raises:
            RegistryError: When the registry refuses the schema.
            SinkUnavailable: When it cannot be reached.
        """
        if self._message is None:
            key_id = self.registry.register(f"{topic}-key", json.dumps(_MESSAGE_KEY), "AVRO")
            value_id = self.registry.register(f"{topic}-value", json.dumps(_MESSAGE), "AVRO")
            schemas = parse_schema(dict(_MESSAGE_KEY)), parse_schema(dict(_MESSAGE))
            self._message = topic, schemas[0], framed(key_id), schemas[1], framed(value_id)
        _, key_schema, key_frame, value_schema, value_frame = self._message
        line = read_line(value or b"{}")
        content = bytes.fromhex((line.content or "").removeprefix("\\x"))
        record = {
            "action": line.action,
            "position": line.position,
            "prefix": line.prefix or "",
            "content": content,
            "transactional": bool(line.transactional),
        }
        own_key = _written(key_frame, key_schema, {"prefix": line.prefix or ""})
        return own_key if key is not None else None, _written(value_frame, value_schema, record)

    def _columns(self, known: _Registered, columns: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for column, raw in columns.items():
            name, kind = known.columns[column]
            value = value_of(kind, raw)
            # Where a value could be of two of the column's types, it is told which.
            found[name] = ("string", value) if isinstance(value, str) else value
        return found


def _time(line: Line) -> Any:
    if line.commit_time is None:
        return None
    value = value_of("instant", msgspec.Raw(msgspec.json.encode(line.commit_time)))
    return ("string", value) if isinstance(value, str) else value


def _written(frame: bytes, schema: Any, record: Mapping[str, Any]) -> bytes:
    out = io.BytesIO()
    out.write(frame)
    schemaless_writer(out, schema, record)
    return out.getvalue()
