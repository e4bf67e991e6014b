"""What commands print of text that is none, and of deep JSON."""

from __future__ import annotations

import io

import pytest

from pgcdc.cli import lines
from pgcdc.cli.copies import _Csv
from pgcdc.testing import Table, insert
from tests.sinks.batches import batch_of

DEEP = "[" * 3000 + "]" * 3000


@pytest.mark.parametrize(
    ("kind", "value", "cell"),
    [
        ("json", '"\\udce9"', b'"""\\udce9"""'),
        ("json", '"\\ud83d"', b'"""\\ud83d"""'),
        ("json", '"\\ud83d\\ude00"', "😀".encode()),
        ("json", '{"a": "\\ud83d"}', b'"{""a"": ""\\ud83d""}"'),
        ("json", DEEP, DEEP.encode()),
        ("text", "caf\udce9", b"caf\xe9"),
    ],
)
def test_csv_has_each_value_as_it_is(kind: str, value: str, cell: bytes) -> None:
    """Bytes that are not UTF-8 as the server has sent them, and escapes of JSON as they stand there."""
    batch = batch_of([insert(Table("t", {"id": "bigint", "v": kind}, key=("id",)), {"id": 1, "v": value})])
    to = io.BytesIO()
    _Csv(to, batch.relations[0]).write(batch)
    assert to.getvalue() == b"id,v\n1," + cell + b"\n"


@pytest.mark.parametrize("odd", ['"\\ud83d"', '"\\udce9"'])
def test_numbers_keep_their_digits_beside_odd_text(odd: str) -> None:
    line = lines.parse_line(b'{"new":{"id":1,"f":1.50,"g":[1.10,{"a":2.0}],"j":' + odd.encode() + b"}}")
    assert lines.parse_template("{row} {new[f]}").fill(line) == (
        '{"id":1,"f":1.50,"g":[1.10,{"a":2.0}],"j":' + odd + "} 1.50"
    )


def test_deep_json_is_its_text() -> None:
    line = lines.parse_line(b'{"new":{"id":1,"j":' + DEEP.encode() + b"}}")
    assert line == {"new": {"id": 1, "j": DEEP}}
