"""How events print: one line with table, key and LSN, whatever is in the row; nothing of it in errors."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

import pgcdc
from pgcdc import Begin, Column, Commit, Delete, Insert, Message, Origin, Relation, Truncate, Type, Update
from pgcdc.event_text import TYPE_NAMES
from tests.protocol import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Database

ORDERS = Relation(
    16384,
    "public",
    "orders",
    "d",
    [
        Column("status", 25, -1, False),
        Column("id", 20, -1, True),
        Column("total", 1700, (12 << 16 | 2) + 4, False),
        Column("code", 1043, 7 + 4, False),
    ],
)
COMMITTED = datetime(2026, 1, 1, tzinfo=UTC)
LSN: dict[str, Any] = {"lsn": 0x16B3710, "commit_lsn": 0x1_016B3748, "commit_time": COMMITTED, "index": 0}


class Order(msgspec.Struct):
    """A class of the user's own, with one name changed."""

    id: int
    state: Any = msgspec.field(name="status", default=UNSET)


COMMIT = "lsn=0/16B3710 commit_lsn=1/16B3748 commit_time=2026-01-01 00:00:00+00:00 index=0"


@pytest.mark.parametrize(
    ("event", "printed"),
    [
        (ORDERS, "<Relation public.orders (status text, id int8 key, total numeric(12,2), code varchar(7))>"),
        (
            Begin(0x16B3748, COMMITTED, 731),
            "<Begin final_lsn=0/16B3748 commit_time=2026-01-01 00:00:00+00:00 xid=731>",
        ),
        (
            Commit(0, 1, 2**64 - 1, COMMITTED),
            "<Commit commit_lsn=0/1 end_lsn=FFFFFFFF/FFFFFFFF commit_time=2026-01-01 00:00:00+00:00>",
        ),
        (Origin(0, "other"), "<Origin commit_lsn=0/0 name='other'>"),
        (Type(16390, "public", "state"), "<Type oid=16390 schema='public' name='state'>"),
        (
            Insert(ORDERS, {"status": "paid", "id": 1, "total": Decimal("9.90"), "code": None}, **LSN),
            f"<Insert public.orders new=(id=1, status='paid', total=9.90, code=None) {COMMIT}>",
        ),
        (
            Update(ORDERS, ("paid", 1, UNSET, UNSET), ("new", 2, UNSET, UNSET), xid=7),
            "<Update public.orders new=(id=1, status='paid') old=(id=2, status='new') xid=7>",
        ),
        (Delete(ORDERS, UNSET, Order(5)), "<Delete public.orders old=(id=5)>"),
        (Insert(ORDERS, Order(5, "x")), "<Insert public.orders new=(id=5, status='x')>"),
        (
            Truncate([ORDERS, ORDERS], False, True, **LSN),
            f"<Truncate public.orders, public.orders cascade=False restart_identity=True {COMMIT}>",
        ),
        (
            Message(False, 9, "app", b"x" * 1000),
            f"<Message transactional=False lsn=0/9 prefix='app' content=b'{'x' * 20}...{'x' * 22}'>",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_one_line_each(event: Any, printed: str) -> None:
    assert repr(event) == printed


def test_times_and_ids_are_as_they_are_written() -> None:
    row = {"at": COMMITTED, "day": COMMITTED.date(), "uuid": UUID(int=1), "many": Decimal(10) ** 999}
    printed = repr(Insert(ORDERS, row))
    assert "(at=2026-01-01 00:00:00+00:00, day=2026-01-01, uuid=00000000-0000-0000-0000-000000000001, many=" in printed
    assert len(printed) < 250


CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.decimals() | st.datetimes() | st.uuids(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=6),
    max_leaves=8,
)


@given(st.lists(CELLS, max_size=4), st.sampled_from([1, 20]), st.sampled_from([dict, tuple]))
def test_no_row_is_a_wall(cells: list[Any], times: int, kind: Callable[[Any], Any]) -> None:
    """Whatever it holds and however wide it is: one line that can be printed."""
    cells = cells * times
    relation = Relation(1, "s", "t", "f", [Column(f"c{number}", 25, -1, True) for number in range(len(cells))])
    row = (
        {column.name: cell for column, cell in zip(relation.columns, cells, strict=True)}
        if kind is dict
        else tuple(cells)
    )
    for printed in (repr(Update(relation, row, row)), repr(relation)):
        assert len(printed) < 12_000
        assert "\n" not in printed
        printed.encode()


def test_numbers_that_python_refuses_to_print() -> None:
    """More digits than sys.set_int_max_str_digits allows, inside jsonb."""
    assert "int" in repr(Insert(ORDERS, {"id": 10**5000, "status": [10**5000]}))


def test_names_with_line_breaks_and_of_no_encoding() -> None:
    """SQL_ASCII databases have them."""
    relation = Relation(1, "a\nb", "t\udcff", "n", [Column("ü\udc80", 16390, -1, False)])
    printed = repr(relation)
    printed.encode()
    assert "a\\nb.t\\udcff" in printed
    assert "oid:16390" in printed
    assert printed.endswith(" replica identity nothing>")
    repr(Insert(relation, (1,))).encode()


def test_raw_json_is_short() -> None:
    assert len(repr(Insert(ORDERS, {"id": msgspec.Raw(b"[" + b"1," * 10_000 + b"1]")}))) < 200


def test_events_of_a_decoder() -> None:
    decoder = pgcdc.Decoder()
    relation = wire.relation(1, "orders", [("id", 23), ("status", 25)])
    assert repr(decoder.decode(relation)) == "<Relation public.orders (id int4 key, status text)>"
    assert repr(decoder.decode(wire.insert(1, ["1", "paid"]))) == "<Insert public.orders new=(id=1, status='paid')>"


def test_errors_hold_no_values() -> None:
    """An event prints values; what is raised about the same row does not."""
    decoder = pgcdc.Decoder()
    decoder.decode(wire.relation(1, "orders", [("id", 23), ("status", 25)]))
    for bad in (wire.insert(1, ["secret", "secret"]), wire.insert(1, ["1", "secret"]) + b"secret"):
        with pytest.raises(pgcdc.DecodeError) as raised:
            decoder.decode(bad)
        assert "secret" not in f"{raised.value} {raised.value!r}"


def test_type_names_are_the_servers(database: Database) -> None:
    """Each OID of the table, on every version."""
    query = (
        "SELECT t.oid, coalesce(e.typname || '[]', t.typname) FROM pg_type t LEFT JOIN pg_type e ON e.typarray = t.oid"
    )
    names = dict(database.execute(query))
    assert {oid: names.get(oid) for oid in TYPE_NAMES} == TYPE_NAMES


def test_type_modifiers_are_the_servers(newest_database: Database) -> None:
    """Lengths, precisions and negative scales as `format_type` prints them."""
    newest_database.execute(
        "CREATE TABLE t (a numeric(12,2), b numeric(3,-2), c numeric(1000,1000), d varchar(7), e char(3), f numeric,"
        " g text, h numeric(5,1)[], i timestamptz(3))"
    )
    rows = newest_database.execute(
        "SELECT attname, atttypid, atttypmod, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 't'::regclass AND attnum > 0 ORDER BY attnum"
    )
    relation = Relation(1, "public", "t", "d", [Column(name, oid, modifier, False) for name, oid, modifier, _ in rows])
    said = {
        name: text.replace("character varying", "varchar").replace("character", "bpchar") for name, *_, text in rows
    }
    said |= {"h": "numeric[]", "i": "timestamptz"}  # not told: an array's, and a time's digits
    assert repr(relation) == f"<Relation public.t ({', '.join(f'{name} {text}' for name, text in said.items())})>"
