"""What a plan says of writers: UPDATE and DELETE are refused by the server exactly where it was foretold."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import psycopg

from pgcdc.replication import Publication, PublicationTable

if TYPE_CHECKING:
    from pgcdc.replication import Connection
    from tests.conftest import Database

IDENTITIES = {
    "no key": ("ALTER TABLE t DROP CONSTRAINT t_pkey",),
    "the key": (),
    "nothing": ("ALTER TABLE t REPLICA IDENTITY NOTHING",),
    "full": ("ALTER TABLE t REPLICA IDENTITY FULL",),
    "an index": (
        "CREATE UNIQUE INDEX other ON t (b, a) INCLUDE (c)",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX other",
    ),
    "an index that is gone": (
        "CREATE UNIQUE INDEX other ON t (b)",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX other",
        "DROP INDEX other",
    ),
    "a key that is checked late": (
        "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD CONSTRAINT t_pkey PRIMARY KEY (a) DEFERRABLE",
    ),
}
COLUMNS = (None, ["a"], ["c", "b", "a"], ["b"])
FILTERS = (None, "a > 0", "c > 0 AND a > 0")


def refused(writer: psycopg.Connection[Any]) -> set[str]:
    """The actions that the server refuses because of a publication."""
    actions = set()
    for action, statement in (("update", "UPDATE t SET c = c"), ("delete", "DELETE FROM t")):
        try:
            writer.execute(statement)
        except (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.InvalidColumnReference):
            actions.add(action)
    return actions


def foretold(connection: Connection, wanted: Publication) -> set[str]:
    """The actions that a plan says will be refused; it is applied."""
    plan = connection.plan_publication(wanted)
    connection.apply(plan)
    failing = [warning for warning in plan.warnings if warning.kind == "writes_fail"]
    assert len(failing) <= 1
    return {action for action in ("update", "delete") if failing and action.upper() in failing[0].says}


def check(connection: Connection, writer: psycopg.Connection[Any], *setup: str, **options: Any) -> set[str]:
    """Whether what is foretold is what happens, with every list of columns and filter that the version knows."""
    lists = connection.server_version >= 150000
    seen: set[str] = set()
    for columns, where in itertools.product(COLUMNS if lists else [None], FILTERS if lists else [None]):
        for statement in ("DROP PUBLICATION IF EXISTS p", "DROP TABLE IF EXISTS t CASCADE", *setup):
            writer.execute(statement)
        wanted = Publication("p", [PublicationTable("t", columns, where)], **options)
        expected = foretold(connection, wanted)
        assert expected == refused(writer), (setup, wanted)
        seen |= expected
    return seen


TABLE = "CREATE TABLE t (a int NOT NULL, b int NOT NULL, c int, PRIMARY KEY (a))"


def test_what_will_be_refused_is_foretold(connection: Connection, database: Database) -> None:
    with database.connect() as writer:
        seen = {name: check(connection, writer, TABLE, *alter) for name, alter in IDENTITIES.items()}
        assert seen["no key"] == {"update", "delete"}
        assert seen["the key"] == (set() if connection.server_version < 150000 else {"update", "delete"})
        nothing = IDENTITIES["nothing"]
        assert check(connection, writer, TABLE, *nothing, publish=["insert"]) == set()
        assert check(connection, writer, TABLE, *nothing, publish=["insert", "delete"]) == {"delete"}


PARTITIONS = (
    "CREATE TABLE t (a int NOT NULL, b int NOT NULL, c int, PRIMARY KEY (a)) PARTITION BY RANGE (a)",
    "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
)


def test_partitions_have_identities_of_their_own(connection: Connection, database: Database) -> None:
    with database.connect() as writer:
        root = {"publish_via_partition_root": True}
        check(connection, writer, *PARTITIONS, **root)
        check(connection, writer, *PARTITIONS, "ALTER TABLE t_1 REPLICA IDENTITY FULL", **root)
        check(connection, writer, *PARTITIONS, "ALTER TABLE t REPLICA IDENTITY FULL", **root)
        # The identity of the partitioned table itself plays no part.
        nothing = check(connection, writer, *PARTITIONS, "ALTER TABLE t_1 REPLICA IDENTITY NOTHING", **root)
        assert nothing == {"update", "delete"}


def test_generated_columns_in_an_identity(connection: Connection, database: Database) -> None:
    table = "CREATE TABLE t (a int NOT NULL, b int NOT NULL GENERATED ALWAYS AS (a * 2) STORED, c int)"
    index = ("CREATE UNIQUE INDEX other ON t (b)", "ALTER TABLE t REPLICA IDENTITY USING INDEX other")
    with database.connect() as writer:
        for statement in (table, *index):
            writer.execute(statement)
        expected = foretold(connection, Publication("p", [PublicationTable("t")]))
        assert expected == refused(writer)
        assert expected == ({"update", "delete"} if connection.server_version >= 180000 else set())
        if connection.server_version >= 180000:
            stored = Publication("p", [PublicationTable("t")], publish_generated_columns="stored")
            assert foretold(connection, stored) == set() == refused(writer)


def test_what_fails_already_is_not_said_again(connection: Connection, database: Database) -> None:
    database.execute(TABLE, *IDENTITIES["no key"], "CREATE TABLE u (a int PRIMARY KEY)")
    assert foretold(connection, Publication("p", [PublicationTable("t")])) == {"update", "delete"}
    assert foretold(connection, Publication("p", [PublicationTable("t"), PublicationTable("u")])) == set()
    inserts = Publication("p", [PublicationTable("t"), PublicationTable("u")], publish=["insert"])
    assert foretold(connection, inserts) == set()
    assert foretold(connection, Publication("p", [PublicationTable("t"), PublicationTable("u")])) == {
        "update",
        "delete",
    }
