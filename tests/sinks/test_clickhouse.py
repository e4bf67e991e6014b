"""The sink ClickHouse against the server's engine (chdb): the contract, and what is special to it."""

from __future__ import annotations

import contextlib
import json
import random
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar
from zlib import crc32

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from pgcdc import ConfigError, Pipeline, SinkError, SinkRejected, SinkUnavailable
from pgcdc.schema import change_of
from pgcdc.sinks import ClickHouse
from pgcdc.testing import delete, insert, transaction, truncate, update
from pgcdc.testing.changes import Table
from pgcdc.testing.contracts import SinkContract
from tests.pipeline.running import running
from tests.servers.proxy import Proxy
from tests.sinks.search import ORDERS, batch_of, order

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from pgcdc.sink import Sink
    from tests.conftest import Database
    from tests.servers.clickhouse import ClickHouseServer


def rows(server: ClickHouseServer, table: str, final: str = "FINAL") -> list[dict[str, Any]]:
    """What a query finds."""
    answer = server.query(
        f"SELECT * FROM {table} {final} SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT JSONEachRow"
    )
    return [json.loads(line, parse_float=Decimal) for line in answer.splitlines()]


def state(server: ClickHouseServer, table: str) -> dict[Any, dict[str, Any]]:
    """Rows by id, without what the sink adds."""
    return {
        row["id"]: {name: value for name, value in row.items() if not name.startswith("pgcdc_")}
        for row in rows(server, table)
    }


@contextlib.asynccontextmanager
async def opened(sink: ClickHouse) -> AsyncIterator[ClickHouse]:
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


