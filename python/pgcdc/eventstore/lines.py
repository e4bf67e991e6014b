"""The lines of a replay: many events at once, straight to their classes.

A line is a JSON array whose first element says which class its payload is of, so that one call of msgspec's decoder
makes typed envelopes of a thousand lines. The decoder learns names when it meets them.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar, Union

import msgspec

from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.recorded import Placed, Recorded

__all__ = ["Lines"]

Envelope = TypeVar("Envelope", bound=Recorded | Placed)
_tags: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Lines(Generic[Envelope]):
    """Makes envelopes of what `COPY` gives.

    Args:
        codec: The classes of events.
        base: The class of the envelopes; a line has its fields behind the name, as far as they are columns.
    """

    def __init__(self, codec: Codec, base: type[Envelope]) -> None:
        self._codec = codec
        self._base = base
        self._generation = -1
        self._wrappers: dict[str, type[Envelope]] = {}
        self._old: dict[type, tuple[str, int]] = {}
        self._decoder: msgspec.json.Decoder[Any] | None = None

    def decode(self, rows: bytes) -> list[Envelope]:
        r"""Make envelopes of whole rows.

        Args:
            rows: Rows of CSV with \x02 between their columns, each with its line end.

        Returns:
            An envelope for each.

        Raises:
            InvalidEvent: When a payload is not one of its class.
        """
        if not rows:
            return []
        if self._generation != self._codec.registry.generation:
            self._generation = self._codec.registry.generation
            self._wrappers.clear()
            self._old.clear()
            self._decoder = None
        # JSON escapes both in text: neither byte is part of a value.
        text = b"[%b]" % rows[:-1].replace(b"\x02", b",").replace(b"\n", b"]\n[")
        try:
            if self._decoder is None:
                raise msgspec.ValidationError("nothing is known yet")
            found: list[Envelope] = self._decoder.decode_lines(text)
        except msgspec.ValidationError:
            self._learn(text)
            assert self._decoder is not None
            try:
                found = self._decoder.decode_lines(text)
            except msgspec.ValidationError:
                found = [self._one(line) for line in text.split(b"\n")]
        if self._old:
            found = [self._upcast(recorded) if type(recorded) in self._old else recorded for recorded in found]
        return found

    def _learn(self, text: bytes) -> None:
        """Make an envelope class for each name and version that is new."""
        for line in text.split(b"\n"):
            tag = msgspec.json.decode(_tags.decode(line)[0], type=str)
            if tag in self._wrappers:
                continue
            name, version = _parts(tag)
            event_type = self._codec.type_of(name)
            is_current = event_type is not None and event_type.__event_version__ == version
            fields: list[Any] = [("event", event_type if is_current else msgspec.Raw)]
            if self._base is Recorded:
                fields += [("event_type", str, name), ("event_version", int, version)]
            wrapper: Any = msgspec.defstruct(
                self._base.__name__,
                fields,
                bases=(self._base,),
                tag=tag,
                array_like=True,
                gc=False,
                kw_only=True,
                eq=False,
            )
            self._wrappers[tag] = wrapper
            if not is_current:
                self._old[wrapper] = name, version
        self._decoder = msgspec.json.Decoder(Union[tuple(self._wrappers.values())])  # noqa: UP007

    def _one(self, line: bytes) -> Envelope:
        """One line, for the error that says which event it is."""
        tag, payload, stream, sequence, *_rest = _tags.decode(line)
        named = msgspec.json.decode(tag, type=str)
        wrapper = self._wrappers[named]
        try:
            found: Envelope = msgspec.json.decode(line, type=wrapper)
        except msgspec.ValidationError as error:
            name, version = _parts(named)
            where = msgspec.json.decode(stream, type=str), msgspec.json.decode(sequence, type=int)
            self._codec.decode(name, version, bytes(payload), *where)
            raise self._codec.invalid(name, version, error, *where) from error
        return found

    def _upcast(self, recorded: Envelope) -> Envelope:
        name, version = self._old[type(recorded)]
        payload = bytes(recorded.event)  # type: ignore[call-overload]
        recorded.event = self._codec.decode(name, version, payload, recorded.stream_id, recorded.sequence)
        return recorded


def _parts(tag: str) -> tuple[str, int]:
    """Name and version: version 1 is not written."""
    name, _, digits = tag.rpartition("@")
    return (name, int(digits)) if name else (tag, 1)
