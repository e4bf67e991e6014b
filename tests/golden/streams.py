"""The workload behind the captures of streamed and prepared transactions: two sessions, and what only protocols 2 to 4 show.

The server streams what outgrows `logical_decoding_work_mem`. Rows of `filler`, which is not published, fill it: so the
transactions become large for the server and their captures stay small.
"""

from __future__ import annotations

__all__ = ["PUBLICATION", "Step", "setup", "steps"]

PUBLICATION = "streams"

Step = tuple[str, str]
"""A session's name and a statement."""

FILL = "INSERT INTO filler SELECT i FROM generate_series(1, 700) i"
"""A little more than 64 kB in the server's memory."""


def setup(version: int) -> list[str]:
    """The tables and the publication, before any slot is made.

    Args:
        version: PostgreSQL's major version.

    Returns:
        Statements.
    """
    # Lists of columns and filters of rows came with 15, publishing generated columns with 18.
    some_columns = " (id, small)" if version >= 15 else ""
    some_rows = " WHERE (id < 100)" if version >= 15 else ""
    generated = ", publish_generated_columns = stored" if version >= 18 else ""
    published = [
        "one",
        "two",
        "toasted",
        "whole",
        "by_index",
        "nothing",
        "moods",
        "generated",
        "measured",
        "moved.shop",
        f"listed{some_columns}",
        f"filtered{some_rows}",
    ]
    return [
        "CREATE SCHEMA moved",
        "CREATE TABLE filler (i int)",
        "CREATE TABLE one (id int PRIMARY KEY, v text)",
        "CREATE TABLE two (id int PRIMARY KEY, n numeric, at timestamptz)",
        "CREATE TABLE toasted (id int PRIMARY KEY, small text, big text)",
        "ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL",
        "CREATE TABLE whole (a int, b text)",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        "CREATE TABLE by_index (a int NOT NULL, b text)",
        "CREATE UNIQUE INDEX by_index_a ON by_index (a)",
        "ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_a",
        "CREATE TABLE nothing (a int)",
        "ALTER TABLE nothing REPLICA IDENTITY NOTHING",
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE TABLE moods (id int PRIMARY KEY, feeling mood)",
        "CREATE TABLE generated (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED)",
        "CREATE TABLE measured (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)",
        "CREATE TABLE measured_low PARTITION OF measured FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE measured_high (v int, id int NOT NULL)",
        "ALTER TABLE measured ATTACH PARTITION measured_high FOR VALUES FROM (100) TO (200)",
        "CREATE TABLE moved.shop (id int PRIMARY KEY)",
        "CREATE TABLE listed (id int PRIMARY KEY, small text, secret text)",
        "CREATE TABLE filtered (id int PRIMARY KEY, v text)",
        f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {', '.join(published)}"
        f" WITH (publish_via_partition_root = true{generated})",
        "SELECT pg_replication_origin_create('elsewhere ✓')",
    ]


