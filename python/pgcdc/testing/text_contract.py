"""What sinks do with text that no UTF-8 has: the part of their contract that is about characters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from msgspec import UNSET

from pgcdc.errors import SinkRejected
from pgcdc.protocol import Batch
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Change, delete, insert, update
from pgcdc.testing.contract_changes import changed
from pgcdc.testing.contract_target import ContractTarget, called

__all__ = ["TextContract"]

_BYTE = "caf\udce9"
"""A text of a database in SQL_ASCII, whose last byte is no UTF-8."""
_HALF = '{"half": "\\ud83d", "whole": "\\ud83d\\ude00"}'
"""What a column of type json may hold in any database: half of a surrogate pair."""


class TextContract(ContractTarget):
    """Text with what is no character in it."""

    def test_text_that_is_no_text_is_taken_or_refused(self, tmp_path: Path) -> None:
        """A byte that is no UTF-8, and half of a surrogate pair in JSON: SinkRejected, if it cannot be written.

        UnicodeEncodeError is the same to a pipeline. Whatever becomes of that row, those around it are written, and it
        can be updated and deleted.
        """
        table, row = self.table, self.row
        [text, *_] = [name for name in table.columns if name not in table.keys and isinstance(row(1, 0)[name], str)]
        with_json = changed(table, {**table.columns, "document": "json"})
        odd = {"byte": (table, text, _BYTE), "half": (with_json, "document", _HALF)}
        for what, (of, name, value) in odd.items():
            values = {name: value}
            unsent = {} if self.toast is None or self.toast == name else {self.toast: UNSET}
            before: list[Change] = [insert(of, row(1, 0)), insert(of, row(3, 0))]
            tried: list[Change] = [update(of, row(3, 1) | values), update(of, row(3, 2) | values | unsent)]
            after: list[Change] = [
                update(of, row(3, 3) | dict.fromkeys(values)),
                insert(of, row(5, 0)),
                update(of, row(1, 1)),
                delete(of, row(3, 3)),
            ]
            place = tmp_path / what
            place.mkdir()
            self._write_singly(place, [*before, *tried, *after], refusable=range(2, 4))
            self._check(place, [*before, *after])

    def _write_singly(self, place: Path, changes: Iterable[Change], refusable: Iterable[int]) -> None:
        """Write each by itself, and go on behind those that are refused, as a pipeline does with dead letters."""
        capture = Capture.of(changes)
        whole = Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])

        async def write() -> None:
            sink = self.make_sink(place)
            await called(sink.open)
            for number, part in enumerate(whole.pieces(1)):
                try:
                    await called(sink.write, part)
                except (SinkRejected, UnicodeEncodeError):  # the pipeline takes them alike
                    assert number in refusable, "a row is refused that has nothing odd"
                except Exception as error:
                    raise AssertionError(
                        f"{type(error).__name__} ends the pipeline, now and at each start; a row that cannot be"
                        " written is SinkRejected"
                    ) from error
            await called(sink.close)

        asyncio.run(write())
