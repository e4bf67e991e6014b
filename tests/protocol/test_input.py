"""What a program can hand over: numbers out of range, lengths that are not true, values nested deeply."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc.errors import ConfigError, DecodeError, InvalidValue, UnknownRelation
from pgcdc.events import Column, Insert, Relation
from pgcdc.protocol import Batch, BatchReader, CopyReader, Decoder, TypeCatalog, encode_status_update
from pgcdc.protocol.values import json_deeply
from tests.protocol import wire
from tests.reference import ReferenceDecoder

TABLE = wire.relation(1, "t", [("id", 23), ("j", 3802)])


class Boastful(Sequence[bytes]):
    """A sequence that says it is longer than anything can be."""

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: Any) -> Any:
        if index > 2:
            raise IndexError
        return wire.begin()


CALLS: dict[str, Callable[[Any], Any]] = {
    "decode_many": lambda given: Decoder().decode_many(given),
    "to_json": lambda given: Decoder().to_json(given),
    "to_arrow": lambda given: Decoder().to_arrow(given),
    "Batch.of": lambda given: Batch.of(given),
    "read": lambda given: BatchReader().read(given),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_lengths_are_not_believed(call: Callable[[Any], Any]) -> None:
    """Nothing is set aside for what is only announced: a process must not die of it."""
    with pytest.raises(TypeError):
        call(range(2**62))
    if call is not CALLS["read"]:
        assert call(Boastful()) is not None
    with pytest.raises((TypeError, ValueError)):
        call([1])
    with pytest.raises(TypeError):
        call(1)


@pytest.mark.parametrize("lsns", [[-1], [2**64], ["1"], [1, 2], [], range(2**62), Boastful()])
@pytest.mark.parametrize("name", ["decode_many", "to_json", "to_arrow"])
def test_lsns_that_are_none(name: str, lsns: Any) -> None:
    """Too many, too few, too large, or no numbers."""
    decoder = Decoder()
    with pytest.raises((ValueError, TypeError, OverflowError)):
        getattr(decoder, name)([wire.begin()], lsns)
    with pytest.raises((ValueError, TypeError, OverflowError)):
        Batch.of([wire.begin()], lsns)
    assert decoder.decode(wire.begin()) is not None


def test_numbers_out_of_range() -> None:
    """An error that says so, from every place that takes one."""
    batch = Batch.of([wire.begin(), wire.commit()])
    for position in ((-1, 0), (2**64, 0), (0, 2**63)):
        with pytest.raises(OverflowError):
            batch.after(position)
    assert len(batch.after((2**64 - 1, -(2**63)))) == 0
    for number in (-1, 2**64):
        with pytest.raises(OverflowError):
            encode_status_update(number, 0, 0)
        with pytest.raises(OverflowError):
            Decoder().decode(wire.begin(), number)
        with pytest.raises(OverflowError):
            Batch.truncation([], number)
        with pytest.raises(OverflowError):
            TypeCatalog().add(number, "t", enum=True)
    relation = Relation(2**32, "s", "t", "d", [])
    with pytest.raises(OverflowError):
        CopyReader(relation, 0)
    for columns in (
        [Column("a\x00b", 23, -1, True)],
        [Column("a", 23, -1, True)] * 40_000,
        [Column("a" * 1025, 23, -1, True)],
    ):
        with pytest.raises(ConfigError):
            CopyReader(Relation(1, "s", "t", "d", columns), 0)


NAMED: dict[str, Callable[[str], bytes]] = {
    "schema": lambda name: wire.relation(1, "t", [("c", 25)], schema=name),
    "table": lambda name: wire.relation(1, name, [("c", 25)]),
    "column": lambda name: wire.relation(1, "t", [("c", 25), (name, 25)]),
    "schema of a type": lambda name: wire.type_(1, name, "t"),
    "type": lambda name: wire.type_(1, "s", name),
}


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
def test_names_have_an_end(named: Callable[[str], bytes]) -> None:
    """JSON repeats them with each row: one without an end would make a little input into any amount of output."""
    for decoder in (Decoder("dict"), ReferenceDecoder()):
        decoder.decode(named("n" * 1024))
        for name in ("n" * 1025, "ä" * 513, "n" * 100_000):
            with pytest.raises(DecodeError) as caught:
                decoder.decode(named(name))
            assert "impossible length" in caught.value.reason
        if named(" ")[:1] == b"R":
            with pytest.raises(UnknownRelation):  # not read with the shape before it
                decoder.decode(wire.insert(1, ["x"]))
    for name in ("n" * 1025, "n" * 100_000):
        with pytest.raises(DecodeError):
            Decoder().to_json([named(name)])
        with pytest.raises(DecodeError):
            Decoder().to_arrow([named(name)])


@pytest.mark.parametrize("depth", [500, 100_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_deeply_nested_json(depth: int, brackets: tuple[str, str]) -> None:
    """The value, whatever room Python's stack has; as text it is whole, too."""
    opening, closing = brackets
    text = opening * depth + "1" + closing * depth
    row = wire.insert(1, ["1", text])
    decoder = Decoder("dict")
    decoder.decode(TABLE)

    def from_below(frames: int) -> Any:
        return from_below(frames - 1) if frames else decoder.decode_many([row])[0]

    # However deep the caller is: the same bytes are not good for one and bad for another.
    for frames in (0, 600):
        event = from_below(frames)
        assert isinstance(event, Insert)
        value, levels = event.new["j"], 0
        while value != 1:  # comparing the whole would recurse
            assert len(value) == 1
            value = value[0] if opening == "[" else value["a"]
            levels += 1
        assert levels == depth
    plain = Decoder("dict", json="text")
    plain.decode(TABLE)
    event = plain.decode(row)
    assert isinstance(event, Insert) and event.new["j"] == text
    assert text.encode() in plain.to_json([row])
    plain.to_arrow([row])


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(DOCUMENTS, st.sampled_from([None, 1]))
def test_json_is_the_same_without_recursion(document: Any, indent: int | None) -> None:
    text = f" {json.dumps(document, indent=indent)}\n"
    assert json_deeply(text) == document


@given(DOCUMENTS, st.integers(0, 200), st.sampled_from([*'[]{},:" 1n', ""]))
def test_what_is_no_json_is_refused_without_recursion(document: Any, place: int, instead: str) -> None:
    text = json.dumps(document)
    place %= len(text)
    text = text[:place] + instead + text[place + 1 :]
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            json_deeply(text)
    else:
        assert json_deeply(text) == expected


@pytest.mark.parametrize("text", ["{" * 100_000, "{" * 100_000 + "}" * 100_000, '{"' * 50_000, "[0:0]" * 50_000])
def test_deeply_nested_arrays(text: str) -> None:
    """PostgreSQL has six dimensions at most."""
    decoder = Decoder("dict")
    decoder.decode(wire.relation(1, "t", [("a", 1007), ("b", 1009)]))
    for fields in ([text, None], [None, text]):
        (event,) = decoder.decode_many([wire.insert(1, [*fields])])
        assert isinstance(event, InvalidValue)
        with pytest.raises(DecodeError):
            decoder.to_json([wire.insert(1, [*fields])])


def test_a_table_of_many_columns_that_are_all_called_the_same() -> None:
    """No server has one; a decoder must not take hours over it."""
    many = 3000
    relation = wire.relation(1, "t", [("a b" if number % 2 else "a-b", 23) for number in range(many)])
    decoder = Decoder()
    decoder.decode(relation)
    event = decoder.decode(wire.insert(1, [str(number) for number in range(many)]))
    assert isinstance(event, Insert)
    assert msgspec.structs.astuple(event.new) == tuple(range(many))
