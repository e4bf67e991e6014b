"""Batches as lines of JSON: what they say is what the events say, in every form and from every server."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pgcdc.errors import ConfigError, DecodeError, InvalidValue, UnknownRelation
from pgcdc.events import Delete, Insert, Message, Relation, Truncate, Update
from pgcdc.lsn import format_lsn
from pgcdc.protocol import Batch, BatchReader, CopyReader, Decoder, PgArray, RowFormat, TypeCatalog
from pgcdc.protocol.printing import pg_text
from tests.golden.make import VERSIONS
from tests.protocol import wire
from tests.protocol.captures import ALL, FORMS, IDS, capture, messages
from tests.protocol.test_golden import TYPES_TOLD_ALIKE

ADDRESSES = (IPv4Address, IPv6Address, IPv4Network, IPv6Network)
LSN = 3220
JSON_TYPES = {114, 3802, 199, 3807}
ROWS = RowFormat("dict", json="text")


def load(text: str | bytes) -> Any:
    """JSON with every digit kept."""
    return json.loads(text, parse_float=Decimal)


def is_printed(value: Any) -> bool:
    """Whether the lines and Arrow have it as PostgreSQL prints it."""
    return hasattr(value, "pg_text") or isinstance(value, ADDRESSES)


def said(value: Any, *, is_json: bool = False) -> Any:
    """What the lines say of a value of an event, as `load` gives it."""
    if is_printed(value):
        return pg_text(value)
    if isinstance(value, list):
        elements = [said(item, is_json=is_json) for item in value]
        if isinstance(value, PgArray):
            return {"lower_bounds": list(value.lower_bounds), "elements": elements}
        return elements
    if isinstance(value, str) and is_json:
        return load(value)
    if isinstance(value, float):
        special = {float("inf"): "Infinity", float("-inf"): "-Infinity"}
        return "NaN" if value != value else special.get(value) or Decimal(repr(value))
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, datetime | time):
        return value.isoformat().removesuffix("+00:00") + ("Z" if value.tzinfo is UTC else "")
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, UUID | str) else value


def row(relation: Relation, values: dict[str, Any]) -> dict[str, Any]:
    """What the lines say of a row."""
    types = {column.name: column.type_oid for column in relation.columns}
    return {
        name: format_lsn(value) if types[name] == LSN else said(value, is_json=types[name] in JSON_TYPES)
        for name, value in values.items()
        if value is not UNSET
    }


def line(change: Any) -> dict[str, Any]:
    """What the line of a change says."""
    fields: dict[str, Any] = {"action": change.action}
    if change.position is not UNSET:
        fields |= {"position": str(change.position), "commit_lsn": format_lsn(change.commit_lsn), "index": change.index}
    if change.commit_time is not UNSET:
        fields["commit_time"] = said(change.commit_time)
    if change.lsn is not UNSET:
        fields["lsn"] = format_lsn(change.lsn)
    if isinstance(change, Insert | Update | Delete):
        fields |= {"schema": change.schema, "table": change.table}
        fields |= {
            side: row(change.relation, getattr(change, side))
            for side in ("new", "old")
            if getattr(change, side) is not UNSET
        }
    elif isinstance(change, Truncate):
        fields["relations"] = [{"schema": one.schema, "table": one.name} for one in change.relations]
        fields |= {"cascade": change.cascade, "restart_identity": change.restart_identity}
    elif isinstance(change, Message):
        fields |= {"transactional": change.transactional, "prefix": change.prefix, "content": said(change.content)}
    return fields


def golden(version: int, form: str) -> Batch:
    """A capture as one batch."""
    return BatchReader().read([wire.xlogdata(message, lsn) for lsn, message in capture(version, form)])


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_lines_say_what_the_events_say(version: int, form: str) -> None:
    """Every field of every change, in the changes' order, and nothing else."""
    batch = golden(version, form)
    lines = batch.to_json().splitlines()
    changes = batch.changes(ROWS)
    assert len(lines) == len(changes) > 100
    for got, change in zip(lines, changes, strict=True):
        assert load(got) == line(change)


