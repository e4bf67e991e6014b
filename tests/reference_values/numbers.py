"""Reference: int2, int4, int8, oid and their like, float4, float8, numeric, money.

Source: server files `utils/adt/int.c`, `float.c`, `numeric.c`, `cash.c`, `common/d2s.c`, `common/f2s.c`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, Inexact, InvalidOperation
from fractions import Fraction

from pgcdc.protocol import PgText
from tests.reference_values.reading import matched, need, text_of, unpack

EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation, Inexact])


def integer(bits: int, signed: bool = True) -> tuple[Callable[[bytes], int], Callable[[bytes], int]]:
    """Text and binary form of int2, int4, int8, oid, xid, cid and xid8."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    code = {16: "h", 32: "i", 64: "q"}[bits]

    def from_text(data: bytes) -> int:
        value = int(matched(r"-?[0-9]{1,20}", data).group())
        need(low <= value <= high, "out of range")
        return value

    def from_binary(data: bytes) -> int:
        value: int = unpack(">" + (code if signed else code.upper()), data)[0]
        return value

    return from_text, from_binary


FLOAT = r"(?:-?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|Infinity)|NaN)"


def float_text(data: bytes) -> float:
    """float4 and float8 as printed with extra_float_digits >= 1: the shortest decimal that reads back the same."""
    return float(matched(FLOAT, data).group())


def float8_binary(data: bytes) -> float:
    """The eight bytes."""
    value: float = unpack(">d", data)[0]
    return value


def shortest(bits: int, mantissa_bits: int, bias: int) -> Decimal:
    """What `float4out` and `float8out` print for a positive finite number that is not zero, from its bits.

    The decimal with the fewest digits strictly inside the interval that rounds to the number, and of those the closest
    to it. The interval's ends are left out, although round-half-even would bring them back.

    Source:
        Server files `common/f2s.c`, `common/d2s.c`, with STRICTLY_SHORTEST = 0 (`common/ryu_common.h`).
    """

    def exact(pattern: int) -> Fraction:
        exponent, mantissa = pattern >> mantissa_bits, pattern & (1 << mantissa_bits) - 1
        if exponent == 0:
            return Fraction(mantissa) * Fraction(2) ** (1 - bias - mantissa_bits)
        return Fraction(mantissa | 1 << mantissa_bits) * Fraction(2) ** (exponent - bias - mantissa_bits)

    value = exact(bits)
    low, high = (exact(bits - 1) + value) / 2, (exact(bits + 1) + value) / 2  # above the largest: right here as well
    for exponent in range(len(str(int(value))), -400, -1):
        unit = Fraction(10) ** exponent
        below = value // unit
        inside = [digits for digits in (below, below + 1) if low < digits * unit < high]
        if inside:
            digits = min(inside, key=lambda n: (abs(n * unit - value), n % 2))
            return Decimal((0, tuple(map(int, str(digits))), exponent))
    raise AssertionError("every float has seventeen digits at most")


def shortest_float4(bits: int) -> Decimal:
    """What `float4out` prints for a positive finite float4 that is not zero."""
    return shortest(bits, 23, 127)


def float8_words(value: float) -> str:
    """What `float8out` prints."""
    bits: int = struct.unpack(">Q", struct.pack(">d", value))[0]
    sign, magnitude = "-" if bits >> 63 else "", bits & (1 << 63) - 1
    if magnitude > 0x7FF0 << 48:
        return "NaN"
    if magnitude == 0x7FF0 << 48:
        return sign + "Infinity"
    if magnitude == 0:
        return sign + "0"
    decimal = shortest(magnitude, 52, 1023).normalize()
    exponent = decimal.adjusted()
    if -4 <= exponent < 15:
        return f"{sign}{decimal:f}"
    digits = "".join(map(str, decimal.as_tuple().digits))
    mantissa = digits[0] + ("." + digits[1:] if digits[1:] else "")
    return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def float4_binary(data: bytes) -> float:
    """The float that the printed text reads as, so that text and binary are equal."""
    (bits,) = unpack(">I", data)
    sign, magnitude = bits >> 31, bits & 0x7FFFFFFF
    if magnitude > 0x7F800000:
        return float("nan")
    if magnitude == 0x7F800000:
        return float("-inf") if sign else float("inf")
    value = float(shortest_float4(magnitude)) if magnitude else 0.0
    return -value if sign else value


def numeric_text(data: bytes) -> Decimal:
    """Every digit that was printed."""
    return EXACT.create_decimal(matched(r"-?(?:[0-9]+(?:\.[0-9]+)?|Infinity)|NaN", data).group())


def numeric_binary(data: bytes) -> Decimal:
    """Base-10000 digits, their weight, the sign and the number of decimals to print."""
    need(len(data) >= 8, "wrong length")
    count, weight, sign, scale = struct.unpack_from(">HhHH", data)
    need(len(data) == 8 + 2 * count, "wrong length")
    if sign in (0xC000, 0xD000, 0xF000):
        return Decimal({0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}[sign])
    need(sign in (0, 0x4000), "unknown sign")
    need(scale <= 0x3FFF, "scale out of range")
    digits = struct.unpack_from(f">{count}H", data, 8)
    need(all(digit < 10000 for digit in digits), "digit out of range")

    def at(power: int) -> int:
        index = weight - power
        return int(digits[index]) if 0 <= index < count else 0

    whole = "".join(f"{at(power):04d}" for power in range(max(weight, 0), -1, -1)).lstrip("0") or "0"
    groups = -(-scale // 4)
    fraction = "".join(f"{at(-1 - group):04d}" for group in range(groups))[:scale]
    return EXACT.create_decimal(("-" if sign else "") + whole + ("." + fraction if fraction else ""))


def money_text(data: bytes) -> Decimal | PgText:
    """Dollars and cents with commas, as in the locale C; other locales print otherwise."""
    text = text_of(data)
    match = re.fullmatch(r"(-?)\$([0-9]{1,3}(?:,[0-9]{3})*\.[0-9]{2})", text, re.ASCII)
    return PgText(text) if match is None else Decimal(match[1] + match[2].replace(",", ""))


def money_binary(data: bytes) -> Decimal:
    """Cents."""
    cents: int = unpack(">q", data)[0]
    return Decimal(cents).scaleb(-2)
