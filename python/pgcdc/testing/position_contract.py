"""What every position store does, as a class of tests: inherit, and give the fixture `store`.

class TestMyPositions(PositionStoreContract):
@pytest.fixture
def store(self, tmp_path: Path) -> Iterator[PositionStore]:
store = MyPositions(tmp_path)
store.open()
yield store
store.close()
"""

from __future__ import annotations

from typing import Any

import msgspec

from pgcdc.errors import PositionError
from pgcdc.lsn import Position
from pgcdc.pipeline import Move, PositionStore, StoredPosition

__all__ = ["PositionStoreContract", "stored_position"]


def stored_position(consumer: str = "search", **changed: Any) -> StoredPosition:
    """A position to be stored.

    Args:
        consumer: Whose it is.
        **changed: What of it is not as usual.

    Returns:
        The position.
    """
    stored = StoredPosition(
        consumer=consumer,
        epoch=1,
        snapshot="done",
        position=None,
        through_lsn=100,
        slot="pgcdc_shop",
        system_identifier="7710345756932548491",
        timeline=1,
        fingerprint="b62579c013551807",
    )
    return msgspec.structs.replace(stored, **changed)


row = stored_position


class PositionStoreContract:
    """What every store does. A subclass has the fixture `store`: a store that is open and empty."""

    def test_nothing_is_stored_at_first(self, store: PositionStore) -> None:
        """An unknown pipeline has no positions."""
        assert store.load("shop") == {}

    def test_gives_back_what_was_stored(self, store: PositionStore) -> None:
        """With all digits, and for each pipeline by itself."""
        rows = [
            row("a", position=Position(2**64 - 1, 7), through_lsn=2**63 + 5, timeline=2**32 - 1, epoch=2**40),
            row("b", position=Position(5, -1), snapshot="begun"),
            row("c", snapshot="none"),
            row("d", snapshot="begun", tables={}),
            row("e", tables={2**32 - 1: 2**64 - 1, 16384: 0}),
            row("f", seen="4711 4712 4800"),
            row("g", spool="0123456789abcdef0123456789abcdef"),
        ]
        store.move("shop", [Move(None, stored) for stored in rows])
        assert store.load("shop") == {stored.consumer: stored for stored in rows}
        assert store.load("another") == {}

    def test_survives_being_closed(self, store: PositionStore) -> None:
        """And being closed twice."""
        store.move("shop", [Move(None, row())])
        store.close()
        store.close()
        store.open()
        assert store.load("shop") == {"search": row()}

    def test_refuses_a_step_from_what_is_not_stored(self, store: PositionStore) -> None:
        """Epoch, position and through_lsn are compared."""
        stored = row(epoch=3, through_lsn=200, position=Position(150, 3))
        store.move("shop", [Move(None, stored)])
        for expected in (
            None,
            row(epoch=2, through_lsn=200, position=Position(150, 3)),
            row(epoch=3, through_lsn=100, position=Position(150, 3)),
            row(epoch=3, through_lsn=200, position=None),
            row(epoch=3, through_lsn=200, position=Position(150, 4)),
            row(epoch=3, through_lsn=200, position=Position(151, 3)),
        ):
            _refused(store, "'search' of pipeline 'shop'", [Move(expected, row(epoch=9, through_lsn=900))])
            assert store.load("shop") == {"search": stored}

    def test_refuses_a_step_from_what_is_gone(self, store: PositionStore) -> None:
        """It is not made again."""
        _refused(store, "is gone", [Move(row(), row(through_lsn=200))])
        assert store.load("shop") == {}

    def test_does_all_steps_or_none(self, store: PositionStore) -> None:
        """One that is refused takes the others with it."""
        store.move("shop", [Move(None, row("a")), Move(None, row("b"))])
        _refused(store, "taken over", [Move(row("a"), row("a", through_lsn=200)), Move(None, row("b", epoch=2))])
        assert store.load("shop") == {"a": row("a"), "b": row("b")}

    def test_a_position_may_become_unknown(self, store: PositionStore) -> None:
        """None is stored, too."""
        known = row(position=Position(150, 3))
        store.move("shop", [Move(None, known)])
        store.move("shop", [Move(known, row(epoch=2))])
        assert store.load("shop") == {"search": row(epoch=2)}

    def test_forgets_one_or_all(self, store: PositionStore) -> None:
        """Of one pipeline, and what is not there is no error."""
        store.move("shop", [Move(None, row("a")), Move(None, row("b"))])
        store.move("other", [Move(None, row("a"))])
        store.forget("shop", ["a", "unknown"])
        assert set(store.load("shop")) == {"b"}
        store.forget("shop")
        store.forget("shop")
        assert store.load("shop") == {}
        assert set(store.load("other")) == {"a"}


def _refused(store: PositionStore, text: str, moves: list[Move]) -> None:
    said = ""
    try:
        store.move("shop", moves)
    except PositionError as error:
        said = str(error)
    assert text in said, f"the step is refused with PositionError: {said!r}"
