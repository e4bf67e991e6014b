"""How rows are given: structs, dicts, tuples, the user's own classes; JSON columns; names that are no identifiers."""

from __future__ import annotations

import gc
import json
from decimal import Decimal
from typing import Any, Generic, TypeVar, get_origin

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from pgcdc.errors import ConfigError, DecodeError, InvalidValue
from pgcdc.events import Begin, Change, Delete, Insert, Update
from pgcdc.protocol import Decoder, RowFormat, TypeCatalog
from tests.protocol import wire

INT4, TEXT, NUMERIC, JSON, JSONB = 23, 25, 1700, 114, 3802
ORDERS = wire.relation(1, "orders", [("id", INT4), ("status", TEXT), ("total", NUMERIC)])


def decoded(decoder: Decoder, *messages: bytes) -> Any:
    """The last event."""
    return [decoder.decode(message) for message in messages][-1]


def by_name(row: msgspec.Struct) -> dict[str, Any]:
    """A row struct under the names that msgspec writes."""
    return {field.encode_name: getattr(row, field.name) for field in msgspec.structs.fields(type(row))}


def test_struct_rows() -> None:
    """A class made for the table: attributes, equality, a readable repr, JSON without what was not sent."""
    decoder = Decoder()
    event = decoded(decoder, ORDERS, wire.insert(1, ["1", "new", "9.90"]))
    assert isinstance(event.new, msgspec.Struct)
    assert by_name(event.new) == {"id": 1, "status": "new", "total": Decimal("9.90")}
    assert "orders" in type(event.new).__name__.lower()
    assert "status='new'" in repr(event.new)
    assert event.new == decoder.decode(wire.insert(1, ["1", "new", "9.90"])).new  # type: ignore[union-attr]
    assert (event.schema, event.table, event.action) == ("public", "orders", "insert")
    key = decoded(decoder, wire.delete(1, ["1", None, None])).old
    assert key.status is UNSET
    assert msgspec.json.decode(msgspec.json.encode(key)) == {"id": 1}
    assert json.loads(msgspec.json.encode(event.new)) == {"id": 1, "status": "new", "total": "9.90"}


def test_dict_and_tuple_rows() -> None:
    """The same row in the other two kinds; what was not sent is UNSET in both."""
    row = wire.insert(1, ["1", "new", None])
    key = wire.delete(1, ["1", None, None])
    assert decoded(Decoder(rows="dict"), ORDERS, row).new == {"id": 1, "status": "new", "total": None}
    assert decoded(Decoder(rows="dict"), ORDERS, key).old == {"id": 1, "status": UNSET, "total": UNSET}
    assert decoded(Decoder(rows="tuple"), ORDERS, row).new == (1, "new", None)
    assert decoded(Decoder(rows="tuple"), ORDERS, key).old == (1, UNSET, UNSET)


class Order(msgspec.Struct):
    """A user's class: one column is left out, one field the table does not have."""

    id: int
    status: str | UnsetType | None = UNSET
    note: str = "default"
    tags: list[str] = []


def test_the_rows_class_in_brackets() -> None:
    """For annotations that are looked up, and to call: it is the same class."""
    for generic in (Decoder[Order], RowFormat[Order]):
        made = generic(types={"orders": Order})
        assert type(made) is get_origin(generic)
    assert decoded(Decoder[Order](types={"orders": Order}), ORDERS, wire.insert(1, ["1", "new", None])).new.id == 1


class Checked(msgspec.Struct):
    """A class whose annotations name what is imported for type checkers only."""

    id: "Nowhere"  # type: ignore[name-defined]  # noqa: F821, UP037
    status: "Nowhere" = "none"  # type: ignore[name-defined]  # noqa: F821, UP037


def test_annotations_are_not_looked_up() -> None:
    """As `if TYPE_CHECKING:` imports leave them."""
    decoder = Decoder(types={"orders": Checked})
    assert decoded(decoder, ORDERS, wire.insert(1, ["1", "new", None])).new == Checked(1, "new")
    with pytest.raises(ConfigError, match="required field id"):
        decoded(decoder, wire.relation(1, "orders", [("status", TEXT)]), wire.insert(1, ["new"]))


