"""The sink held to the contract of sinks: `python -m pytest`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from folder_sink import Folder, Stored

from pgcdc.testing.contracts import SinkContract

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path


class TestFolder(SinkContract):
    """About twenty tests; see `SinkContract` for what else can be said of a target."""

    # A row that it never takes: it is refused, and only it.
    refused: ClassVar[Mapping[str, Any] | None] = {"id": 9, "name": "x" * 30_000, "amount": None, "note": None}

    def make_sink(self, place: Path) -> Folder:
        """The sink; for the same place again it is the same target after a restart."""
        return Folder(place / "rows", max_bytes=30_000)

    def content(self, place: Path) -> dict[int, dict[str, str]]:
        """What the target has, read without the sink."""
        files = (place / "rows" / "public.contract").glob("*.json")
        stored = [msgspec.json.decode(file.read_bytes(), type=Stored) for file in files]
        rows = [msgspec.json.decode(msgspec.json.encode(one.row)) for one in stored if one.row is not None]
        return {row["id"]: _text(row) for row in rows}

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, dict[str, str]]:
        """What it should have, in the same form."""
        names = list(columns)
        return {key: _text({name: row.get(name) for name in names}) for key, row in rows.items()}

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        """Something else is in its place."""
        folder, away = place / "rows", place / "away"
        folder.rename(away)
        folder.touch()
        try:
            yield
        finally:
            folder.unlink()
            away.rename(folder)


def _text(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in row.items() if value is not None}
