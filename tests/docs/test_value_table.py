"""The value table of the page "Decoder" is what a server and the decoder give today, and has every type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docs import value_table

if TYPE_CHECKING:
    from tests.conftest import Database


def test_it_is_what_the_decoder_gives(newest_database: Database) -> None:
    """After a change: python -m docs.value_table."""
    page = value_table.PAGE.read_text(encoding="utf-8")
    written = page.split(value_table.BEGIN)[1].split(value_table.END)[0]
    assert written.strip() == value_table.table(newest_database.dsn)


def test_it_has_every_type(database: Database) -> None:
    """On each version: what the decoder knows and a column can have."""
    assert value_table.not_in_the_table(database.dsn) == set()
