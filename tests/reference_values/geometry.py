"""Reference: point, line, lseg, box, path, polygon, circle, and cube of the extension of that name.

Source: server file `utils/adt/geo_ops.c`, `contrib/cube/cube.c`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from pgcdc.protocol import PgBox, PgCircle, PgLine, PgLseg, PgPath, PgPoint, PgPolygon
from tests.reference_values.numbers import FLOAT, float8_words, float_text
from tests.reference_values.reading import ascii_of, matched, need, unpack

NUMBER = f"({FLOAT})"
POINT = rf"\({NUMBER},{NUMBER}\)"
POINTS = f"{POINT}(?:,{POINT})*"


def floats(pattern: str, data: bytes) -> list[float]:
    """The numbers in a text of this form."""
    matched(pattern, data)
    return [float_text(word.encode()) for word in re.findall(FLOAT, ascii_of(data))]


def points(numbers: Sequence[float]) -> tuple[PgPoint, ...]:
    """Points from their coordinates."""
    return tuple(PgPoint(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=True))


def point_text(data: bytes) -> PgPoint:
    """`(1,2)`."""
    return PgPoint(*floats(POINT, data))


def point_binary(data: bytes) -> PgPoint:
    """Two float8."""
    return PgPoint(*unpack(">dd", data))


def line_text(data: bytes) -> PgLine:
    """`{1,-1,0}`."""
    return PgLine(*floats(rf"\{{{NUMBER},{NUMBER},{NUMBER}\}}", data))


def line_binary(data: bytes) -> PgLine:
    """Three float8."""
    return PgLine(*unpack(">ddd", data))


def lseg_text(data: bytes) -> PgLseg:
    """`[(0,0),(1,1)]`."""
    return PgLseg(*points(floats(rf"\[{POINT},{POINT}\]", data)))


def lseg_binary(data: bytes) -> PgLseg:
    """Two points."""
    return PgLseg(*points(unpack(">dddd", data)))


def box_text(data: bytes) -> PgBox:
    """`(1,1),(0,0)`: the upper right corner first."""
    return PgBox(*points(floats(f"{POINT},{POINT}", data)))


def box_binary(data: bytes) -> PgBox:
    """Two points, the upper right one first."""
    return PgBox(*points(unpack(">dddd", data)))


def path_text(data: bytes) -> PgPath:
    """`((0,0),(1,1))` closed, `[(0,0),(1,1)]` open."""
    closed = data[:1] == b"("
    return PgPath(points(floats(rf"\({POINTS}\)" if closed else rf"\[{POINTS}\]", data)), closed)


def counted_points(data: bytes) -> tuple[PgPoint, ...]:
    """How many, then the points."""
    need(len(data) >= 4, "wrong length")
    (count,) = struct.unpack_from(">i", data)
    need(count > 0 and len(data) == 4 + 16 * count, "wrong length")
    return points(struct.unpack_from(f">{2 * count}d", data, 4))


def path_binary(data: bytes) -> PgPath:
    """Whether it is closed, how many points, the points."""
    need(data[:1] in (b"\x00", b"\x01"), "neither open nor closed")
    return PgPath(counted_points(data[1:]), data[0] == 1)


def polygon_text(data: bytes) -> PgPolygon:
    """`((0,0),(1,1),(1,0))`."""
    return PgPolygon(points(floats(rf"\({POINTS}\)", data)))


def polygon_binary(data: bytes) -> PgPolygon:
    """How many points, the points."""
    return PgPolygon(counted_points(data))


def circle_text(data: bytes) -> PgCircle:
    """`<(0,0),1>`."""
    x, y, radius = floats(f"<{POINT},{NUMBER}>", data)
    return PgCircle(PgPoint(x, y), radius)


def circle_binary(data: bytes) -> PgCircle:
    """The center, the radius."""
    x, y, radius = unpack(">ddd", data)
    return PgCircle(PgPoint(x, y), radius)


def cube_binary(data: bytes) -> str:
    """The number of dimensions and whether it is a point, then one corner or two."""
    need(len(data) >= 4, "wrong length")
    (header,) = struct.unpack_from(">I", data)
    dimensions, corners = header & 0x7FFFFFFF, 1 if header >> 31 else 2
    need(dimensions <= 100 and len(data) == 4 + 8 * dimensions * corners, "wrong length")
    numbers = struct.unpack_from(f">{dimensions * corners}d", data, 4)
    low, high = numbers[:dimensions], numbers[-dimensions:] if dimensions else ()
    # Two corners that are the same point print as one.
    return ",".join(
        "(" + ", ".join(map(float8_words, corner)) + ")" for corner in ([low] if low == high else [low, high])
    )
