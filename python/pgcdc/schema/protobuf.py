"""Changes in Protobuf: the schema of a table, and messages framed as Confluent's readers expect them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pgcdc.events import Relation
from pgcdc.protocol.json_columns import decode_columns
from pgcdc.schema.columns import Kind, kind_of, legal_names, read_line, value_of
from pgcdc.schema.registry import Registry, framed

__all__ = ["Field", "ProtobufWriter", "numbered"]

_TYPES: Final[dict[Kind, str]] = {
    "boolean": "bool",
    "int": "int32",
    "long": "int64",
    "float": "float",
    "double": "double",
    "bytes": "bytes",
}
"""All others are strings, in the words of `Batch.to_json`."""

_FIELD: Final = re.compile(r"optional\s+(\w+)\s+(\w+)\s*=\s*(\d+)")
_SKIPPED: Final = range(19_000, 20_000)
_FIRST_MESSAGE: Final = b"\x00"

_ENVELOPE: Final = """\
  string action = 1;
  optional string position = 2;
  optional int32 schema_version = 3;
  optional string commit_time = 4;
  optional Row new = 5;
  optional Row old = 6;
  repeated string unset = 7;
"""

_MESSAGE: Final = """\
syntax = "proto3";
package %s;

message LogicalMessage {
  optional string action = 1;
  optional string position = 2;
  optional string prefix = 3;
  optional bytes content = 4;
  optional bool transactional = 5;
}
"""
_MESSAGE_KEY: Final = """\
syntax = "proto3";
package %s;

message Key {
  optional string prefix = 1;
}
"""

Field: TypeAlias = tuple[str, str, int]
"""Type, name, number."""


def numbered(types: Mapping[str, str], former: str | None) -> list[Field]:
    """Number fields: those of the schema before keep their numbers, also when their columns are gone.

    A column that comes back has its field again, and nothing that was written is ever read as something else.

    Args:
        types: The fields now and their types.
        former: The message of the schema before, as text; None when there is none.

    Returns:
        All fields.
    """
    known = [(kind, name, int(number)) for kind, name, number in _FIELD.findall(former or "")]
    made = [(types.get(name, kind), name, number) for kind, name, number in known]
    following = max((number for _, _, number in known), default=0) + 1
    for name, kind in types.items():
        if all(name != other for _, other, _ in known):
            if following in _SKIPPED:
                following = _SKIPPED.stop
            made.append((kind, name, following))
            following += 1
    return made


class _Registered(NamedTuple):
    relation: Relation
    key: Any
    key_frame: bytes
    value: Any
    value_frame: bytes
    columns: dict[str, tuple[str, Kind]]


class ProtobufWriter:
    """Makes messages of Protobuf from lines of JSON; schemas are registered as tables need them.

    Args:
        registry: Where.

    Attributes:
        registry: The same.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._known: dict[str, _Registered] = {}
        self._message: tuple[Any, bytes, Any, bytes] | None = None

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
        package = ".".join(legal_names(topic.split(".")))
        names = legal_names(column.name for column in relation.columns)
        columns = {column.name: (name, kind_of(column)) for column, name in zip(relation.columns, names, strict=True)}
        types = {name: _TYPES.get(kind, "string") for name, kind in columns.values()}
        head = f'syntax = "proto3";\npackage {package};\n\n'

        def fields(chosen: Sequence[str], former: str | None) -> tuple[list[Field], str]:
            made = numbered({name: types[name] for name in chosen}, former)
            return made, "".join(f"optional {kind} {name} = {number};\n" for kind, name, number in made)

        key_class, key_frame = None, b""
        if key:
            subject = f"{topic}-key"
            made, text = fields([columns[name][0] for name in key], self.registry.latest(subject))
            text = head + "message Key {\n" + _indented(text, 2) + "}\n"
            key_frame = framed(self.registry.register(subject, text, "PROTOBUF"), _FIRST_MESSAGE)
            key_class = _classes(package, _message("Key", made))["Key"]
        subject = f"{topic}-value"
        former = self.registry.latest(subject)
        row = None if former is None else former[former.index("message Row") :].partition("}")[0]
        made, text = fields(names, row)
        text = f"{head}message Envelope {{\n  message Row {{\n{_indented(text, 4)}  }}\n{_ENVELOPE}}}\n"
        value_frame = framed(self.registry.register(subject, text, "PROTOBUF"), _FIRST_MESSAGE)
        value_class = _classes(package, _envelope(package, made))["Envelope"]
        self._known[topic] = _Registered(relation, key_class, key_frame, value_class, value_frame, columns)

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
            own = known.key(**_columns(known, decode_columns(key)))
            written_key = known.key_frame + own.SerializeToString(deterministic=True)
        if value is None:
            return written_key, None
        line = read_line(value)
        envelope = known.value(action=line.action)
        for name in ("position", "schema_version", "commit_time"):
            if (said := getattr(line, name)) is not None:
                setattr(envelope, name, said)
        for name, row in (("new", line.new), ("old", line.old)):
            if row is not None:
                part = getattr(envelope, name)
                part.SetInParent()
                for column, found in _columns(known, row).items():
                    setattr(part, column, found)
        if line.new is not None:
            envelope.unset.extend(name for column, (name, _) in known.columns.items() if column not in line.new)
        return written_key, known.value_frame + envelope.SerializeToString()

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
            package = ".".join(legal_names(topic.split(".")))
            made = []
            for part, text in (("key", _MESSAGE_KEY % package), ("value", _MESSAGE % package)):
                schema_id = self.registry.register(f"{topic}-{part}", text, "PROTOBUF")
                found = re.findall(r"optional (\w+) (\w+) = (\d+)", text)
                message = _message("Message", [(kind, name, int(number)) for kind, name, number in found])
                made += [_classes(package, message)["Message"], framed(schema_id, _FIRST_MESSAGE)]
            self._message = (made[0], made[1], made[2], made[3])
        key_class, key_frame, value_class, value_frame = self._message
        line = read_line(value or b"{}")
        own = value_class(
            action=line.action,
            prefix=line.prefix or "",
            content=bytes.fromhex((line.content or "").removeprefix("\\x")),
            transactional=bool(line.transactional),
        )
        if line.position is not None:
            own.position = line.position
        written_key = key_frame + key_class(prefix=line.prefix or "").SerializeToString()
        return written_key if key is not None else None, value_frame + own.SerializeToString()