@pytest.mark.parametrize("name", ["public.orders", "orders"])
def test_rows_of_the_users_own_class(name: str) -> None:
    """Extra columns are left out, missing ones keep their default (a factory makes a new one each time)."""
    decoder = Decoder(types={name: Order})
    row = decoded(decoder, ORDERS, wire.insert(1, ["1", "new", "9.90"])).new
    other = decoded(decoder, wire.insert(1, ["1", "new", "9.90"])).new
    assert type(row) is Order
    assert row == Order(1, "new")
    row.tags.append("mine")
    assert other.tags == []
    assert decoded(decoder, wire.delete(1, ["7", None, None])).old == Order(7, UNSET)
    moved = decoded(decoder, wire.relation(1, "orders", [("status", TEXT), ("id", INT4)]), wire.insert(1, ["s", "3"]))
    assert moved.new == Order(3, "s"), "fields are found by name, wherever the column stands"


def test_the_users_class_may_be_frozen_keyword_only_and_renamed() -> None:
    """All that msgspec offers for a struct; a column is found by the name that msgspec would write."""

    class Frozen(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename={"order_id": "id"}):
        status: str
        order_id: int

    row = decoded(Decoder(types={"orders": Frozen}), ORDERS, wire.insert(1, ["1", "new", None])).new
    assert row == Frozen(status="new", order_id=1)
    assert hash(row) == hash(Frozen(status="new", order_id=1))


def test_a_field_without_default_that_the_table_lacks_is_refused() -> None:
    """With one sentence that names the field; never a half-made struct."""

    class Strict(msgspec.Struct):
        id: int
        missing: str

    decoder = Decoder(types={"orders": Strict})
    with pytest.raises((ConfigError, DecodeError), match="missing"):
        decoded(decoder, ORDERS, wire.insert(1, ["1", "new", None]))


def test_a_class_for_another_schema_is_not_used() -> None:
    """`"shop.orders"` is not public.orders."""
    row = decoded(Decoder(types={"shop.orders": Order}), ORDERS, wire.insert(1, ["1", "new", None])).new
    assert type(row) is not Order


@pytest.mark.parametrize(
    "arguments",
    [
        {"rows": "list"},
        {"json": "fast"},
        {"out_of_range": "clamp"},
        {"types": {"orders": dict}},
        {"types": {"orders": dict[str, int]}},
        {"types": {"orders": 1}},
        {"types": [Order]},
        {"types": {"orders": Order}, "rows": "dict"},
    ],
)
def test_settings_that_are_none(arguments: dict[str, Any]) -> None:
    """A ConfigError, at once, which says what there is or has a hint that does."""
    for configured in (Decoder, RowFormat):
        with pytest.raises(ConfigError) as caught:
            configured(**arguments)
        assert caught.value.hint or " none of " in str(caught.value) or " neither " in str(caught.value)


T = TypeVar("T")


class Owned(msgspec.Struct, Generic[T]):
    """A row class with a parameter."""

    id: T
    status: str | None = None


@pytest.mark.parametrize("own", [Owned, Owned[int], Owned[T]])  # type: ignore[valid-type]
def test_the_users_class_may_be_generic(own: Any) -> None:
    """With or without its parameter, which is for type checkers."""
    row = decoded(Decoder(types={"orders": own}), ORDERS, wire.insert(1, ["1", "new", None])).new
    assert row == Owned(1, "new")
    typed: Decoder[Owned[int]] = Decoder(types={"orders": Owned[int]})
    assert isinstance(typed, Decoder)


def test_a_row_that_its_class_refuses() -> None:
    """The error says which table and class, not a column that nobody knows; what the class said is its cause."""

    class Picky(msgspec.Struct):
        id: int

        def __post_init__(self) -> None:
            if self.id == 13:
                raise ValueError("not thirteen")

    decoder = Decoder(types={"orders": Picky})
    decoder.decode(ORDERS)
    with pytest.raises(InvalidValue) as caught:
        decoder.decode(wire.insert(1, ["13", "new", None]))
    name = Picky.__qualname__
    assert str(caught.value) == f"Insert of public.orders: the row's class {name} refused it"
    assert caught.value.reason == f"the row's class {name} refused it"
    assert (caught.value.field, caught.value.table) == ("", "public.orders")
    assert repr(caught.value.__cause__) == "ValueError('not thirteen')"
    assert "__cause__" in (caught.value.hint or "")
    assert decoder.decode(wire.insert(1, ["14", "new", None])).new.id == 14  # type: ignore[union-attr]


