"""Events to payloads and back, by the classes that a store knows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from pgcdc.errors import ConfigError, InvalidEvent, PayloadTooLarge
from pgcdc.eventstore.event import Event, EventType, Registry, UnknownEvent

__all__ = ["Codec", "Decode", "reason"]

Decode = Callable[[str | bytes], Event | UnknownEvent]
_encoder: Final = msgspec.json.Encoder()
_any: Final = msgspec.json.Decoder()
_COMMA: Final = ord(",")
_PLAIN: Final = frozenset(
    {str, int, bool, type(None), bytes, Decimal, UUID, datetime, date, time, timedelta, msgspec.Raw}
)
"""What is no number that JSON does not have, as most values are."""
_NO_NUMBER: Final = "NaN and infinity are no numbers of JSON, and would be null in it"


class _Writer(NamedTuple):
    """How events of one class are written."""

    name: bytes
    version: bytes
    begin: bytes  # of the function's item, up to the payload's brace
    skipped: int  # so many bytes of a struct's JSON are its name
    decode: Callable[[bytes], Any]


class Codec:
    """What a store knows about events.

    Args:
        registry: The classes.
        events: Classes, or modules of such, that come before others of the same name.
        max_payload_bytes: The most that a payload may have as JSON.
    """

    def __init__(
        self, registry: Registry, events: Iterable[type[Event] | ModuleType] = (), max_payload_bytes: int = 262_144
    ) -> None:
        self.registry = registry
        self.max_payload_bytes = max_payload_bytes
        self._own: dict[str, type[Event]] = {}
        self._writers: dict[type[Event], _Writer] = {}
        self._readers: dict[tuple[str, int], Decode] = {}
        self._generation = registry.generation
        for given in events:
            found = vars(given).values() if isinstance(given, ModuleType) else (given,)
            for value in found:
                if isinstance(value, EventType) and issubclass(value, Event) and hasattr(value, "__event_type__"):
                    self._own[value.__event_type__] = value

    def encode(self, event: Event, **about: str | None) -> bytes:
        """Make what the append function takes of an event, and see that it can be read again.

        Args:
            event: The event.
            about: More for the item, as JSON text: `m`, `id`.

        Returns:
            JSON: `{"t": name, "v": version, "p": payload}`.

        Raises:
            InvalidEvent: When it is no event, or its values are not those of its fields.
            PayloadTooLarge: When the payload is.
        """
        writer, body = self._body(event)
        extra = "".join(f',"{key}":{value}' for key, value in about.items() if value is not None)
        return b"".join((writer.begin, body, extra.encode(), b"}"))

    def written(self, event: Event) -> tuple[bytes, bytes, bytes]:
        """Make the columns of an event as they are sent, and see that it can be read again.

        Args:
            event: The event.

        Returns:
            Its name, its version, and its payload as JSON.

        Raises:
            InvalidEvent: As for `encode`.
            PayloadTooLarge: As for `encode`.
        """
        writer, body = self._body(event)
        return writer.name, writer.version, b"{" + body

    def _body(self, event: Event) -> tuple[_Writer, bytes]:
        """The payload of an event, without the brace that it begins with."""
        writer = self._writers.get(type(event)) or self._writer(type(event))
        try:
            encoded = _encoder.encode(event)
            writer.decode(encoded)  # a struct takes any value: what could not be read again must not be stored
            if encoded.find(b"null") >= 0 and _has_no_number(event):
                raise ValueError(_NO_NUMBER)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise InvalidEvent(
                f"the event {event.__event_type__} cannot be stored: {reason(error)}",
                hint="the values of an event are those that its fields are annotated with",
                event_type=event.__event_type__,
            ) from None
        # The name is in a column of its own, so it is cut off: {"event_type":"OrderPaid","amount":5}
        skipped = writer.skipped
        size = len(encoded) - skipped
        if size > self.max_payload_bytes:
            raise PayloadTooLarge(
                f"the payload of the event {event.__event_type__} has {size:,} bytes, the limit is"
                f" {self.max_payload_bytes:,}",
                hint="store the document elsewhere, and a reference and a hash of it in the event",
                event_type=event.__event_type__,
                payload_bytes=size,
            )
        return writer, encoded[skipped + 1 :] if encoded[skipped] == _COMMA else encoded[skipped:]

    def _writer(self, event_type: type[Event]) -> _Writer:
        name: str | None = getattr(event_type, "__event_type__", None)
        if name is None:
            raise InvalidEvent(
                f"{event_type.__qualname__} is no event: it has no tag",
                hint=f'class {event_type.__name__}(pgcdc.eventstore.Event, tag="{event_type.__name__}", version=1)',
            )
        of_name = self.registry.of(name)
        if len(of_name) > 1:
            self._own.setdefault(name, event_type)
            self._readers.clear()
        field = event_type.__struct_config__.tag_field
        skipped = len(_encoder.encode({field: name})) - 1
        version = event_type.__event_version__
        begin = b'{"t":%b,"v":%d,"p":{' % (_encoder.encode(name), version)
        writer = _Writer(name.encode(), b"%d" % version, begin, skipped, msgspec.json.Decoder(event_type).decode)
        self._writers[event_type] = writer
        return writer

    def adopt(self, module: str) -> None:
        """Take the classes of a module, for names that several classes have and none was given for.

        Args:
            module: Its name; that of a state, as a rule.
        """
        for name in self.registry.names():
            of_name = self.registry.of(name)
            if len(of_name) > 1 and name not in self._own:
                near = [event_type for event_type in of_name if event_type.__module__ == module]
                if len(near) == 1:
                    self._own[name] = near[0]
                    self._readers.clear()

    def type_of(self, name: str) -> type[Event] | None:
        """The class of a name.

        Args:
            name: As stored in `event_type`.

        Returns:
            The class, None when there is none.

        Raises:
            ConfigError: When several have the name and none was given.
        """
        if name in self._own:
            return self._own[name]
        of_name = self.registry.of(name)
        if len(of_name) > 1:
            places = " and ".join(sorted(f"{found.__module__}.{found.__qualname__}" for found in of_name)[:2])
            raise ConfigError(
                f"several classes are named {name}: {places}",
                hint="say which: EventStore(…, events=[the class or module])",
            )
        return of_name[0] if of_name else None

    def reader(self, name: str, version: int) -> Decode:
        """What makes events of payloads of one name and version.

        Args:
            name: As stored in `event_type`.
            version: As stored in `event_version`.

        Returns:
            A function of the payload's JSON. It raises msgspec's errors.

        Raises:
            InvalidEvent: When the version is newer than the class.
        """
        if self._generation != self.registry.generation:
            self._readers.clear()
            self._generation = self.registry.generation
        try:
            return self._readers[name, version]
        except KeyError:
            pass
        event_type = self.type_of(name)
        decode: Decode
        if event_type is None:

            def decode(payload: str | bytes) -> UnknownEvent:
                return UnknownEvent(name, version, _any.decode(payload))

        elif version == event_type.__event_version__:
            decode = msgspec.json.Decoder(event_type).decode
        elif version > event_type.__event_version__:
            raise InvalidEvent(
                f"an event {name} is of version {version}, newer than the class, which is of version"
                f" {event_type.__event_version__}",
                hint="a newer program has written it: bring this one up to date",
                event_type=name,
            )
        elif version < 1:
            raise InvalidEvent(
                f"an event {name} is of version {version}, and the first one is 1",
                hint="it was written while the triggers were off: pgcdc events check --deep shows which; set it right"
                " under pgcdc.maintenance",
                event_type=name,
            )
        else:
            chain = [event_type.__upcasters__[number] for number in range(version, event_type.__event_version__)]
            newest = msgspec.json.Decoder(event_type).decode

            def decode(payload: str | bytes) -> Event:
                value = _any.decode(payload)
                for step in chain:
                    value = step(value)
                return newest(_encoder.encode(value))

        self._readers[name, version] = decode
        return decode

    def decode(self, name: str, version: int, payload: str | bytes, stream: str, sequence: int) -> Event | UnknownEvent:
        """Make the event of one row.

        Args:
            name: As stored in `event_type`.
            version: As stored in `event_version`.
            payload: Its JSON.
            stream: Its stream, for the error.
            sequence: Its number, for the error.

        Returns:
            The event.

        Raises:
            InvalidEvent: When the payload is not one of the class.
        """
        try:
            decode = self.reader(name, version)
        except InvalidEvent as error:
            error.stream, error.sequence = stream, sequence
            raise
        try:
            return decode(payload)
        except Exception as error:
            raise self.invalid(name, version, error, stream, sequence) from error

    @staticmethod
    def invalid(name: str, version: int, error: Exception, stream: str, sequence: int) -> InvalidEvent:
        """The exception for an event that cannot be made.

        Args:
            name: As stored in `event_type`.
            version: As stored in `event_version`.
            error: What was raised.
            stream: Its stream.
            sequence: Its number.

        Returns:
            The exception, to be raised.
        """
        return InvalidEvent(
            f"event {sequence} of the stream {stream} ({name}, version {version}) is not what its class says:"
            f" {reason(error)}",
            hint="a payload whose shape has changed needs another version and an upcaster",
            event_type=name,
            stream=stream,
            sequence=sequence,
        )

    @staticmethod
    def metadata(metadata: Mapping[str, Any]) -> str:
        """Metadata as JSON.

        Args:
            metadata: What it says.

        Returns:
            The JSON.

        Raises:
            InvalidEvent: When JSON cannot say it.
        """
        try:
            encoded = _encoder.encode(metadata).decode() if metadata else "{}"
            if "null" in encoded and _has_no_number(metadata):
                raise ValueError(_NO_NUMBER)
            return encoded
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise InvalidEvent(f"the metadata cannot be stored: {reason(error)}") from None


def _has_no_number(value: object) -> bool:
    """Whether there is a number in it that JSON does not have: msgspec writes null for it."""
    parts: Iterable[object]
    if isinstance(value, msgspec.Struct):
        parts = msgspec.structs.astuple(value)
    elif isinstance(value, float):
        return not math.isfinite(value)
    elif isinstance(value, dict | Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple | Set):
        parts = value
    elif is_dataclass(value):
        parts = [getattr(value, field.name) for field in fields(value)]
    else:
        return False
    if _PLAIN.issuperset(map(type, parts)):  # as a rule, and in a fraction of the time
        return False
    return any(type(part) not in _PLAIN and _has_no_number(part) for part in parts)


def reason(error: Exception) -> str:
    """Why a value cannot be, without the value.

    Args:
        error: What msgspec or an upcaster raised.

    Returns:
        Some words: msgspec's own where they are of types and fields.
    """
    if error.args == (_NO_NUMBER,):
        return _NO_NUMBER
    if isinstance(error, msgspec.ValidationError):
        return re.sub(r"'[^']*'|\"[^\"]*\"", "…", str(error))
    return type(error).__name__ if not isinstance(error, msgspec.MsgspecError) else str(error)