def transactions() -> list[Step]:
    """Pieces, sub-transactions that are rolled back, two transactions in turn, logical messages, an origin."""
    return [
        ("a", "INSERT INTO one VALUES (1, 'small')"),
        # Sub-transactions: one kept, one rolled back, one inside one that is rolled back, one without changes.
        ("a", "BEGIN"),
        ("a", "INSERT INTO one VALUES (2, 'whole transaction')"),
        ("a", "SAVEPOINT kept"),
        ("a", "INSERT INTO one VALUES (3, 'kept')"),
        ("a", "RELEASE kept"),
        ("a", FILL),
        ("a", "SAVEPOINT lost"),
        ("a", "INSERT INTO two VALUES (1, 1.50, '2024-01-01 00:00:00+00')"),
        ("a", "SAVEPOINT inside"),
        ("a", "INSERT INTO two VALUES (2, 'NaN', 'infinity')"),
        ("a", "SELECT pg_logical_emit_message(true, 'lost', 'in a sub-transaction')"),
        ("a", FILL),
        ("a", "ROLLBACK TO lost"),
        ("a", "UPDATE one SET v = 'changed' WHERE id = 2"),
        ("a", "SAVEPOINT idle"),
        ("a", "INSERT INTO filler VALUES (0)"),
        ("a", "ROLLBACK TO idle"),
        ("a", "INSERT INTO two VALUES (3, -1, NULL)"),
        ("a", "SELECT pg_logical_emit_message(true, 'inside', 'of a stream')"),
        ("a", "SELECT pg_logical_emit_message(false, 'outside', 'of the stream')"),
        ("a", FILL),
        ("a", "DELETE FROM one WHERE id = 1"),
        ("a", "UPDATE one SET id = 20 WHERE id = 3"),
        ("a", "COMMIT"),
        # Two in turn, of which one is rolled back, and a small one between them.
        ("a", "BEGIN"),
        ("b", "BEGIN"),
        ("a", "INSERT INTO one VALUES (4, 'a')"),
        ("b", "INSERT INTO one VALUES (5, 'b')"),
        ("a", FILL),
        ("b", FILL),
        ("c", "INSERT INTO one VALUES (6, 'c')"),
        ("b", "INSERT INTO two VALUES (5, 5, NULL)"),
        ("a", "INSERT INTO two VALUES (4, 4, NULL)"),
        ("b", FILL),
        ("a", FILL),
        ("a", "ROLLBACK"),
        ("b", "COMMIT"),
        # Nothing of this one is published.
        ("a", "BEGIN"),
        ("a", FILL),
        ("a", FILL),
        ("a", "COMMIT"),
        ("a", "SELECT pg_replication_origin_session_setup('elsewhere ✓')"),
        ("a", "BEGIN"),
        ("a", "SELECT pg_replication_origin_xact_setup('16/B374D848', '2024-01-01 00:00:00+00')"),
        ("a", "INSERT INTO one VALUES (7, 'from elsewhere')"),
        ("a", FILL),
        ("a", "COMMIT"),
        ("a", "INSERT INTO one VALUES (8, 'from elsewhere, small')"),
        ("a", "SELECT pg_replication_origin_session_reset()"),
    ]


def shapes() -> list[Step]:
    """Relations that change while they are streamed, every replica identity, partitions, types, TRUNCATE."""
    big = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 70) i)"
    return [
        # An ALTER TABLE that is rolled back, one that is kept, and rows after each.
        ("a", "BEGIN"),
        ("a", "INSERT INTO two VALUES (10, 10, NULL)"),
        ("a", FILL),
        ("a", "SAVEPOINT altered"),
        ("a", "ALTER TABLE two ADD COLUMN lost text"),
        ("a", "INSERT INTO two VALUES (11, 11, NULL, 'lost')"),
        ("a", FILL),
        ("a", "ROLLBACK TO altered"),
        ("a", "INSERT INTO two VALUES (12, 12, NULL)"),
        ("a", FILL),
        ("a", "COMMIT"),
        # Another transaction: PostgreSQL does not find the table any more ("could not map filenumber") when one alters it
        # again after a rollback to a savepoint and is streamed.
        ("a", "BEGIN"),
        ("a", "INSERT INTO two VALUES (9, 9, NULL)"),
        ("a", FILL),
        ("a", "ALTER TABLE two ADD COLUMN more text"),
        ("a", "INSERT INTO two VALUES (13, 13, NULL, 'more')"),
        ("a", FILL),
        ("a", "COMMIT"),
        ("a", "INSERT INTO two VALUES (14, 14, NULL, 'after')"),
        ("a", "BEGIN"),
        ("a", "ALTER TABLE two DROP COLUMN n"),
        ("a", "INSERT INTO two VALUES (15, NULL, 'lost')"),
        ("a", FILL),
        ("a", "ROLLBACK"),
        ("a", "INSERT INTO two VALUES (16, 16, NULL, 'as before')"),
        # Every replica identity, values stored out of line, user-defined types, partitions, lists and filters.
        ("a", "BEGIN"),
        ("a", f"INSERT INTO toasted VALUES (1, 'a', {big})"),
        ("a", FILL),
        ("a", "UPDATE toasted SET small = 'aa'"),
        ("a", "INSERT INTO whole VALUES (1, 'x'), (2, NULL)"),
        ("a", "UPDATE whole SET b = 'y' WHERE a = 1"),
        ("a", "DELETE FROM whole WHERE a = 2"),
        ("a", "INSERT INTO by_index VALUES (1, 'x')"),
        ("a", "UPDATE by_index SET a = 2"),
        ("a", "DELETE FROM by_index"),
        ("a", "INSERT INTO nothing VALUES (NULL)"),
        ("a", "INSERT INTO moods VALUES (1, 'ok')"),
        ("a", "INSERT INTO generated VALUES (1, 21)"),
        ("a", "INSERT INTO measured VALUES (1, 10), (150, 20)"),
        ("a", "UPDATE measured SET id = 151 WHERE id = 1"),
        ("a", FILL),
        ("a", "INSERT INTO listed VALUES (1, 'seen', 'not seen')"),
        ("a", "UPDATE listed SET secret = 'not seen either'"),
        ("a", "INSERT INTO filtered VALUES (1, 'seen'), (100, 'not seen')"),
        ("a", "UPDATE filtered SET id = 2 WHERE id = 100"),
        ("a", "UPDATE filtered SET id = 101 WHERE id = 1"),
        ("a", FILL),
        ("a", "TRUNCATE measured_low"),
        ("a", "TRUNCATE measured"),
        ("a", "TRUNCATE whole, by_index RESTART IDENTITY CASCADE"),
        ("a", "COMMIT"),
        ("a", "INSERT INTO moved.shop VALUES (1)"),
        ("a", "ALTER SCHEMA moved RENAME TO renamed"),
        ("a", "INSERT INTO renamed.shop VALUES (2)"),
    ]


