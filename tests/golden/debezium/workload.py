"""The workload that Debezium is compared on: a table for each type, and what happens to rows."""

from __future__ import annotations

from tests.golden.workload import BIG, EXTREMES, array, quote

ORDINARY: dict[str, list[str]] = {
    **{name: EXTREMES[name] for name in ("bool", "bytea", '"char"', "name", "int2", "int4", "int8", "text", "oid")},
    **{
        name: EXTREMES[name]
        for name in ("json", "jsonb", "float4", "float8", "date", "time", "timestamp", "timestamptz")
    },
    **{name: EXTREMES[name] for name in ("timetz", "uuid")},
    "numeric": [*EXTREMES["numeric"], "1200", "0.5", "-128", "255", "-12345.678"],
    "char(8)": EXTREMES["bpchar"],
    "varchar(40)": EXTREMES["varchar"],
    "numeric(12,2)": ["0", "1.10", "-1.28", "-1.29", "9999999999.99", "327.68", "NaN"],
    "numeric(5,0)": ["0", "-128", "128", "99999"],
    "numeric(40,10)": ["0.0000000001", "-123456789012345678901234567890.0123456789"],
    "numeric(3,-2)": ["12300", "-100"],
    "time(0)": ["12:34:56", "24:00:00"],
    "time(3)": ["12:34:56.789"],
    "time(6)": ["12:34:56.789012"],
    "timetz(2)": ["12:34:56.78+02"],
    "timestamp(0)": ["2024-02-29 12:34:56", "1969-12-31 23:59:59"],
    "timestamp(3)": ["2024-02-29 12:34:56.789"],
    "timestamp(4)": ["2024-02-29 12:34:56.7891"],
    "timestamptz(0)": ["2024-02-29 12:34:56+02"],
    "timestamptz(3)": ["2024-02-29 12:34:56.7+02"],
}
"""The everyday types, with and without modifiers."""

