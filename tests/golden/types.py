"""Makes `rust/pgoutput/src/oid/types.rs` again, from the pg_type of PostgreSQL 14 to 18: `python -m tests.golden.types`.

The OIDs are the servers'; which types have a value in common in their text and binary form, and which, is said here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import psycopg

__all__ = ["FILE", "KINDS", "rows", "written"]

FILE: Final = Path(__file__).parents[2] / "rust" / "pgoutput" / "src" / "oid" / "types.rs"

_SHAPES = {name: f"Scalar::Shape(Shape::{name.title()})" for name in "point line lseg box path polygon circle".split()}
KINDS: Final = _SHAPES | {
    "bool": "Scalar::Bool",
    "int2": "Scalar::Int2",
    "int4": "Scalar::Int4",
    "int8": "Scalar::Int8",
    "oid": "Scalar::Oid",
    "xid": "Scalar::Oid",
    "cid": "Scalar::Oid",
    "xid8": "Scalar::Xid8",
    "pg_lsn": "Scalar::Lsn",
    "float4": "Scalar::Float4",
    "float8": "Scalar::Float8",
    "numeric": "Scalar::Numeric",
    "money": "Scalar::Money",
    "text": "Scalar::Text",
    "varchar": "Scalar::Text",
    "bpchar": "Scalar::Text",
    "name": "Scalar::Text",
    "xml": "Scalar::Text",
    "refcursor": "Scalar::Text",
    "pg_node_tree": "Scalar::Text",
    "char": "Scalar::Char",
    "jsonpath": "Scalar::Versioned",
    "bytea": "Scalar::Bytea",
    "date": "Scalar::Date",
    "time": "Scalar::Time",
    "timetz": "Scalar::TimeTz",
    "timestamp": "Scalar::Timestamp",
    "timestamptz": "Scalar::TimestampTz",
    "interval": "Scalar::Interval",
    "uuid": "Scalar::Uuid",
    "json": "Scalar::Json",
    "jsonb": "Scalar::Jsonb",
    "inet": "Scalar::Inet",
    "cidr": "Scalar::Cidr",
    "macaddr": "Scalar::MacAddr",
    "macaddr8": "Scalar::MacAddr8",
    "bit": "Scalar::Bits",
    "varbit": "Scalar::Bits",
    "tid": "Scalar::Tid",
    "pg_snapshot": "Scalar::Snapshot",
    "txid_snapshot": "Scalar::Snapshot",
    "tsvector": "Scalar::TsVector",
    "tsquery": "Scalar::TsQuery",
}
"""What the decoder calls the bytes of each type."""
_NUMBERS = {"int2vector": "Scalar::Int2", "oidvector": "Scalar::Oid"}

_SQL = """
SELECT t.oid::int8, t.typarray::int8, t.typname::text, t.typtype::text, s.typname::text
FROM pg_catalog.pg_type t
LEFT JOIN pg_catalog.pg_range r ON t.oid IN (r.rngtypid, r.rngmultitypid)
LEFT JOIN pg_catalog.pg_type s ON s.oid = r.rngsubtype
WHERE t.oid < 10000 AND t.typtype IN ('b', 'r', 'm')
ORDER BY t.oid"""

_HEAD = """\
//! The types of PostgreSQL 14 to 18 that are decoded, each with its OID and that of its array, 0 where it has none.
//!
//! Made by `python -m tests.golden.types` from the servers' `pg_type`.
use super::{Builtin, Scalar, Shape};

pub(super) const TYPES: [(u32, u32, Builtin); %d] = [
"""


def rows(connection: psycopg.Connection[Any]) -> list[tuple[int, int, str, str]]:
    """The types of one server that are decoded.

    Returns:
        OID, OID of the array, name, and what Rust calls it.
    """
    found = []
    for oid, array, name, kind, subtype in connection.execute(_SQL).fetchall():
        if kind in "rm":
            said = f"Builtin::{'Range' if kind == 'r' else 'Multirange'}({KINDS[subtype]})"
        elif name in _NUMBERS:
            said = f"Builtin::Numbers({_NUMBERS[name]})"
        elif name in KINDS:
            said = f"Builtin::Scalar({KINDS[name]})"
        else:
            continue
        found.append((oid, array, name, said))
    return found


def written(types: Iterable[tuple[int, int, str, str]]) -> str:
    """The file for some types, each once."""
    lines = [(f"    ({oid}, {array}, {said}),", name) for oid, array, name, said in sorted(set(types))]
    width = max(len(line) for line, _ in lines)
    return _HEAD % len(lines) + "".join(f"{line:{width}} // {name}\n" for line, name in lines) + "];\n"


def _main() -> None:
    from tests.servers.postgres import PostgresServer, remove_templates
    from tests.servers.programs import VERSIONS

    types: set[tuple[int, int, str, str]] = set()
    for version in VERSIONS:
        server = PostgresServer(version, say=print)
        try:
            server.start()
            with server.connect() as connection:
                types |= set(rows(connection))
        finally:
            server.destroy()
    remove_templates()
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(written(types))


if __name__ == "__main__":
    _main()
