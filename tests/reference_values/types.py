"""Reference: which type is read by which functions, and what the catalog says of types that are made of others.

Source: PostgreSQL manual, "pg_type", "pg_range", "pg_attribute".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg

from tests.reference_values import geometry, nested, network, numbers, search, strings, system, times
from tests.reference_values.nested import Form
from tests.reference_values.reading import text_of

SCALARS: dict[str, tuple[int, int, Form, Form]] = {
    "bool": (16, 1000, strings.bool_text, strings.bool_binary),
    "bytea": (17, 1001, strings.bytea_text, bytes),
    '"char"': (18, 1002, strings.char_text, strings.char_binary),
    "name": (19, 1003, text_of, text_of),
    "int8": (20, 1016, *numbers.integer(64)),
    "int2": (21, 1005, *numbers.integer(16)),
    "int4": (23, 1007, *numbers.integer(32)),
    "text": (25, 1009, text_of, text_of),
    "oid": (26, 1028, *numbers.integer(32, signed=False)),
    "json": (114, 199, strings.json_text, strings.json_text),
    "float4": (700, 1021, numbers.float_text, numbers.float4_binary),
    "float8": (701, 1022, numbers.float_text, numbers.float8_binary),
    "bpchar": (1042, 1014, text_of, text_of),
    "varchar": (1043, 1015, text_of, text_of),
    "date": (1082, 1182, times.TEMPORAL["date"], times.date_binary),
    "time": (1083, 1183, times.TEMPORAL["time"], times.time_binary),
    "timestamp": (1114, 1115, times.TEMPORAL["timestamp"], times.timestamp(aware=False)),
    "timestamptz": (1184, 1185, times.TEMPORAL["timestamptz"], times.timestamp(aware=True)),
    "timetz": (1266, 1270, times.TEMPORAL["timetz"], times.timetz_binary),
    "numeric": (1700, 1231, numbers.numeric_text, numbers.numeric_binary),
    "uuid": (2950, 2951, strings.uuid_text, strings.uuid_binary),
    "jsonb": (3802, 3807, strings.json_text, strings.jsonb_binary),
}
"""The everyday types: OID, OID of the array, from text, from binary."""

OTHERS: dict[str, tuple[int, int, Form, Form]] = {
    "tid": (27, 1010, system.tid_text, system.tid_binary),
    "xid": (28, 1011, *numbers.integer(32, signed=False)),
    "cid": (29, 1012, *numbers.integer(32, signed=False)),
    "xml": (142, 143, text_of, text_of),
    "pg_node_tree": (194, 0, text_of, text_of),
    "point": (600, 1017, geometry.point_text, geometry.point_binary),
    "lseg": (601, 1018, geometry.lseg_text, geometry.lseg_binary),
    "path": (602, 1019, geometry.path_text, geometry.path_binary),
    "box": (603, 1020, geometry.box_text, geometry.box_binary),
    "polygon": (604, 1027, geometry.polygon_text, geometry.polygon_binary),
    "line": (628, 629, geometry.line_text, geometry.line_binary),
    "cidr": (650, 651, network.cidr_text, network.cidr_binary),
    "circle": (718, 719, geometry.circle_text, geometry.circle_binary),
    "macaddr8": (774, 775, network.macaddr8_text, network.macaddr8_binary),
    "money": (790, 791, numbers.money_text, numbers.money_binary),
    "macaddr": (829, 1040, network.macaddr_text, network.macaddr_binary),
    "inet": (869, 1041, network.inet_text, network.inet_binary),
    "interval": (1186, 1187, times.interval_text, times.interval_binary),
    "bit": (1560, 1561, strings.bits_text, strings.bits_binary),
    "varbit": (1562, 1563, strings.bits_text, strings.bits_binary),
    "refcursor": (1790, 2201, text_of, text_of),
    "txid_snapshot": (2970, 2949, system.snapshot_text, system.snapshot_binary),
    "pg_lsn": (3220, 3221, system.lsn_text, system.lsn_binary),
    "tsvector": (3614, 3643, text_of, search.tsvector_binary),
    "tsquery": (3615, 3645, text_of, search.tsquery_binary),
    "jsonpath": (4072, 4073, text_of, strings.versioned_text),
    "pg_snapshot": (5038, 5039, system.snapshot_text, system.snapshot_binary),
    "xid8": (5069, 271, *numbers.integer(64, signed=False)),
}
"""The others that are not made of values of another type."""

VECTORS: dict[str, tuple[int, int, int]] = {"int2vector": (22, 1006, 21), "oidvector": (30, 1013, 26)}
"""OID, OID of the array, OID of the elements."""

RANGES: dict[str, tuple[int, int, int]] = {
    "int4range": (3904, 3905, 23),
    "numrange": (3906, 3907, 1700),
    "tsrange": (3908, 3909, 1114),
    "tstzrange": (3910, 3911, 1184),
    "daterange": (3912, 3913, 1082),
    "int8range": (3926, 3927, 20),
}
"""OID, OID of the array, OID of the bounds."""

MULTIRANGES: dict[str, tuple[int, int, int]] = {
    "int4multirange": (4451, 6150, 3904),
    "nummultirange": (4532, 6151, 3906),
    "tsmultirange": (4533, 6152, 3908),
    "tstzmultirange": (4534, 6153, 3910),
    "datemultirange": (4535, 6155, 3912),
    "int8multirange": (4536, 6157, 3926),
}
"""OID, OID of the array, OID of the range."""

EXTENSIONS: dict[tuple[str, str], tuple[Form, Form]] = {
    ("hstore", "hstore"): (nested.hstore_text, nested.hstore_binary),
    ("citext", "citext"): (text_of, text_of),
    ("ltree", "ltree"): (text_of, strings.versioned_text),
    ("ltree", "lquery"): (text_of, strings.versioned_text),
    ("ltree", "ltxtquery"): (text_of, strings.versioned_text),
    ("cube", "cube"): (text_of, geometry.cube_binary),
}
"""Types that extensions bring, by (extension, type)."""


@dataclass(frozen=True)
class Known:
    """A type that is made of another: what `kind` it is, of which (`of`), and what else is to be known.

    `kind` is `array`, `range`, `multirange` (of its range), `domain`, `enum`, `composite` or the name of a type of an
    extension.
    """

    kind: str
    of: int = 0
    delimiter: str = ","
    attributes: tuple[tuple[str, int], ...] = ()
    extension: str = ""


Types: TypeAlias = dict[int, Known]

FORMS: dict[int, tuple[Form, Form]] = {oid: (text, binary) for oid, _, text, binary in (SCALARS | OTHERS).values()}
for _oid, _, _element in VECTORS.values():
    _text, _binary = FORMS[_element]
    FORMS[_oid] = system.vector_text(_text), nested.vector_binary(_element, _binary)

BUILT_IN: Types = {oid: Known("range", of) for oid, _, of in RANGES.values()}
BUILT_IN |= {oid: Known("multirange", of) for oid, _, of in MULTIRANGES.values()}
NAMES: dict[str, tuple[int, int]] = {
    name: (oid, array) for name, (oid, array, *_) in (SCALARS | OTHERS | VECTORS | RANGES | MULTIRANGES).items()
}
"""OID and OID of the array of every type that is read here without a catalog."""


BUILT_IN |= {array: Known("array", oid, ";" if name == "box" else ",") for name, (oid, array) in NAMES.items() if array}


def forms(type_oid: int, types: Types) -> tuple[Form, Form] | None:
    """How a type is read, from text and from binary.

    Args:
        type_oid: The type.
        types: What is known of types that PostgreSQL does not bring along.

    Returns:
        Two functions; None for a type of which nothing is known.
    """
    if type_oid in FORMS:
        return FORMS[type_oid]
    known = BUILT_IN.get(type_oid) or types.get(type_oid)
    if known is None:
        return None
    if known.kind == "enum":
        return text_of, text_of
    if known.kind == "composite":
        attributes = [(name, oid, forms(oid, types)) for name, oid in known.attributes]
        as_sent: tuple[Form, Form] = (text_of, bytes)
        return (
            nested.composite_text([(name, oid, (both or as_sent)[0]) for name, oid, both in attributes]),
            nested.composite_binary([(name, oid, (both or as_sent)[1]) for name, oid, both in attributes]),
        )
    if known.extension:
        return EXTENSIONS.get((known.extension, known.kind))
    inner = forms(known.of, types)
    if inner is None:
        return None
    text, binary = inner
    if known.kind == "domain":
        return text, binary
    if known.kind == "array":
        return nested.array_text(text, known.delimiter.encode()), nested.array_binary(known.of, binary)
    if known.kind == "range":
        return nested.range_text(text), nested.range_binary(binary)
    bounds = forms((BUILT_IN.get(known.of) or types[known.of]).of, types)
    assert known.kind == "multirange" and bounds is not None
    return nested.multirange_text(bounds[0]), nested.multirange_binary(binary)


def load(connection: psycopg.Connection[Any]) -> Types:
    """What a database says of its types, table after table.

    Args:
        connection: Any connection of psycopg's to the database.

    Returns:
        All types that are made of others, by OID.
    """

    def ask(query: str) -> list[list[Any]]:
        # Of a database in SQL_ASCII psycopg gives text as bytes.
        rows = connection.execute(query.encode()).fetchall()
        return [[text_of(cell) if isinstance(cell, bytes) else cell for cell in row] for row in rows]

    types: Types = {}
    for oid, base in ask("SELECT oid::int8, typbasetype::int8 FROM pg_type WHERE typtype = 'd'"):
        types[oid] = Known("domain", base)
    for (oid,) in ask("SELECT oid::int8 FROM pg_type WHERE typtype = 'e'"):
        types[oid] = Known("enum")
    for oid, subtype, multirange in ask("SELECT rngtypid::int8, rngsubtype::int8, rngmultitypid::int8 FROM pg_range"):
        types[oid] = Known("range", subtype)
        types[multirange] = Known("multirange", oid)
    for array, oid, delimiter in ask("SELECT typarray::int8, oid::int8, typdelim FROM pg_type WHERE typarray <> 0"):
        types[array] = Known("array", oid, delimiter)
    for oid, relation in ask("SELECT oid::int8, typrelid::int8 FROM pg_type WHERE typtype = 'c' AND oid >= 16384"):
        attributes = ask(
            f"SELECT attname::text, atttypid::int8 FROM pg_attribute WHERE attrelid = {relation} AND attnum > 0"
            " AND NOT attisdropped ORDER BY attnum"
        )
        types[oid] = Known("composite", attributes=tuple((name, attribute) for name, attribute in attributes))
    for oid, name, extension in ask(
        "SELECT t.oid::int8, typname::text, extname::text FROM pg_type t JOIN pg_depend d ON d.objid = t.oid"
        " AND d.classid = 'pg_type'::regclass AND d.deptype = 'e' JOIN pg_extension e ON e.oid = d.refobjid"
        " WHERE t.typtype = 'b' AND t.typcategory <> 'A'"
    ):
        types[oid] = Known(name, extension=extension)
    return types