def two_phases() -> list[Step]:
    """Prepared transactions: small, streamed and empty ones, committed and rolled back, others committed meanwhile."""
    return [
        ("a", "BEGIN"),
        ("a", "INSERT INTO one VALUES (30, 'prepared')"),
        ("a", "PREPARE TRANSACTION 'small ✓'"),
        ("b", "INSERT INTO one VALUES (31, 'meanwhile')"),
        ("a", "BEGIN"),
        ("a", "INSERT INTO one VALUES (32, 'prepared, to be rolled back')"),
        ("a", "PREPARE TRANSACTION 'lost'"),
        ("a", "COMMIT PREPARED 'small ✓'"),
        ("a", "ROLLBACK PREPARED 'lost'"),
        ("a", "BEGIN"),
        ("a", "INSERT INTO one VALUES (33, 'streamed')"),
        ("a", FILL),
        ("a", "SAVEPOINT s"),
        ("a", "INSERT INTO one VALUES (34, 'rolled back in a stream')"),
        ("a", FILL),
        ("a", "ROLLBACK TO s"),
        ("a", "INSERT INTO two VALUES (33, 33, NULL, NULL)"),
        ("a", "PREPARE TRANSACTION 'streamed'"),
        ("b", "INSERT INTO two VALUES (35, 35, NULL, NULL)"),
        ("a", "COMMIT PREPARED 'streamed'"),
        ("a", "INSERT INTO two VALUES (36, 36, NULL, NULL)"),
        ("a", "BEGIN"),
        ("a", "INSERT INTO one VALUES (37, 'streamed, to be rolled back')"),
        ("a", FILL),
        ("a", "PREPARE TRANSACTION 'streamed and lost'"),
        ("a", "ROLLBACK PREPARED 'streamed and lost'"),
        ("a", "BEGIN"),
        ("a", "INSERT INTO filler VALUES (0)"),
        ("a", "PREPARE TRANSACTION 'empty'"),
        ("a", "COMMIT PREPARED 'empty'"),
        ("a", "BEGIN"),
        ("a", "SELECT pg_replication_origin_session_setup('elsewhere ✓')"),
        ("a", "INSERT INTO one VALUES (38, 'from elsewhere')"),
        ("a", "PREPARE TRANSACTION 'origin'"),
        ("a", "COMMIT PREPARED 'origin'"),
        ("a", "SELECT pg_replication_origin_session_reset()"),
        ("a", "INSERT INTO one VALUES (39, 'the end')"),
    ]


def steps() -> list[Step]:
    """The whole workload, in order; each statement outside BEGIN … COMMIT is a transaction."""
    return transactions() + shapes() + two_phases()
