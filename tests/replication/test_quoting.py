"""Names and strings that try to break out of their quotes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pgcdc
from pgcdc.replication.quoting import identifier, literal, literals, qualified

if TYPE_CHECKING:
    from tests.conftest import Database

AWKWARD = [
    "plain",
    'qu"ote',
    "apo's'trophe",
    "back\\slash",
    "semi;colon",
    "-- no comment",
    "Zürich",
    "表",
    "new\nline",
    "$1",
]


def test_identifiers() -> None:
    assert identifier('a"b') == '"a""b"'
    assert qualified("s", 't"') == '"s"."t"""'


def test_literals() -> None:
    assert literal("it's") == "'it''s'"
    assert literals(["a", "b'"]) == "'a', 'b'''"
    assert literals([]) == "NULL"


@pytest.mark.parametrize("bad", ["a\0b", "\ud800"])
def test_what_no_name_can_have_is_refused(bad: str) -> None:
    with pytest.raises(pgcdc.ConfigError):
        identifier(bad)
    with pytest.raises(pgcdc.ConfigError):
        literal(bad)


def test_an_empty_identifier_is_refused() -> None:
    with pytest.raises(pgcdc.ConfigError):
        identifier("")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_quotes_are_balanced(text: str) -> None:
    quoted = literal(text)
    assert quoted[0] == quoted[-1] == "'"
    assert quoted[1:-1].replace("''", "").count("'") == 0
    assert quoted[1:-1].replace("''", "'") == text


def test_the_server_reads_them_as_they_were_meant(database: Database) -> None:
    with pgcdc.connect(database.dsn) as connection:
        for text in AWKWARD:
            rows = connection.execute(f"SELECT {literal(text)} AS {identifier(text)}")
            assert rows == [(text,)]