@pytest.mark.parametrize("rows", ["struct", "dict", "tuple"])
def test_names_that_are_not_utf_8(rows: Any) -> None:
    """A database in SQL_ASCII sends what it has; its rows are decoded like others, and nobody else's are lost."""
    relation = wire.relation(1, "odd", [("id", INT4), ("na_me", INT4)]).replace(b"odd", b"\xd7d").replace(b"_", b"\xf6")
    events: list[Any] = Decoder(rows).decode_many([relation, wire.insert(1, ["1", "2"]), wire.begin(5)])
    assert [type(event).__name__ for event in events] == ["Relation", "Insert", "Begin"]
    insert = events[1]
    assert insert.table == "\udcd7d"
    assert [column.name for column in insert.relation.columns] == ["id", "na\udcf6me"]
    if rows == "struct":
        assert msgspec.json.encode(insert.new) == b'{"id":1,"na_me":2}'
    elif rows == "dict":
        assert insert.new == {"id": 1, "na\udcf6me": 2}
    else:
        assert insert.new == (1, 2)


def test_a_class_with_fields_in_another_order() -> None:
    """Each field gets its own column, also when some columns are left out."""

    class Backwards(msgspec.Struct):
        status: str | None
        id: int

    row = decoded(Decoder(types={"orders": Backwards}), ORDERS, wire.insert(1, ["1", "new", None])).new
    assert (row.id, row.status) == (1, "new")


NAMES = [
    "class",
    "1st",
    "näme",
    "a b",
    "self",
    "__init__",
    "__class__",
    "_x",
    "new",
    "漢字",
    'q"uote',
    "a.b",
    "None",
    "l" * 63,
    "%",
    "*",
    "+",
    "😀",
    "__",
]


@pytest.mark.parametrize("rows", ["struct", "dict", "tuple"])
def test_column_names_that_are_no_identifiers(rows: Any) -> None:
    """PostgreSQL allows any name; no row is lost over it, and what msgspec writes has the column's own name."""
    relation = wire.relation(1, "odd", [(name, INT4) for name in NAMES])
    row = decoded(Decoder(rows), relation, wire.insert(1, [str(number) for number in range(len(NAMES))])).new
    expected = {name: number for number, name in enumerate(NAMES)}
    if rows == "struct":  # msgspec writes field names as they are, so it has none that would need an escape
        expected = {name.replace('"', "_"): number for name, number in expected.items()}
    if rows == "struct":
        assert by_name(row) == expected
        assert msgspec.json.decode(msgspec.json.encode(row)) == expected
        assert getattr(row, "a b", None) == 3 or "a b" in by_name(row)
        assert row._x == 7
    elif rows == "dict":
        assert row == expected
    else:
        assert row == tuple(range(len(NAMES)))


@pytest.mark.parametrize("rows", ["struct", "dict", "tuple"])
@pytest.mark.parametrize("count", [0, 1, 1600])
def test_tables_of_any_width(rows: Any, count: int) -> None:
    """No column at all, and as many as a table can have."""
    relation = wire.relation(1, "wide", [(f"c{number}", INT4) for number in range(count)])
    row = decoded(Decoder(rows), relation, wire.insert(1, [str(number) for number in range(count)])).new
    values = list(row.values()) if rows == "dict" else list(row) if rows == "tuple" else list(by_name(row).values())
    assert values == list(range(count))