def _columns(known: _Registered, columns: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column, raw in columns.items():
        name, kind = known.columns[column]
        value = value_of(kind if kind in _TYPES else "string", raw)
        if value is not None:
            found[name] = value
    return found


def _indented(text: str, by: int) -> str:
    return "".join(f"{' ' * by}{line}\n" for line in text.splitlines())


def _message(name: str, fields: Sequence[Field]) -> Any:
    """A message whose fields are all optional."""
    message = descriptor_pb2.DescriptorProto(name=name)
    for place, (kind, field, number) in enumerate(fields):
        message.field.add(
            name=field,
            number=number,
            type=getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind.upper()}"),
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            proto3_optional=True,
            oneof_index=place,
        )
        message.oneof_decl.add(name=f"_{field}")
    return message


def _envelope(package: str, row: Sequence[Field]) -> Any:
    """That of a value: what `_ENVELOPE` says."""
    field = descriptor_pb2.FieldDescriptorProto
    made = _message(
        "Envelope", [("string", "position", 2), ("int32", "schema_version", 3), ("string", "commit_time", 4)]
    )
    made.field.add(name="action", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    for name, number in (("new", 5), ("old", 6)):
        kind = f".{package}.Envelope.Row"
        made.field.add(name=name, number=number, type=field.TYPE_MESSAGE, type_name=kind, label=field.LABEL_OPTIONAL)
    made.field.add(name="unset", number=7, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
    made.nested_type.append(_message("Row", row))
    return made


def _classes(package: str, *messages: Any) -> dict[str, Any]:
    """The classes of some messages, in a pool of their own: another version has the same names."""
    file = descriptor_pb2.FileDescriptorProto(name="made.proto", package=package, syntax="proto3")
    file.message_type.extend(messages)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    found = {one.name: pool.FindMessageTypeByName(f"{package}.{one.name}") for one in messages}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in found.items()}
