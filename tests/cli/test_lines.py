"""What `pgcdc tail` makes of a line: conditions and templates."""

from __future__ import annotations

import json

import pytest

import pgcdc
from pgcdc.cli.lines import parse_condition, parse_line, parse_template

LINE = parse_line(
    b'{"action":"update","schema":"public","table":"orders","position":"0000000001A2B3C8.00000001","new":'
    b'{"id":7,"status":"paid","total":"100.50","note":null,"tags":["a","b"],"ratio":0.10000000000000000555},'
    b'"old":{"id":7}}'
)
DELETED = parse_line(b'{"action":"delete","schema":"public","table":"orders","old":{"id":7}}')


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("status=paid", True),
        ("status = new", False),
        ("status != new", True),
        ("total >= 100.5", True),
        ("total>9", True),  # as numbers, not as text
        ("total < 99", False),
        ("id=7", True),
        ("id=7.0", True),
        ("status > open", True),  # as text
        ("status ~ ^pa.d$", True),
        ("status ~ ^d", False),
        ("note is null", True),
        ("note IS NOT NULL", False),
        ("status is not null", True),
        ("note=null", False),
        ("note!=x", False),
        ("gone is null", False),
        ('tags=["a","b"]', True),
    ],
)
def test_condition(condition: str, holds: bool) -> None:
    assert parse_condition(condition).holds(LINE) is holds


def test_a_deleted_row_is_its_old_one() -> None:
    assert parse_condition("id=7").holds(DELETED)
    assert not parse_condition("status=paid").holds(DELETED), "it was not sent"


@pytest.mark.parametrize("text", ["status", "=paid", "", "status ~ ["])
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(pgcdc.ConfigError, match="--where"):
        parse_condition(text)


def test_a_column_that_no_table_has() -> None:
    with pytest.raises(pgcdc.ConfigError, match="no table has a column 'staus'") as raised:
        parse_condition("staus=paid", ["id", "status"])
    assert raised.value.hint == "did you mean 'status'?"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{table} {action} {row[id]}", "orders update 7"),
        ("{{{row[status]}}}", "{paid}"),
        ("{new[total]}|{old[total]}|{new[note]}", "100.50||null"),
        ("{row[tags]} {row[ratio]}", '["a","b"] 0.10000000000000000555'),
        ("{commit_time}", ""),
        ("plain", "plain"),
        ("{old}", '{"id":7}'),
    ],
)
def test_template(template: str, text: str) -> None:
    assert parse_template(template).fill(LINE) == text


def test_a_template_names_tables_of_a_truncate() -> None:
    line = parse_line(b'{"action":"truncate","relations":[{"table":"a"},{"table":"b"}]}')
    assert parse_template("{table}").fill(line) == "a,b"


@pytest.mark.parametrize("template", ["{tabel}", "{row.id}", "{", "}", "{table[id]}", "{}", "{row[id]"])
def test_what_is_no_template(template: str) -> None:
    with pytest.raises(pgcdc.ConfigError, match="--template"):
        parse_template(template)


def test_bytes_that_are_no_text() -> None:
    line = parse_line(json.dumps({"new": {"name": "\udc80x"}}).encode())
    assert parse_template("{row[name]}").fill(line) == "\udc80x"
    assert "udc80" in parse_template("{row}").fill(line)