@pytest.mark.parametrize("oid", [JSON, JSONB])
@pytest.mark.parametrize("binary", [False, True])
def test_json_modes(oid: int, binary: bool) -> None:
    """Decoded, raw bytes for msgspec, or text: the same document from both forms."""
    document = '{"a": [1, 1.5, "ä", null, true, 0.1000000000000000055]}'
    sent: wire.Field = document
    if binary:
        sent = (b"\x01" if oid == JSONB else b"") + document.encode()
    relation = wire.relation(1, "j", [("doc", oid)])

    def value(mode: Any) -> Any:
        return decoded(Decoder(rows="dict", json=mode), relation, wire.insert(1, [sent])).new["doc"]

    assert value("decode") == {"a": [1, 1.5, "ä", None, True, Decimal("0.1000000000000000055")]}
    assert value("text") == document
    raw = value("raw")
    assert isinstance(raw, msgspec.Raw)
    assert bytes(raw) == document.encode()
    assert msgspec.json.encode({"doc": raw}) == b'{"doc":' + document.encode() + b"}"
    for mode in ("decode", "raw", "text"):
        null = decoded(Decoder(rows="dict", json=mode), relation, wire.insert(1, [None])).new["doc"]
        assert null is None


def test_what_a_catalog_says_of_user_types() -> None:
    """Without an entry as sent; with one a domain is its base type, an enum its label, an array a list."""
    relation = wire.relation(1, "u", [("d", 16400), ("e", 16401), ("a", 16402)])
    label_array = b"\0\0\0\1\0\0\0\0" + (16401).to_bytes(4, "big") + b"\0\0\0\1\0\0\0\1\0\0\0\3sad"
    binary = wire.insert(1, [b"\0\0\0\7", b"sad", label_array])
    text = wire.insert(1, ["7", "sad", "{sad}"])

    bare = Decoder(rows="tuple")
    assert decoded(bare, relation, text).new == ("7", "sad", "{sad}")
    assert decoded(bare, binary).new == (b"\0\0\0\7", b"sad", label_array)

    catalog = TypeCatalog()
    assert catalog.knows(INT4)
    assert not catalog.knows(16400)
    catalog.add(16400, "seven", base=INT4)
    catalog.add(16401, "mood", enum=True)
    catalog.add(16402, "_mood", element=16401)
    assert catalog.knows(16400) and catalog.knows(16401) and catalog.knows(16402)
    decoder = Decoder("tuple", catalog=catalog)
    assert decoded(decoder, relation, text).new == (7, "sad", ["sad"])
    assert decoded(decoder, binary).new == (7, "sad", ["sad"])
    for wrong in ({}, {"base": 23, "enum": True}):
        with pytest.raises(ConfigError):
            catalog.add(16410, "wrong", **wrong)  # type: ignore[arg-type]


def test_events_of_made_classes_are_collected() -> None:
    """A decoder that is dropped takes its classes along, so a process that makes many does not grow."""

    def live() -> int:
        gc.collect()
        return sum(1 for item in gc.get_objects() if isinstance(item, type) and issubclass(item, msgspec.Struct))

    def use() -> None:
        for number in range(20):
            decoded(Decoder(), wire.relation(1, f"t{number}", [("id", INT4)]), wire.insert(1, ["1"]))

    use()
    before = live()
    use()
    assert live() <= before


def test_match_reads_like_the_manual() -> None:
    """The way events are meant to be taken apart."""
    decoder = Decoder(types={"orders": Order})
    said = []
    for message in (ORDERS, wire.begin(), wire.insert(1, ["1", "new", None]), wire.commit()):
        match decoder.decode(message):
            case Insert(new=Order(id=id_, status=status)):
                said.append((id_, status))
            case Update() | Delete():
                raise AssertionError
            case _:
                pass
    assert said == [(1, "new")]
    change: Change[Order] = decoded(decoder, wire.insert(1, ["2", "new", None]))
    assert isinstance(change, Insert)


def test_a_whole_copydata_frame_is_told_from_a_message() -> None:
    """The likeliest mistake of who has a replication cursor that does not cut frames."""
    frame = wire.xlogdata(wire.begin(), 7)
    with pytest.raises(DecodeError, match="unknown message kind 'w'") as caught:
        Decoder().decode(frame)
    assert "first 25 bytes" in (caught.value.hint or "")
    assert isinstance(Decoder().decode(frame[25:]), Begin)
    with pytest.raises(DecodeError, match="unknown message kind '!'") as caught:
        Decoder().decode(b"!")
    assert caught.value.hint is None