@pytest.mark.parametrize("version", VERSIONS)
def test_text_and_binary_give_the_same_bytes(version: int) -> None:
    """For each column whose type is known; the two captures are of the same transactions."""
    text, binary = (golden(version, form) for form in FORMS)
    compared = 0
    pairs = zip(text.to_json().splitlines(), binary.to_json().splitlines(), text.changes(), strict=True)
    for one, other, change in pairs:
        if one == other:
            compared += 1
            continue
        assert isinstance(change, Insert | Update | Delete)
        left, right = msgspec.json.decode(one), msgspec.json.decode(other)
        raw = dict[str, msgspec.Raw]
        assert {**left, "new": 0, "old": 0} == {**right, "new": 0, "old": 0}
        for side in ("new", "old"):
            if side in left:
                raws = [msgspec.json.decode(msgspec.json.encode(each[side]), type=raw) for each in (left, right)]
                for column in change.relation.columns:
                    if column.type_oid in TYPES_TOLD_ALIKE:
                        assert raws[0].get(column.name) == raws[1].get(column.name), column
    assert compared > 80


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_a_decoder_writes_what_a_batch_writes(version: int, form: str) -> None:
    """`Decoder.to_json` in one piece and in many, with the decoder's memory of relations and transactions."""
    captured = capture(version, form)
    whole = golden(version, form).to_json()
    decoder = Decoder()
    pieces = [captured[start : start + 7] for start in range(0, len(captured), 7)]
    parts = [decoder.to_json([message for _, message in piece], [lsn for lsn, _ in piece]) for piece in pieces]
    assert b"".join(parts) == whole
    assert Decoder().to_json(messages(version, form), envelope="plain") == Batch.of(messages(version, form)).to_json()


def one_column(type_oid: int, field: wire.Field, catalog: TypeCatalog | None = None) -> bytes:
    """How a value is written, byte for byte."""
    stream = [wire.relation(1, "t", [("c", type_oid)]), wire.insert(1, [field])]
    written = Decoder(catalog=catalog).to_json(stream)
    head, tail = b'{"action":"insert","schema":"public","table":"t","new":{"c":', b"}}\n"
    assert written.startswith(head) and written.endswith(tail)
    return written[len(head) : -len(tail)]