@pytest.fixture
def database(clickhouse: ClickHouseServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of the test's own."""
    name = re.sub(r"[^a-z0-9]+", "_", request.node.name.lower())[:60]
    clickhouse.query(f"CREATE DATABASE {name}")
    yield name
    clickhouse.query(f"DROP DATABASE {name}")


class Prompt(ClickHouse):
    """It does not wait for more, as tests have no more."""

    defaults: ClassVar[dict[str, Any]] = {}


class TestContract(SinkContract):
    server: ClassVar[ClickHouseServer]
    proxy: ClassVar[Proxy]
    refused: ClassVar[dict[str, Any]] = {"id": 9, "name": "x", "amount": "NaN", "note": None}
    without: ClassVar[dict[str, str]] = {"renamed": "a new name is a new column"}

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def engine(cls, clickhouse: ClickHouseServer) -> Iterator[None]:
        clickhouse.query("CREATE DATABASE contract")
        cls.server = clickhouse
        with Proxy(clickhouse.port) as proxy:
            cls.proxy = proxy
            yield
        clickhouse.query("DROP DATABASE contract")

    def name(self, place: Path) -> str:
        return f"t{crc32(str(place).encode()):08x}"

    def make_sink(self, place: Path) -> Sink:
        return Prompt(f"http://127.0.0.1:{self.proxy.port}", database="contract", table=self.name(place))

    def content(self, place: Path) -> Any:
        if self.server.query(f"EXISTS TABLE contract.{self.name(place)}") == "0\n":
            return {}
        return {
            id: row | {name: Decimal(row[name]) for name in ("amount", "discount") if row.get(name) is not None}
            for id, row in state(self.server, f"contract.{self.name(place)}").items()
        }

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        self.proxy.refuse = True
        self.proxy.reset()
        try:
            yield
        finally:
            self.proxy.refuse = False

    @contextlib.contextmanager
    def busy(self, place: Path) -> Iterator[None]:
        self.proxy.hole = True
        try:
            yield
        finally:
            self.proxy.hole = False


# Positions.


async def test_the_position_is_the_version_and_nothing_older_counts(
    clickhouse: ClickHouseServer, database: str
) -> None:
    whole = batch_of(
        transaction(insert(ORDERS, order(1)), update(ORDERS, order(1, "paid"))),
        insert(ORDERS, order(2)),
        delete(ORDERS, order(2)),
        truncate(ORDERS),
        insert(ORDERS, order(3)),
    )
    async with opened(ClickHouse(clickhouse.url, database=database)) as sink:
        await sink.write(whole.take([0, 1]))
        position = whole.take([1]).first_position
        assert position is not None
        [row] = rows(clickhouse, f"{database}.orders")
        number = position.commit_lsn << 32 | position.index + 1
        assert row == {**order(1, "paid"), "pgcdc_position": number, "pgcdc_deleted": 0}
        await sink.write(whole.take([0]))
        assert state(clickhouse, f"{database}.orders") == {1: order(1, "paid")}
        await sink.write(whole.take([2, 3]))
        await sink.write(whole.take([2]))
        assert set(state(clickhouse, f"{database}.orders")) == {1}
        await sink.write(whole.take([5]))
        for _ in range(2):
            await sink.write(whole.take([4]))
        await sink.write(whole.take([0, 1, 2]))
    clickhouse.query(f"OPTIMIZE TABLE {database}.orders FINAL")
    assert state(clickhouse, f"{database}.orders") == {3: order(3)}


async def test_what_is_from_before_a_truncate_is_no_row(clickhouse: ClickHouseServer, database: str) -> None:
    whole = batch_of(
        insert(ORDERS, order(1)),
        transaction(insert(ORDERS, order(2)), insert(ORDERS, order(4)), truncate(ORDERS), insert(ORDERS, order(3))),
    )

    def check(*ids: int) -> None:
        assert set(state(clickhouse, f"{database}.orders")) == {*ids}

    class Killed(ClickHouse):
        async def _hold_down(self, table: Any, first: Any) -> None:
            raise SinkUnavailable("killed")

    async with (
        opened(ClickHouse(clickhouse.url, database=database)) as sink,
        opened(ClickHouse(clickhouse.url, database=database)) as stopped,
        opened(Killed(clickhouse.url, database=database)) as killed,
    ):
        for one in (sink, stopped):
            await one.write(whole.take([0]))
        with pytest.raises(SinkUnavailable):
            await killed.write(whole.take([0]))
        await sink.write(whole.take([3, 4]))
        check(3)
        for number in (1, 0):  # the one that knows of it, as with a dead letter; and one that does not
            for one in (sink, stopped):
                await one.write(whole.take([number]))
                check(3)
        with pytest.raises(SinkUnavailable):
            await killed.write(whole.take([2]))
        check(3, 4)
    async with opened(ClickHouse(clickhouse.url, database=database)) as sink:  # which finds what the killed one left
        await sink.write(whole.take([1]))
        check(3)
        await sink.write(whole.take([3]))
        check(3)
    clickhouse.query(f"DROP TABLE {database}.orders")
    async with opened(ClickHouse(clickhouse.url, database=database)) as sink:  # another table of that name
        await sink.write(whole.take([1]))
    check(2)


@pytest.mark.parametrize("form", ["state", "log"])
async def test_a_table_that_is_not_there_is_made_with_its_next_row(
    clickhouse: ClickHouseServer, database: str, form: Any
) -> None:
    """Nothing was written of it yet, it was dropped by hand, or it has another name at the source from now on."""
    wide = Table("orders", {**ORDERS.columns, "note": "varchar(9)", "more": "text"}, key=("id",))
    other = Table("sales", ORDERS.columns, key=("id",))
    whole = batch_of(insert(ORDERS, order(1)), insert(wide, order(2) | {"more": "yes"}), insert(other, order(3)))
    first, second, third = (whole.take([number]) for number in range(3))
    [old], [new], [renamed] = first.relations, second.relations, third.relations
    renamed = replace(renamed, oid=new.oid)
    for name, restarted in (("never", False), ("dropped", False), ("dropped", True)):
        table = f"{name}_{restarted}_{{table}}".lower()

        def make(table: str = table) -> ClickHouse:
            return ClickHouse(clickhouse.url, database=database, table=table, form=form)

        async with contextlib.AsyncExitStack() as stack:
            sink = await stack.enter_async_context(opened(make()))
            if name == "dropped":
                await sink.write(first)
                clickhouse.query(f"DROP TABLE {database}.{table.format(table='orders')}")
            if restarted:
                sink = await stack.enter_async_context(opened(make()))
            await sink.schema_changed(change_of(old, new, old_version=1, version=2))
            await sink.write(second)
            await sink.schema_changed(change_of(new, renamed, old_version=2, version=3))
            await sink.write(third)
        there = {one: rows(clickhouse, f"{database}.{table.format(table=one)}") for one in ("orders", "sales")}
        assert [(row["id"], row["more"]) for row in there["orders"]] == [(2, "yes")]
        assert [row["id"] for row in there["sales"]] == [3]


async def test_rows_that_change_places(clickhouse: ClickHouseServer, database: str) -> None:
    """1 becomes 2 and 2 becomes 1, by way of 3, in pieces of any size, and everything comes again."""
    start = [insert(ORDERS, order(1, note="one; two")), insert(ORDERS, order(2, note="it's \\ two"))]
    swap = transaction(
        update(ORDERS, order(3, note=UNSET), old=order(1)),
        update(ORDERS, order(1, note=UNSET), old=order(2)),
        update(ORDERS, order(2, note=UNSET), old=order(3)),
    )
    whole = batch_of(*start, swap)
    swapped = {1: order(1, note="it's \\ two"), 2: order(2, note="one; two")}
    for size in (1, 2, 5):
        async with opened(ClickHouse(clickhouse.url, database=database, table=f"orders_{size}")) as sink:
            for piece in (*whole.pieces(size), *whole.pieces(size)):
                await sink.write(piece)
        assert state(clickhouse, f"{database}.orders_{size}") == swapped


async def test_what_comes_again_finds_the_row_under_its_new_key(clickhouse: ClickHouseServer, database: str) -> None:
    """After a crash batches begin elsewhere, and another row may have the former place by then."""
    whole = batch_of(
        insert(ORDERS, order(1, note="long")),
        update(ORDERS, order(2, "moved", UNSET), old=order(1)),
        insert(ORDERS, order(1, note="another")),
        update(ORDERS, order(2, "paid", UNSET)),
        update(ORDERS, order(3, "paid", UNSET), old=order(2)),
        update(ORDERS, order(3, "sent", UNSET)),
    )
    for done, again in ((1, 1), (3, 1), (4, 1), (5, 1), (4, 3), (6, 1)):
        name = f"orders_{done}_{again}"
        async with opened(ClickHouse(clickhouse.url, database=database, table=name)) as sink:
            for piece in (whole.take([0]), whole.take(range(1, done)), whole.take(range(again, 6))):
                await sink.write(piece)
            for number in range(1, 6) if done == 6 else ():  # what is newer than an update is all that is there
                await sink.write(whole.take([number]))
        assert state(clickhouse, f"{database}.{name}") == {1: order(1, note="another"), 3: order(3, "sent", "long")}


async def test_a_log_has_each_change_once(clickhouse: ClickHouseServer, database: str) -> None:
    whole = batch_of(
        insert(ORDERS, order(1, note="long")),
        update(ORDERS, order(2, "moved", UNSET), old=order(1)),
        delete(ORDERS, order(2)),
        truncate(ORDERS),
    )
    async with opened(ClickHouse(clickhouse.url, database=database, form="log")) as sink:
        await sink.write(whole)
        await sink.write(whole.after(whole.take([0]).first_position or (0, 0)))
    found = sorted(rows(clickhouse, f"{database}.orders"), key=lambda row: row["pgcdc_position"])
    assert [row["pgcdc_action"] for row in found] == ["insert", "update", "delete", "truncate"]
    assert [row["id"] for row in found] == [1, 2, 2, 0]
    assert [row["note"] for row in found] == ["long", None, None, None]
    assert [row["pgcdc_unsent"] for row in found] == [[], ["note"], [], []]
    assert [row["pgcdc_old_key"] for row in found] == [[], ["1"], [], []]


# What is refused.


async def test_a_refused_value_is_named_and_not_told(clickhouse: ClickHouseServer, database: str) -> None:
    table = Table("prices", {"id": "int", "price": "numeric(8,2)", "on": "date"}, key=("id",))
    good = {"id": 1, "price": Decimal("1.50"), "on": "2024-02-29"}
    whole = batch_of(
        transaction(
            insert(table, good), insert(table, good | {"id": 2, "on": "infinity"}), insert(table, good | {"id": 3})
        )
    )
    async with opened(ClickHouse(clickhouse.url, database=database)) as sink:
        with pytest.raises(SinkRejected, match="in the column on: code") as caught:
            await sink.write(whole)
        position = whole.take([1]).first_position
        assert caught.value.positions == {position}
        assert "infinity" not in str(caught.value) and "infinity" not in repr(caught.value.__cause__)
        assert rows(clickhouse, f"{database}.prices") == []
        await sink.write(whole.take([0, 2]))
    assert set(state(clickhouse, f"{database}.prices")) == {1, 3}


async def test_inserts_are_not_larger_than_they_may_be(
    clickhouse: ClickHouseServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    ask = ClickHouse._ask

    async def counted(self: ClickHouse, query: str, body: bytes | None = None) -> bytes:
        sizes.extend([len(body)] if body is not None else [])
        return await ask(self, query, body)

    monkeypatch.setattr(ClickHouse, "_ask", counted)
    lines = [insert(ORDERS, order(id, "x" * 300)) for id in range(20)]
    async with opened(ClickHouse(clickhouse.url, database=database, max_bytes=1000)) as sink:
        await sink.write(batch_of(transaction(*lines, insert(ORDERS, order(20, "x" * 5000)))))
    assert len(state(clickhouse, f"{database}.orders")) == 21
    assert len(sizes) > 5 and [size for size in sizes if size > 1000] == sizes[-1:]  # the long one goes alone


async def test_tables_that_cannot_be(clickhouse: ClickHouseServer, database: str) -> None:
    keyless = Table("keyless", {"a": "text", "b": "int"}, replica_identity="f")
    other = Table("sales.orders", ORDERS.columns, key=("id",))
    rekeyed = Table("orders", ORDERS.columns, key=("id", "status"))
    async with opened(ClickHouse(clickhouse.url, database=database)) as sink:
        with pytest.raises(SinkRejected, match=r"public\.keyless have no key"):
            await sink.write(batch_of(insert(keyless, {"a": "x", "b": 1})))
        await sink.write(batch_of(insert(ORDERS, order(1))))
        with pytest.raises(ConfigError, match="would be in one table"):
            await sink.write(batch_of(insert(other, order(1))))
        with pytest.raises(SinkError, match=r"the key of public\.orders has changed"):
            await sink.write(batch_of(insert(rekeyed, order(1))))
        with pytest.raises(ConfigError, match="a name that the sink uses itself"):
            await sink.write(batch_of(insert("odd", {"id": 1, "pgcdc_deleted": 1})))
    async with opened(ClickHouse(clickhouse.url, database=database, key={"keyless": ["b"]})) as sink:
        await sink.write(batch_of(insert(keyless, {"a": "x", "b": 1})))
    with pytest.raises(ConfigError, match="has no database nowhere"):
        await ClickHouse(clickhouse.url, database="nowhere").open()


async def test_who_asks(clickhouse: ClickHouseServer, database: str) -> None:
    place = clickhouse.url.removeprefix("http://")
    async with opened(ClickHouse(f"http://pgcdc:secret@{place}", database=database)):
        pass
    wrong = ClickHouse(clickhouse.url, user="pgcdc", password="guessed", database=database)
    with pytest.raises(ConfigError, match="does not accept the user") as caught:
        await wrong.open()
    assert "guessed" not in f"{caught.value} {wrong!r}"
    with pytest.raises(SinkUnavailable, match="did not answer"):
        await ClickHouse("http://127.0.0.1:9").open()


@pytest.mark.parametrize(
    "arguments", [{"url": "clickhouse"}, {"form": "both"}, {"max_bytes": 0}, {"table": ""}, {"timeout": 0}]
)
def test_arguments_that_are_none(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ClickHouse(**{"url": "http://clickhouse:8123", **arguments})


# The whole way.


def test_the_table_is_what_the_other_is(clickhouse: ClickHouseServer, database: str, newest_database: Database) -> None:
    """Random changes from the copy on, a type that changes, and a restart in the middle."""
    newest_database.execute(
        "CREATE TABLE parts (a int, t timestamptz, big text, n numeric(10,2), o bool, u uuid, d date, f float8,"
        " j jsonb, l int[], PRIMARY KEY (a, t))",
        "ALTER TABLE parts ALTER big SET STORAGE EXTERNAL",
        "INSERT INTO parts SELECT i, to_timestamp(i % 3 + 0.5), repeat('long ', 1000) || i, i, i % 2 = 0,"
        " md5(i::text)::uuid, '2024-02-29', 'NaN', jsonb_build_object('i', i), ARRAY[i, NULL]"
        " FROM generate_series(1, 200) i",
    )
    dice = random.Random(7)

    def change() -> str:
        a = dice.randint(1, 220)
        return dice.choice(
            (
                f"UPDATE parts SET n = n + 1.5 WHERE a BETWEEN {a} AND {a + 20}",
                f"UPDATE parts SET big = repeat('other ', 800) || n, f = 1.5 WHERE a = {a}",
                f"UPDATE parts SET a = a + 1000 WHERE a = {a}",
                f"UPDATE parts SET t = t + '1 day' WHERE a BETWEEN {a} AND {a + 3}",
                f"DELETE FROM parts WHERE a BETWEEN {a} AND {a + 2}",
                f"INSERT INTO parts SELECT {a}, 'epoch', repeat('n', 5000), {a} ON CONFLICT (a, t) DO UPDATE SET n = 0",
            )
        )

    def work(times: int) -> None:
        for _ in range(times):
            newest_database.execute(";".join(change() for _ in range(dice.randint(1, 4))))

    def pipeline() -> Pipeline:
        made = Pipeline(database, newest_database.dsn, tables=["parts"])
        made.add(Prompt(clickhouse.url, database=database), name="clickhouse")
        return made

    with running(pipeline()) as run:
        work(20)
        run.streaming()
        work(20)
    work(20)
    with running(pipeline()) as run:
        newest_database.execute(
            "ALTER TABLE parts ADD extra int, ALTER n TYPE numeric(14,4)",
            "UPDATE parts SET extra = a, n = n + 0.0001 WHERE a % 7 = 0",
        )
        work(20)
        run.catch_up(newest_database)
    columns = "a, t::text, big, n::text, o, u::text, d::text, f::text, j::text, l::text, extra"
    table = set(newest_database.execute(f"SELECT {columns} FROM parts"))
    answer = clickhouse.query(
        f"SELECT a, t, big, toString(n), o, u, d, toString(f), j, l, extra FROM {database}.parts FINAL"
        " FORMAT JSONCompactEachRow"
    )
    found = set()
    for line in answer.splitlines():
        a, t, big, n, o, u, d, f, j, numbers, extra = json.loads(line)
        array = numbers and numbers.replace("[", "{").replace("]", "}").replace("null", "NULL")
        number = None if n is None else f"{Decimal(n):.4f}"
        found.add((a, t, big, number, o, u, d, f and f.replace("nan", "NaN"), j, array, extra))
    assert found == table