EXOTIC: dict[str, list[str]] = {
    "interval": ["1 year 2 mons -3 days 04:05:06.789", "0", "-1 mon", "36 hours", "14 mons", "infinity"],
    "interval day to second(2)": ["1 day 00:00:01.25"],
    "money": ["12.34", "-1234.50", "0"],
    "bit": ["0", "1"],
    "bit(5)": ["10101"],
    "bit(8)": ["00000001", "10000000"],
    "bit(12)": ["101010101010", "000000000001", "100000000000", "000000000000"],
    "varbit": ["", "1", "0", "10101", "101010101", "00000000000000001"],
    "varbit(20)": ["10101", "00000000000000000"],
    "inet": ["192.168.0.1/24", "10.0.0.1", "::1", "2001:db8::1/64"],
    "cidr": ["192.168.0.0/24", "2001:db8::/32"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "point": ["(1,2)", "(-1.5,1e30)"],
    "line": ["{1,2,3}"],
    "lseg": ["[(1,2),(3,4)]"],
    "box": ["(3,4),(1,2)"],
    "path": ["[(1,2),(3,4)]", "((1,2),(3,4))"],
    "polygon": ["((1,2),(3,4),(5,6))"],
    "circle": ["<(1,2),3>"],
    "int4range": ["[1,10)", "empty", "(,5)"],
    "int8range": ["[1,10)"],
    "numrange": ["(1.5,2.50]"],
    "daterange": ["[2024-01-01,2024-02-01)"],
    "tsrange": ["[2024-01-01 00:00:00,2024-02-01 12:00:00.5)"],
    "tstzrange": ["[2024-01-01 00:00:00+00,2024-02-01 12:00:00.5+00)"],
    "int4multirange": ["{[1,3),[5,7)}"],
    "xml": ["<a>1</a>"],
    "tsvector": ["a:1 cat:2,3"],
    "tsquery": ["a & b"],
    "pg_lsn": ["16/B374D848"],
    "xid": ["42"],
    "xid8": ["42"],
    "cid": ["1"],
    "tid": ["(1,2)"],
    "pg_snapshot": ["10:20:10,14,15"],
    "jsonpath": ["$.a[*]"],
    "refcursor": ["cursor"],
    "oidvector": ["1 2"],
    "cube": ["(1,2)"],
    "lquery": ["a.*"],
    "int2vector": ["1 2 3"],
    "regclass": ["pg_class"],
    "hstore": ['"a"=>"1", "b"=>NULL', "", '"q\\"k"=>"ä"'],
    "ltree": ["a.b.c"],
    "citext": ["CiText"],
    "isbn": ["978-0-393-04002-9"],
    "mood": ["sad", "happy ☺"],
    "email": ["a@b"],
    "cents": ["12"],
    "price": ["12.34"],
    "pair": ['(1,"y z")'],
}
"""The others, among them types of extensions and of users."""

ARRAYS: dict[str, list[str]] = {
    **{
        name: ORDINARY[name][:3]
        for name in ("bool", "bytea", "int2", "int4", "int8", "text", "float4", "float8", "date", "time", "timestamp")
    },
    **{name: ORDINARY[name][:2] for name in ("timestamptz", "timetz", "uuid", "json", "jsonb", "numeric", "char(8)")},
    **{name: ORDINARY[name][:2] for name in ("varchar(40)", "numeric(12,2)", "oid", "name")},
    **{
        name: EXOTIC[name][:2]
        for name in ("inet", "cidr", "macaddr", "int4range", "mood", "citext", "hstore", "interval", "money", "bit(5)")
    },
    **{name: EXOTIC[name][:2] for name in ("point", "tsrange", "numrange", "email", "ltree")},
    **{name: ORDINARY[name][:2] for name in ('"char"',)},
    **{name: EXOTIC[name][:2] for name in ("macaddr8", "varbit", "xml", "tsvector", "daterange", "cents", "price")},
    **{name: EXOTIC[name][:2] for name in ("pair", "line", "xid", "pg_lsn", "int4multirange", "tsquery", "cube")},
    **{name: ORDINARY[name] for name in ("timestamp(3)", "timestamptz(3)", "time(3)", "numeric(40,10)")},
}
"""Types whose arrays are compared."""


LARGE: dict[str, str] = {
    **dict.fromkeys(("varchar(5000)", "citext", "char(2100)"), "x"),
    "bytea": "x::bytea",
    "json": "to_json(x)",
    "xml": "'<a>' || x || '</a>'",
    "hstore": "hstore('k', x)",
    "numeric": "repeat('123456789', 520)",
    "numeric(1000,2)": "NULL",
    "varbit": "repeat('10', 10000)",
    "tsvector": "array_to_tsvector(string_to_array(rtrim(regexp_replace(x, '(.{8})', '\\1 ', 'g')), ' '))",
    **{
        f"{name}[]": "array_fill('1'::" + name + ", ARRAY[1100])"
        for name in ("int2", "int4", "int8", "float4", "float8")
    },
    **{
        f"{name}[]": "array_fill('1'::" + name + ", ARRAY[2200])"
        for name in ("bool", "numeric", "numeric(12,2)", "bytea")
    },
    **{
        f"{name}[]": "array_fill('2024-01-01'::" + name + ", ARRAY[600])"
        for name in ("date", "timestamp", "timestamptz")
    },
    "time[]": "array_fill('12:00'::time, ARRAY[600])",
    "uuid[]": "array_fill(md5(x)::uuid, ARRAY[200])",
    "jsonb[]": "array_fill(to_jsonb(x), ARRAY[1])",
    "varchar[]": "ARRAY[x]",
    "inet[]": "array_fill('1.2.3.4'::inet, ARRAY[300])",
}
"""Types whose values can be stored out of line, and a large value of each made from the text `x`."""


def name_of(prefix: str, type_name: str) -> str:
    """The name of the table for a type."""
    return prefix + "".join(letter if letter.isalnum() else "_" for letter in type_name).strip("_")


def large_name(type_name: str) -> str:
    """The name of the column for a type in `LARGE`."""
    return name_of("many_" if type_name.endswith("[]") else "one_", type_name)


def types() -> list[str]:
    """A table for each type with a row for each literal, and one with NULL."""
    made = [
        *(f"CREATE EXTENSION {name}" for name in ("hstore", "ltree", "citext", "isn", "cube")),
        "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy ☺')",
        "CREATE DOMAIN email AS text",
        "CREATE DOMAIN cents AS int8",
        "CREATE DOMAIN price AS numeric(10,2)",
        "CREATE TYPE pair AS (x int, y text)",
    ]
    for type_name, literals in {**ORDINARY, **EXOTIC}.items():
        table = name_of("one_", type_name)
        made.append(f"CREATE TABLE {table} (id int PRIMARY KEY, v {type_name})")
        rows = ", ".join(f"({number}, {quote(literal)})" for number, literal in enumerate([*literals, None]))
        made.append(f"INSERT INTO {table} VALUES {rows}")
    for type_name, literals in ARRAYS.items():
        table = name_of("many_", type_name)
        made.append(f"CREATE TABLE {table} (id int PRIMARY KEY, v {type_name}[])")
        first = array([literals[0]])
        flat, nested = array([*literals, None]), "{" + first + "," + first + "}"
        rows = ", ".join(
            f"({n}, {quote(one)})" for n, one in enumerate([flat, "{}", None, nested, f"[0:0]={first}"])
        )
        made.append(f"INSERT INTO {table} VALUES {rows}")
    return made


def changes() -> list[str]:
    """Inserts, updates and deletes under every replica identity, changed keys, values stored out of line."""
    return [
        "CREATE TABLE orders (id int PRIMARY KEY, status text, total numeric(12,2), paid bool)",
        "INSERT INTO orders VALUES (1, 'new', 9.90, false), (2, NULL, NULL, NULL)",
        "UPDATE orders SET status = 'paid', paid = true WHERE id = 1",
        "UPDATE orders SET id = 10 WHERE id = 1",
        "BEGIN",
        "UPDATE orders SET total = 1 WHERE id = 2",
        "DELETE FROM orders WHERE id = 2",
        "INSERT INTO orders VALUES (3, 'q\"uo\\te', 0, true)",
        "COMMIT",
        "CREATE TABLE strict (id int PRIMARY KEY, i2 int2 NOT NULL, i8 int8 NOT NULL, t text NOT NULL, b bool NOT NULL,"
        " n numeric(12,2) NOT NULL, v numeric NOT NULL, f float8 NOT NULL, d date NOT NULL, at timestamptz NOT NULL,"
        " ts timestamp NOT NULL, u uuid NOT NULL, j jsonb NOT NULL, y bytea NOT NULL, a int[] NOT NULL,"
        " clock time NOT NULL, i4 int NOT NULL DEFAULT 7, s text NOT NULL DEFAULT 'given',"
        " maybe text DEFAULT 'perhaps')",
        "INSERT INTO strict VALUES (1, 1, 1, 't', true, 1, 1, 1, '2024-01-01', '2024-01-01Z', '2024-01-01',"
        " '00000000-0000-0000-0000-000000000001', '{}', '', '{}', '12:00', 1, 's', NULL)",
        "UPDATE strict SET id = 2",
        "DELETE FROM strict",
        "CREATE TABLE pairs (a int, b text, v int, PRIMARY KEY (b, a))",
        "INSERT INTO pairs VALUES (1, 'x', 1)",
        "UPDATE pairs SET v = 2",
        "UPDATE pairs SET b = 'y'",
        "DELETE FROM pairs",
        "CREATE TABLE whole (id int PRIMARY KEY, v text, w int)",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        "INSERT INTO whole VALUES (1, 'a', 1)",
        "UPDATE whole SET v = NULL",
        "UPDATE whole SET id = 2",
        "DELETE FROM whole",
        "CREATE TABLE keyless (id int, v text)",
        "ALTER TABLE keyless REPLICA IDENTITY FULL",
        "INSERT INTO keyless VALUES (1, 'a')",
        "UPDATE keyless SET id = 2",
        "DELETE FROM keyless",
        "CREATE TABLE indexed (id int PRIMARY KEY, code text NOT NULL, v int)",
        "CREATE UNIQUE INDEX indexed_code ON indexed (code)",
        "ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_code",
        "INSERT INTO indexed VALUES (1, 'a', 1)",
        "UPDATE indexed SET v = 2",
        "UPDATE indexed SET code = 'b'",
        "UPDATE indexed SET id = 2",
        "DELETE FROM indexed",
        "CREATE TABLE appended (id int PRIMARY KEY, v text)",
        "ALTER TABLE appended REPLICA IDENTITY NOTHING",
        "INSERT INTO appended VALUES (1, 'a')",
        "CREATE TABLE toasted (id int PRIMARY KEY, small int, big text, bytes bytea, list text[], doc jsonb,"
        " numbers int[], must text NOT NULL)",
        *(
            f"ALTER TABLE toasted ALTER {column} SET STORAGE EXTERNAL"
            for column in ("big", "bytes", "list", "doc", "numbers", "must")
        ),
        f"INSERT INTO toasted SELECT 1, 1, x, x::bytea, ARRAY[x], to_jsonb(x),"
        f" (SELECT array_agg(i) FROM generate_series(1, 600) i), x FROM {BIG.format('a', 70)} AS big(x)",
        "UPDATE toasted SET small = 2",
        "UPDATE toasted SET id = 2",
        "DELETE FROM toasted",
        "CREATE TABLE toasted_full (id int PRIMARY KEY, small int, big text)",
        "ALTER TABLE toasted_full ALTER big SET STORAGE EXTERNAL",
        "ALTER TABLE toasted_full REPLICA IDENTITY FULL",
        f"INSERT INTO toasted_full SELECT 1, 1, {BIG.format('b', 70)}",
        "UPDATE toasted_full SET small = 2",
        "DELETE FROM toasted_full",
        "CREATE TABLE toasted_key (big text PRIMARY KEY, small int)",
        "ALTER TABLE toasted_key ALTER big SET STORAGE EXTERNAL",
        f"INSERT INTO toasted_key SELECT {BIG.format('d', 70)}, 1",
        "UPDATE toasted_key SET small = 2",
        "CREATE TABLE unsent (id int PRIMARY KEY, small int, "
        + ", ".join(f"{large_name(name)} {name}" for name in LARGE)
        + ")",
        *(f"ALTER TABLE unsent ALTER {large_name(name)} SET STORAGE EXTERNAL" for name in LARGE),
        "INSERT INTO unsent SELECT 1, 1, "
        + ", ".join(f"({value})::{name}" for name, value in LARGE.items())
        + f" FROM {BIG.format('e', 65)} AS big(x)",
        "UPDATE unsent SET small = 2",
        'CREATE SCHEMA "Schéma ✓"',
        'CREATE TABLE "Schéma ✓"."wéird ""table"".x" (id int PRIMARY KEY, "näme ""q""" text)',
        'INSERT INTO "Schéma ✓"."wéird ""table"".x" VALUES (1, \'ä\')',
        "CREATE TABLE measured (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
        "CREATE TABLE measured_2024 PARTITION OF measured FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
        "INSERT INTO measured VALUES (1, '2024-06-01')",
    ]


def others() -> list[str]:
    """TRUNCATE of each kind, logical messages."""
    return [
        "CREATE TABLE parent (id serial PRIMARY KEY)",
        "CREATE TABLE child (id serial PRIMARY KEY, parent int REFERENCES parent)",
        "INSERT INTO parent DEFAULT VALUES",
        "TRUNCATE child",
        "TRUNCATE parent, child",
        "TRUNCATE parent, child RESTART IDENTITY CASCADE",
        "SELECT pg_logical_emit_message(false, 'outside', 'not in a transaction')",
        "SELECT pg_logical_emit_message(true, 'inside', 'alone in a transaction')",
        "SELECT pg_logical_emit_message(true, 'bytes', '\\x00ff80'::bytea)",
        "BEGIN",
        "INSERT INTO parent DEFAULT VALUES",
        "SELECT pg_logical_emit_message(true, 'préfixe \"', 'between rows ✓')",
        "SELECT pg_logical_emit_message(false, 'outside', 'while one is open')",
        "COMMIT",
        "SELECT pg_replication_origin_create('elsewhere ✓')",
        "SELECT pg_replication_origin_session_setup('elsewhere ✓')",
        "BEGIN",
        "SELECT pg_replication_origin_xact_setup('16/B374D848', '2024-01-01 00:00:00+00')",
        "INSERT INTO parent DEFAULT VALUES",
        "INSERT INTO parent DEFAULT VALUES",
        "COMMIT",
        "SELECT pg_replication_origin_session_reset()",
        "SELECT pg_replication_origin_drop('elsewhere ✓')",
        "INSERT INTO parent DEFAULT VALUES",
    ]


def statements() -> list[str]:
    """The whole workload, in order; each statement outside BEGIN … COMMIT is a transaction."""
    return types() + changes() + others()
