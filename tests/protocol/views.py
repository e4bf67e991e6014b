"""What lines of JSON and Arrow tables say of a value: found from what SELECT prints, with the reference's functions.

What is a string there in PostgreSQL's words is taken as printed and not understood at all.

Source: the tables in the docstrings of `Batch.to_json` and `Batch.to_arrow`.
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any

from pgcdc.protocol import PgArray, PgText
from tests.protocol.test_json import load, said
from tests.reference_values import OTHERS, SCALARS, Types, decode_value, nested, text_of
from tests.reference_values.nested import Form
from tests.reference_values.types import BUILT_IN, VECTORS, Known

EVERYDAY = {oid for oid, *_ in SCALARS.values()}
JSON = {SCALARS[name][0] for name in ("json", "jsonb")}
NUMBERS = {OTHERS[name][0] for name in ("xid", "cid", "xid8")} | {oid for oid, *_ in VECTORS.values()}
MONEY, LSN = OTHERS["money"][0], OTHERS["pg_lsn"][0]
FLOAT4, TIMETZ, NUMERIC = (SCALARS[name][0] for name in ("float4", "timetz", "numeric"))


def _known(type_oid: int, types: Types) -> Known | None:
    """What the type is made of, past all domains; None for a type that is not made of others."""
    known = BUILT_IN.get(type_oid) or types.get(type_oid)
    while known is not None and known.kind == "domain":
        type_oid = known.of
        known = BUILT_IN.get(type_oid) or types.get(type_oid)
    return known


def _base(type_oid: int, types: Types) -> int:
    """The type that a domain is over in the end."""
    while type_oid in types and types[type_oid].kind == "domain":
        type_oid = types[type_oid].of
    return type_oid


def _elements(known: Known, element: Form) -> Form:
    return nested.array_text(element, known.delimiter.encode())


def json_view(type_oid: int, printed: bytes | None, types: Types) -> Any:
    """What a line of JSON says of a column, as `load` gives it.

    Args:
        type_oid: The column's type.
        printed: What SELECT prints.
        types: What the reference knows of the types.
    """
    if printed is None:
        return None

    def form(oid: int) -> Form:
        return lambda part: json_view(oid, part, types)

    known = _known(type_oid, types)
    if known is not None and known.kind == "array":
        elements = _elements(known, form(known.of))(printed)
        if isinstance(elements, PgArray):
            return {"lower_bounds": list(elements.lower_bounds), "elements": list(elements)}
        return elements
    if known is not None and known.kind == "composite":
        return dict(nested.composite_text([(name, oid, form(oid)) for name, oid in known.attributes])(printed))
    if known is not None and known.kind == "hstore":
        return nested.hstore_text(printed)
    oid = _base(type_oid, types)
    if oid in JSON:
        return load(text_of(printed))
    if oid in EVERYDAY or oid == MONEY:
        return said(decode_value(oid, False, printed, types))
    return decode_value(oid, False, printed, types) if oid in NUMBERS else text_of(printed)


def nearest_float4(printed: str) -> float:
    """The float4 that a text says, which by way of a float8 could be rounded twice."""
    value: float = struct.unpack("f", struct.pack("f", float(printed)))[0]
    if math.isfinite(value) and value:
        exact = Fraction(printed)
        around = [value, *(struct.unpack("f", struct.pack("I", _bits(value) + step))[0] for step in (-1, 1))]
        value = min(filter(math.isfinite, around), key=lambda one: abs(Fraction(one) - exact))
    return value


def _bits(value: float) -> int:
    bits: int = struct.unpack("I", struct.pack("f", value))[0]
    return bits


def arrow_view(type_oid: int, printed: bytes | None, types: Types) -> Any:
    """What pyarrow makes of a column in an Arrow table, JSON documents as `load` gives them.

    Args:
        type_oid: The column's type; none with a modifier.
        printed: What SELECT prints.
        types: What the reference knows of the types.
    """
    if printed is None:
        return None
    known = _known(type_oid, types)
    if known is not None and known.kind == "array":
        return _elements(known, lambda part: arrow_view(known.of, part, types))(printed)
    oid = _base(type_oid, types)
    value = decode_value(oid, False, printed, types)
    if oid in JSON:
        return load(text_of(printed))
    if oid == FLOAT4:
        return nearest_float4(text_of(printed))
    if oid in (TIMETZ, NUMERIC):
        return said(value)
    return value if oid in EVERYDAY | NUMBERS | {MONEY, LSN} else text_of(printed)


def arrow_found(type_oid: int, value: Any, types: Types) -> Any:
    """A value as pyarrow gives it, with JSON documents loaded, to be held against `arrow_view`."""
    known = _known(type_oid, types)
    if isinstance(value, list) and known is not None:
        return [arrow_found(known.of, item, types) for item in value]
    return load(value) if value is not None and _base(type_oid, types) in JSON else value


def fits_arrow(type_oid: int, printed: bytes | None, types: Types) -> bool:
    """Whether a value can be in a column of its own Arrow type.

    Args:
        type_oid: The column's type.
        printed: What SELECT prints.
        types: What the reference knows of the types.
    """
    if printed is None:
        return True
    known = _known(type_oid, types)
    if known is None:
        return not isinstance(decode_value(type_oid, False, printed, types), PgText)
    if known.kind != "array":
        return True
    elements = _elements(known, lambda part: fits_arrow(known.of, part, types))(printed)
    return not isinstance(elements, PgArray) and all(element is None or element is True for element in elements)


__all__ = ["arrow_found", "arrow_view", "fits_arrow", "json_view", "load"]
