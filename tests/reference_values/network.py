"""Reference: inet, cidr, macaddr, macaddr8.

Source: server files `utils/adt/network.c`, `mac.c`, `mac8.c`.
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import TypeAlias

from tests.reference_values.reading import BadValue, ascii_of, matched, need

Inet: TypeAlias = IPv4Address | IPv6Address | IPv4Interface | IPv6Interface
Cidr: TypeAlias = IPv4Network | IPv6Network


def address(text: str) -> IPv4Address | IPv6Address:
    """An address; none with a zone."""
    need("%" not in text, "not an address")
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except ValueError:
        raise BadValue("not an address") from None


def inet(host: IPv4Address | IPv6Address, bits: int) -> Inet:
    """The address alone when its mask is full."""
    need(0 <= bits <= host.max_prefixlen, "mask out of range")
    if bits == host.max_prefixlen:
        return host
    return IPv4Interface((host, bits)) if isinstance(host, IPv4Address) else IPv6Interface((host, bits))


def cidr(host: IPv4Address | IPv6Address, bits: int) -> Cidr:
    """A network: nothing is set behind the mask."""
    need(0 <= bits <= host.max_prefixlen, "mask out of range")
    need(int(host) % (1 << host.max_prefixlen - bits) == 0, "bits behind the mask")
    return IPv4Network((host, bits)) if isinstance(host, IPv4Address) else IPv6Network((host, bits))


def split(data: bytes) -> tuple[IPv4Address | IPv6Address, int]:
    """Address and mask from `10.1.2.3/8`, where a full mask may be left out."""
    text, slash, mask = ascii_of(data).partition("/")
    host = address(text)
    need(not slash or (mask.isdecimal() and len(mask) <= 3), "not a mask")
    return host, int(mask) if slash else host.max_prefixlen


def inet_text(data: bytes) -> Inet:
    """`10.1.2.3` or `10.1.2.3/8`."""
    return inet(*split(data))


def cidr_text(data: bytes) -> Cidr:
    """`10.0.0.0/8`."""
    return cidr(*split(data))


def unpacked(data: bytes, is_cidr: int) -> tuple[IPv4Address | IPv6Address, int]:
    """Family, mask, whether it is a cidr, length of the address, the address."""
    need(len(data) >= 4, "wrong length")
    family, bits, flag, length = data[:4]
    need(flag == is_cidr, "wrong flag")
    need((family, length) in ((2, 4), (3, 16)) and len(data) == 4 + length, "wrong family or length")
    return (IPv4Address(data[4:]) if length == 4 else IPv6Address(data[4:])), bits


def inet_binary(data: bytes) -> Inet:
    """An inet."""
    return inet(*unpacked(data, 0))


def cidr_binary(data: bytes) -> Cidr:
    """A cidr."""
    return cidr(*unpacked(data, 1))


def macaddr_text(data: bytes) -> str:
    """Six bytes in hexadecimal."""
    return matched(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", data).group()


def macaddr8_text(data: bytes) -> str:
    """Eight bytes in hexadecimal."""
    return matched(r"[0-9a-f]{2}(:[0-9a-f]{2}){7}", data).group()


def macaddr_binary(data: bytes) -> str:
    """Six bytes."""
    need(len(data) == 6, "wrong length")
    return data.hex(":")


def macaddr8_binary(data: bytes) -> str:
    """Eight bytes."""
    need(len(data) == 8, "wrong length")
    return data.hex(":")