@pytest.mark.parametrize(
    ("type_oid", "field", "expected"),
    [
        (25, None, "null"),
        (20, "-9223372036854775808", "-9223372036854775808"),
        (701, "1e+23", "1e+23"),
        (700, b"\x3d\xcc\xcc\xcd", "0.1"),
        (701, "-0", "-0.0"),
        (701, "NaN", '"NaN"'),
        (1700, "1.10", '"1.10"'),
        (1700, "-Infinity", '"-Infinity"'),
        (17, b"\x00\xff", '"\\\\x00ff"'),
        (17, "\\001ab", '"\\\\x016162"'),
        (1082, "0001-12-31 BC", '"0001-12-31 BC"'),
        (1083, "24:00:00", '"24:00:00"'),
        (1083, "01:02:03.5", '"01:02:03.500000"'),
        (1266, "01:02:03-15:59:59", '"01:02:03-15:59:59"'),
        (1266, "01:02:03+05:30", '"01:02:03+05:30"'),
        (1114, "2024-02-29 12:30:00", '"2024-02-29T12:30:00"'),
        (1184, "2024-02-29 12:30:00.000001+02", '"2024-02-29T10:30:00.000001Z"'),
        (1184, "infinity", '"infinity"'),
        (2950, b"\x12" * 16, '"12121212-1212-1212-1212-121212121212"'),
        (1007, "{}", "[]"),
        (1007, "{1,NULL}", "[1,null]"),
        (1007, "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
        (1007, "[0:1]={1,2}", '{"lower_bounds":[0],"elements":[1,2]}'),
        (1007, "[0:0][1:2]={{1,2}}", '{"lower_bounds":[0,1],"elements":[[1,2]]}'),
        (1007, "[1:1][0:1]={{1,2}}", '{"lower_bounds":[1,0],"elements":[[1,2]]}'),
        (1009, '{"a\\"b","NULL"}', '["a\\"b","NULL"]'),
        (3807, '{"{\\"a\\": 1}"}', '[{"a": 1}]'),
        (114, '{"a":\n 1.00, "a": 1E400}\r\n', '{"a":  1.00, "a": 1E400}  '),
        (3802, b'\x01{"a": 0.1000000000000000055}', '{"a": 0.1000000000000000055}'),
        (999999, "as sent", '"as sent"'),
        (999999, b"\x01\x02", '"\\\\x0102"'),
        (25, 'a"b\\c\n\r\t\x01\x7f\u2028ä', '"a\\"b\\\\c\\n\\r\\t\\u0001\x7f\u2028ä"'),
    ],
)
def test_how_a_value_is_written(type_oid: int, field: wire.Field, expected: str) -> None:
    """Byte for byte: what a reader may rely on."""
    assert one_column(type_oid, field).decode() == expected


def test_bytes_that_are_not_utf8_become_what_surrogateescape_makes_of_them() -> None:
    """JSON that is ASCII there, and Python reads the same string that the events hold."""
    raw = b"K\xf6ln \xe2\x82 \xf0\x9f\x98\x80"
    for type_oid in (25, 1043, 999999):
        written = one_column(type_oid, raw.decode("utf-8", "surrogateescape"))
        assert written.decode() == '"K\\udcf6ln \\udce2\\udc82 😀"'
        assert json.loads(written).encode("utf-8", "surrogateescape") == raw
    document = one_column(114, (b'["' + raw + b'"]').decode("utf-8", "surrogateescape"))
    assert json.loads(document)[0].encode("utf-8", "surrogateescape") == raw


def test_columns_that_were_not_sent_are_left_out() -> None:
    """Unchanged TOAST values come from the old row where it has them; keys have only key columns."""
    stream = [
        wire.relation(1, "t", [("id", 23), ("v", 25), ("w", 25)]),
        wire.update(1, ["1", UNSET, None]),
        wire.update(1, ["1", UNSET, "w"], ["1", "before", "x"], kind="O"),
        wire.update(1, ["2", "v", "w"], ["1", None, None], kind="K"),
        wire.delete(1, ["2", None, None]),
    ]
    lines = [json.loads(one) for one in Decoder().to_json(stream).splitlines()]
    assert [one.get("new") for one in lines] == [
        {"id": 1, "w": None},
        {"id": 1, "v": "before", "w": "w"},
        {"id": 2, "v": "v", "w": "w"},
        None,
    ]
    assert [one.get("old") for one in lines] == [None, {"id": 1, "v": "before", "w": "x"}, {"id": 1}, {"id": 2}]


def test_names_of_any_length() -> None:
    """Short names are copied another way than long ones; so are they beside values, nulls and what was not sent."""
    names = [("n" * length, 23) for length in range(1, 64)]
    values: list[wire.Field] = [(None, UNSET, "7")[length % 3] for length in range(1, 64)]
    stream = [wire.relation(1, "t", names), wire.update(1, values)]
    expected = {
        name: value and int(value) for (name, _), value in zip(names, values, strict=True) if value is not UNSET
    }
    assert json.loads(Decoder().to_json(stream))["new"] == expected


@given(
    st.lists(
        st.tuples(
            st.text(st.sampled_from('aé日😀"\\\n\x01')).map(str.encode) | st.binary(max_size=12),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_lines_together_are_what_they_are_alone(rows: list[tuple[bytes, str]]) -> None:
    """Whether strings are UTF-8 is looked at for all lines at once: one that is not changes nothing in the others."""
    relation = wire.relation(1, "t", [("v", 25), ("doc", 3802)])
    stream = [
        wire.insert(1, [raw, b"\x01" + json.dumps(document, ensure_ascii=False).encode()]) for raw, document in rows
    ]
    for envelope in ("plain", "debezium"):
        together = Decoder().to_json([relation, *stream], envelope=envelope)
        assert together == b"".join(Decoder().to_json([relation, row], envelope=envelope) for row in stream)
        for line, (raw, document) in zip(together.splitlines(), rows, strict=True):
            found = json.loads(line)["new" if envelope == "plain" else "after"]
            assert found["v"].encode("utf-8", "surrogateescape") == raw
            assert (found["doc"] if envelope == "plain" else json.loads(found["doc"])) == document


def test_user_defined_types_by_a_catalog() -> None:
    """A decoder uses its own catalog, a batch the one it is given."""
    catalog = TypeCatalog()
    catalog.add(70001, "cents", base=20)
    assert one_column(70001, "12", catalog) == b"12"
    batch = Batch.of([wire.relation(1, "t", [("c", 70001)]), wire.insert(1, ["12"])])
    assert json.loads(batch.to_json())["new"] == {"c": "12"}
    assert json.loads(batch.to_json(catalog=catalog))["new"] == {"c": 12}


def test_rows_of_an_initial_copy() -> None:
    """Index -1, no commit time, a position below every change's."""
    relation = Decoder().decode(wire.relation(1, "t", [("id", 23)]))
    assert isinstance(relation, Relation)
    copied = wire.copy_header() + wire.copy_row([b"\x00\x00\x00\x07"]) + wire.COPY_TRAILER
    assert json.loads(CopyReader(relation, 0x16B374D848).read([copied]).to_json()) == {
        "action": "insert",
        "schema": "public",
        "table": "t",
        "position": "00000016B374D848.00000000",
        "commit_lsn": "16/B374D848",
        "index": -1,
        "new": {"id": 7},
    }


def test_cut_batches_write_their_part() -> None:
    """Lines of what a batch holds, and nothing for one without changes."""
    batch = golden(18, "binary")
    selected = batch.select(tables={("public", "toasted")}, actions={"update"})
    assert {(one["table"], one["action"]) for one in map(json.loads, selected.to_json().splitlines())} == {
        ("toasted", "update")
    }
    assert Batch.of([]).to_json() == Batch.of([wire.begin()]).to_json() == b""


def test_the_first_bad_change_is_raised() -> None:
    """With its place, table and position; nothing is written, and the decoder goes on."""
    decoder = Decoder()
    decoder.to_json([wire.relation(1, "t", [("id", 23), ("v", 114)]), wire.begin(1000)])
    with pytest.raises(InvalidValue) as caught:
        decoder.to_json([wire.insert(1, ["1", "{}"]), wire.insert(1, ["1", "{]"])], [7, 8])
    error = caught.value
    assert (error.reason, error.field, error.table, error.position, error.lsn) == (
        "not JSON", "v", "public.t", (1000, 1), 8,
    )  # fmt: skip
    assert error.raw[error.offset :] == b"{]"
    assert "{]" not in str(error)
    with pytest.raises(UnknownRelation, match="relation 2"):
        decoder.to_json([wire.insert(2, ["1"])])
    with pytest.raises(UnknownRelation):
        decoder.to_json([wire.truncate([1, 2])])
    with pytest.raises(DecodeError, match="3 columns"):
        decoder.to_json([wire.insert(1, ["1", "2", "3"])])
    with pytest.raises(DecodeError, match="3 columns"):
        decoder.to_json([wire.update(1, ["1", "2"], ["1", "2", "3"])])
    with pytest.raises(DecodeError, match="unexpected end"):
        decoder.to_json([wire.insert(1, ["1", "2"])[:-1]])
    assert json.loads(decoder.to_json([wire.insert(1, ["1", "{}"])]))["index"] == 7


def test_what_is_asked_for_is_checked() -> None:
    """Another envelope, LSNs of another number, something that is no message."""
    with pytest.raises(ConfigError, match="envelope="):
        Batch.of([]).to_json("xml")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="envelope="):
        Decoder().to_json([], envelope="xml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="as long as"):
        Decoder().to_json([wire.begin()], [1, 2])
    with pytest.raises(TypeError):
        Decoder().to_json(["text"])  # type: ignore[list-item]


@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_any_text_is_read_back(text: str) -> None:
    """Control characters, quotes, astral characters, bytes that are not UTF-8."""
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    for type_oid in (25, 999999):
        written = one_column(type_oid, text)
        assert json.loads(written) == text
        assert b"\n" not in written


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
), st.sampled_from([None, 1]))  # fmt: skip
def test_any_json_is_embedded(document: Any, indent: int | None) -> None:
    """What Python writes is taken as it is; a proper prefix is refused unless it is JSON itself."""
    text = json.dumps(document, indent=indent)
    assert one_column(114, text).decode() == text.replace("\n", " ")
    assert one_column(3802, b"\x01" + text.encode()).decode() == text.replace("\n", " ")


@given(st.text(alphabet='{}[]",:\\ \n0123456789.-+eEtrufalsn', max_size=12))
def test_what_is_not_json_is_refused(text: str) -> None:
    """Exactly what Python's own parser refuses."""
    try:
        json.loads(text, parse_constant=lambda name: pytest.fail(name))
    except ValueError:
        with pytest.raises(InvalidValue):
            one_column(114, text)
    else:
        assert one_column(114, text).decode() == text.replace("\n", " ")


def test_json_as_deep_as_anybody_likes() -> None:
    """No recursion, so no stack to overflow."""
    text = "[" * 200_000 + "]" * 200_000
    assert one_column(114, text).decode() == text
    with pytest.raises(InvalidValue):
        one_column(114, text[:-1])
