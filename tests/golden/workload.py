"""The workload behind the golden captures: every everyday type with its extremes, every kind of message of protocol 1."""

from __future__ import annotations

from itertools import zip_longest

EXTREMES: dict[str, list[str]] = {
    "bool": ["t", "f"],
    "bytea": ["\\x", "\\x00ff7f80", "\\x5c2722c3a9"],
    '"char"': ["a", "", "\\", "~", '"'],
    "name": ["name", "", "ünïcödé"],
    "int8": ["0", "-1", "9223372036854775807", "-9223372036854775808"],
    "int2": ["0", "-1", "32767", "-32768"],
    "int4": ["0", "-1", "2147483647", "-2147483648"],
    "text": ["", " ", "plain", 'q"uo\'te\\', "äöü € 漢字 😀", "line\nfeed\ttab\rreturn", "NULL", "{a,b}", "x" * 300],
    "oid": ["0", "1", "4294967295"],
    "json": [
        "null",
        ' {"b": 1, "a": [true, false, null, {}], "a": 2} ',
        '"\\u00e9\\n\\ud83d\\ude00"',
        "[0.1, 0.10, 1e400, -0.0, -0, 1E5, 0.1000000000000000055, 123456789012345678901234567890]",
        "[]",
    ],
    "float4": ["0", "-0", "0.1", "1e10", "3.4028235e38", "-1e-45", "33554432", "16777216", "NaN", "Infinity", "-Infinity"]
    + ["1.17549435e-38", "8.589973e9", "1e-44", "0.3", "123456.79"],
    "float8": ["0", "-0", "0.1", "1e23", "1.7976931348623157e308", "5e-324", "NaN", "Infinity", "-Infinity", "0.3"],
    "bpchar": ["", "a", "a  "],
    "varchar": ["", "v", "漢字"],
    "date": ["2000-01-01", "2024-02-29", "1970-01-01", "1999-12-31", "infinity", "-infinity", "9999-12-31", "10000-01-01"]
    + ["0001-01-01", "0001-12-31 BC", "4714-11-24 BC", "5874897-12-31", "0004-02-29", "0005-02-28 BC"],
    "time": ["00:00:00", "23:59:59.999999", "24:00:00", "12:34:56.7", "00:00:00.000001"],
    "timestamp": ["2000-01-01 00:00:00", "1999-12-31 23:59:59.999999", "infinity", "-infinity", "9999-12-31 23:59:59.999999"]
    + ["10000-01-01 00:00:00", "0001-01-01 00:00:00", "0001-12-31 23:59:59.999999 BC", "4714-11-24 00:00:00 BC"]
    + ["294276-12-31 23:59:59.999999", "2024-02-29 12:30:00.5"],
    "timestamptz": ["2000-01-01 00:00:00+00", "1999-12-31 23:59:59.999999-08", "infinity", "-infinity"]
    + ["9999-12-31 23:59:59.999999+00", "10000-01-01 00:00:00+00", "0001-01-01 00:00:00+00", "0001-12-31 12:00:00+00 BC"]
    + ["294276-12-31 23:59:59.999999+00", "2024-02-29 12:30:00.5+05:30"],
    "timetz": ["00:00:00+00", "23:59:59.999999-08", "24:00:00+00", "12:00:00+05:30", "24:00:00-15:59:59", "01:02:03+15:59"]
    + ["00:00:00-00:30", "12:00:00.5-03:30"],
    "numeric": ["0", "0.00", "1", "-1", "10000", "9999.9999", "0.0001", "0.00010", "-0.5", "NaN", "Infinity", "-Infinity"]
    + ["1e-20", "100000000", "12345678901234567890.123456789", "1e1000", "-" + "9" * 700 + "." + "1" * 300, "1e100", "3.14"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
    + ["f81d4fae-7dec-11d0-a765-00a0c91e6bf6"],
    "jsonb": [
        "null",
        '{"b": 1, "a": [true, false, null, {}], "ä": "\\u00e9"}',
        "[0.1, 0.10, 1e400, -0.0, 1E5, 0.1000000000000000055, 123456789012345678901234567890, 1.0]",
        '"text"',
        "[]",
        "1e-400",
        "5e-324",
    ],
}
"""For each type, literals that PostgreSQL takes (not necessarily what it prints)."""

OTHERS: dict[str, str] = {
    "inet": "192.168.0.1/24",
    "interval": "1 year 2 months -3 days 04:05:06.789",
    "int4range": "[1,10)",
    "money": "12.34",
    "bit varying": "10101",
    "point": "(1,2)",
    "macaddr": "08:00:2b:01:02:03",
    "tsvector": "a:1 cat:2,3",
    "pg_lsn": "16/B374D848",
    "int2vector": "1 2 3",
    "regclass": "pg_class",
    "xid": "42",
}
"""Types that are given as sent, and one literal of each."""

SELECTED = ["everyday", "lists", "toasted", "toasted_full", "keys", "altered"]
"""Tables whose last state is kept as SELECT prints it; all have a key `id`."""

BIG = "(SELECT string_agg(md5(i::text || '{}'), '') FROM generate_series(1, {}) i)"
"""Text that does not compress, so that it is stored out of line."""


def quote(value: str | None) -> str:
    """A literal."""
    if value is None:
        return "NULL"
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def array(items: list[str | None]) -> str:
    """An array literal's text."""
    words = []
    for item in items:
        words.append("NULL" if item is None else '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return "{" + ",".join(words) + "}"


def column(type_name: str) -> str:
    """The name of the column that holds a type."""
    return "c_" + type_name.strip('"').replace(" ", "_")


def declared(type_name: str) -> str:
    """The type as declared in the table of everyday types; some with a modifier."""
    return {"bpchar": "char(8)", "varchar": "varchar(40)"}.get(type_name, type_name)


def everyday() -> list[str]:
    """All everyday types and all their extremes, NULL where a type has fewer."""
    columns = ", ".join(f"{column(name)} {declared(name)}" for name in EXTREMES)
    statements = [f"CREATE TABLE everyday (id int PRIMARY KEY, {columns}, price numeric(12,2))"]
    for number, row in enumerate(zip_longest(*EXTREMES.values())):
        values = ", ".join(map(quote, row))
        statements.append(f"INSERT INTO everyday VALUES ({number}, {values}, {number}.5)")
    names = list(EXTREMES)
    statements.append("BEGIN")
    for name in names[:8]:
        statements.append(f"UPDATE everyday SET {column(name)} = {quote(EXTREMES[name][-1])} WHERE id = 3")
    statements += ["DELETE FROM everyday WHERE id = 5", "COMMIT"]
    return statements


def lists() -> list[str]:
    """Arrays of all everyday types: flat with a NULL, empty, of two and three dimensions, with other lower bounds."""
    columns = ", ".join(f"{column(name)} {name}[]" for name in EXTREMES)
    statements = [f"CREATE TABLE lists (id int PRIMARY KEY, {columns})"]

    def insert(number: int, literals: list[str]) -> None:
        values = ", ".join(map(quote, literals))
        statements.append(f"INSERT INTO lists VALUES ({number}, {values})")

    insert(1, [array([*values, None]) for values in EXTREMES.values()])
    insert(2, ["{}" for _ in EXTREMES])
    insert(3, ["{" + array([v[0], None]) + "," + array([v[1], v[0]]) + "}" for v in EXTREMES.values()])
    insert(4, ["[0:1]=" + array([v[1], v[0]]) for v in EXTREMES.values()])
    insert(5, ["[-1:0][3:3]={" + array([v[1]]) + "," + array([v[0]]) + "}" for v in EXTREMES.values()])
    insert(6, ["{{" + array([v[0]]) + "},{" + array([v[1]]) + "}}" for v in EXTREMES.values()])
    return statements


def identities() -> list[str]:
    """Every replica identity, keys that change, values stored out of line."""
    return [
        "CREATE TABLE toasted (id int PRIMARY KEY, small text, big text)",
        "ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL",
        f"INSERT INTO toasted VALUES (1, 'a', {BIG.format('a', 80)}), (2, 'b', NULL), (3, 'c', 'short')",
        "UPDATE toasted SET small = 'aa' WHERE id = 1",
        "UPDATE toasted SET id = 10 WHERE id = 1",
        f"UPDATE toasted SET big = {BIG.format('b', 80)} WHERE id = 2",
        "DELETE FROM toasted WHERE id = 3",
        "CREATE TABLE toasted_full (LIKE toasted INCLUDING ALL)",
        "ALTER TABLE toasted_full REPLICA IDENTITY FULL",
        f"INSERT INTO toasted_full VALUES (1, NULL, {BIG.format('c', 80)}), (2, 'gone', 'gone')",
        "UPDATE toasted_full SET small = 'changed' WHERE id = 1",
        "DELETE FROM toasted_full WHERE id = 2",
        "CREATE TABLE toasted_key (big text PRIMARY KEY, small int)",
        "ALTER TABLE toasted_key ALTER big SET STORAGE EXTERNAL",
        f"INSERT INTO toasted_key VALUES ({BIG.format('d', 70)}, 1)",
        "UPDATE toasted_key SET small = 2",
        "DELETE FROM toasted_key",
        "CREATE TABLE keys (id int, second text, v numeric, PRIMARY KEY (second, id))",
        "INSERT INTO keys VALUES (1, 'one', 1.10), (2, 'two', 2.20), (3, 'three', NULL)",
        "UPDATE keys SET second = 'zwei' WHERE id = 2",
        "UPDATE keys SET v = v + 1",
        "DELETE FROM keys WHERE id = 3",
        "CREATE TABLE by_index (a int NOT NULL, b text, c uuid NOT NULL)",
        "CREATE UNIQUE INDEX by_index_c ON by_index (c)",
        "ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_c",
        "INSERT INTO by_index VALUES (1, 'x', 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6')",
        "UPDATE by_index SET a = 2",
        "UPDATE by_index SET c = '00000000-0000-0000-0000-000000000001'",
        "DELETE FROM by_index",
        "CREATE TABLE no_identity (a int, b text)",
        "ALTER TABLE no_identity REPLICA IDENTITY NOTHING",
        "INSERT INTO no_identity VALUES (1, NULL), (NULL, 'b')",
        "CREATE TABLE no_columns ()",
        "ALTER TABLE no_columns REPLICA IDENTITY FULL",
        "INSERT INTO no_columns DEFAULT VALUES",
    ]


def shapes() -> list[str]:
    """Names that are no identifiers, changing tables, user-defined types, partitions, generated columns."""
    others = list(OTHERS)
    return [
        'CREATE SCHEMA "Schéma ✓"',
        'CREATE TABLE "Schéma ✓"."wéird ""table"".x" (id int PRIMARY KEY, "class" text, "1st" int, "näme" text, "a b" text,'
        ' "self" int, "__init__" int, "_x" int, "new" int, "漢字" bool, "' + "l" * 63 + '" int)',
        'INSERT INTO "Schéma ✓"."wéird ""table"".x" VALUES (1, \'c\', 1, \'ä\', \' \', 2, 3, 4, 5, true, 6)',
        'UPDATE "Schéma ✓"."wéird ""table"".x" SET "self" = NULL',
        'DELETE FROM "Schéma ✓"."wéird ""table"".x"',
        "CREATE TABLE altered (id int PRIMARY KEY, a text)",
        "INSERT INTO altered VALUES (1, 'one')",
        "ALTER TABLE altered ADD COLUMN discount numeric(10,2)",
        "UPDATE altered SET discount = 9.90 WHERE id = 1",
        "INSERT INTO altered VALUES (2, 'two', 1)",
        "ALTER TABLE altered RENAME COLUMN a TO b",
        "UPDATE altered SET b = b || '!'",
        "BEGIN",
        "UPDATE altered SET b = b || '?'",
        "ALTER TABLE altered ALTER COLUMN b TYPE varchar(20)",
        "UPDATE altered SET b = b || '.'",
        "ALTER TABLE altered ADD COLUMN at timestamptz",
        "UPDATE altered SET at = '2024-01-01 00:00:00+00'",
        "COMMIT",
        "ALTER TABLE altered DROP COLUMN b",
        "ANALYZE altered",
        "UPDATE altered SET discount = discount * 2",
        "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy ☺')",
        "CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%')",
        "CREATE TYPE pair AS (x int, y text)",
        "CREATE TABLE moods (id int PRIMARY KEY, feeling mood, address email, both_ pair, many mood[])",
        "INSERT INTO moods VALUES (1, 'happy ☺', 'a@b', ROW(1, 'y z'), '{sad,ok}'), (2, NULL, NULL, NULL, NULL)",
        "UPDATE moods SET feeling = 'ok' WHERE id = 2",
        "CREATE TABLE others (id int PRIMARY KEY, " + ", ".join(f"{column(n)} {n}" for n in others) + ")",
        "INSERT INTO others VALUES (1, " + ", ".join(quote(OTHERS[name]) for name in others) + ")",
        "CREATE TABLE generated (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED)",
        "INSERT INTO generated VALUES (1, 21)",
        "CREATE TABLE measured (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
        "CREATE TABLE measured_2024 PARTITION OF measured FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
        "CREATE TABLE measured_2025 PARTITION OF measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
        "INSERT INTO measured VALUES (1, '2024-06-01'), (2, '2025-06-01')",
        "UPDATE measured SET at = '2025-07-01' WHERE id = 1",
        "DELETE FROM measured WHERE id = 2",
        "TRUNCATE measured",
    ]


def transactions() -> list[str]:
    """TRUNCATE of each kind, logical messages, origins, savepoints, a transaction that changes nothing."""
    return [
        "CREATE TABLE parent (id serial PRIMARY KEY)",
        "CREATE TABLE child (id serial PRIMARY KEY, parent int REFERENCES parent)",
        "INSERT INTO parent DEFAULT VALUES",
        "INSERT INTO child (parent) VALUES (1)",
        "TRUNCATE child",
        "TRUNCATE parent CASCADE",
        "TRUNCATE parent, child RESTART IDENTITY",
        "TRUNCATE parent, child RESTART IDENTITY CASCADE",
        "SELECT pg_logical_emit_message(false, 'outside', 'not in a transaction')",
        "SELECT pg_logical_emit_message(true, 'inside', 'alone in a transaction')",
        "SELECT pg_logical_emit_message(true, 'bytes', '\\x00ff80'::bytea)",
        "SELECT pg_logical_emit_message(true, '', '')",
        "BEGIN",
        "INSERT INTO parent DEFAULT VALUES",
        "SELECT pg_logical_emit_message(true, 'préfixe', 'between rows ✓')",
        "SELECT pg_logical_emit_message(false, 'outside', 'while one is open')",
        "SAVEPOINT s1",
        "INSERT INTO parent DEFAULT VALUES",
        "ROLLBACK TO s1",
        "SAVEPOINT s2",
        "INSERT INTO parent DEFAULT VALUES",
        "RELEASE s2",
        "TRUNCATE child",
        "COMMIT",
        "CREATE TEMPORARY TABLE unpublished (a int)",
        "INSERT INTO unpublished VALUES (1)",
        "SELECT pg_replication_origin_create('elsewhere ✓')",
        "SELECT pg_replication_origin_session_setup('elsewhere ✓')",
        "BEGIN",
        "SELECT pg_replication_origin_xact_setup('16/B374D848', '2024-01-01 00:00:00+00')",
        "INSERT INTO parent DEFAULT VALUES",
        "COMMIT",
        "SELECT pg_replication_origin_session_reset()",
        "SELECT pg_replication_origin_drop('elsewhere ✓')",
    ]


def statements() -> list[str]:
    """The whole workload, in order; each statement outside BEGIN … COMMIT is a transaction."""
    return everyday() + lists() + identities() + shapes() + transactions()
