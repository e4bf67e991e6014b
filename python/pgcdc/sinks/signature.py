"""Signatures of webhooks: what the sender puts into a header, and what a receiver does with it. Needs no library."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import Final

from pgcdc.errors import Error

__all__ = ["SIGNATURE_HEADER", "InvalidSignature", "sign", "verify"]

SIGNATURE_HEADER: Final = "Pgcdc-Signature"
"""The header that has the signature."""


class InvalidSignature(Error):
    """A request was not signed with the secret, or too long ago: do nothing of what it says, and answer 400."""


def sign(body: bytes, secrets: Sequence[str], timestamp: int) -> str:
    """Sign a body.

    Args:
        body: The body of the request.
        secrets: The secrets; there are several while one takes the place of another.
        timestamp: Seconds since 1970.

    Returns:
        The value of the header: `t=1767225600,v1=5257a8…`, one `v1` for each secret.
    """
    return ",".join([f"t={timestamp}", *(f"v1={_digest(body, secret, str(timestamp))}" for secret in secrets)])


def verify(body: bytes, signature: str, secret: str, *, tolerance: float = 300.0, now: float | None = None) -> None:
    """Make sure that a request comes from who knows the secret, and is not an old one that was sent again.

    The signature is HMAC-SHA256, in hexadecimal digits, over the timestamp, a full stop, and the body as it came: look
    at it before the body is parsed.

    Args:
        body: The body of the request, as it came.
        signature: The value of the header `Pgcdc-Signature`.
        secret: The secret.
        tolerance: How old, or how far ahead, its timestamp may be, in seconds.
        now: Seconds since 1970; None for now.

    Raises:
        InvalidSignature: When it is not signed so.
    """
    parts = [part.strip().partition("=") for part in signature.split(",")]
    timestamps = [value for name, _, value in parts if name == "t"]
    digests = [value for name, _, value in parts if name == "v1"]
    if len(timestamps) != 1 or not (timestamps[0].isascii() and timestamps[0].isdigit()) or len(timestamps[0]) > 15:
        raise InvalidSignature("the signature has no timestamp", hint=f"see the header {SIGNATURE_HEADER}")
    expected = _digest(body, secret, timestamps[0])
    # All of them, each in a time that says nothing of where it differs.
    matches = [hmac.compare_digest(expected.encode(), digest.encode("utf-8", "replace")) for digest in digests]
    if not any(matches):
        raise InvalidSignature("the signature is not of this body and this secret")
    if abs((time.time() if now is None else now) - int(timestamps[0])) > tolerance:
        raise InvalidSignature(
            f"the signature was made more than {tolerance:g} s from now", hint="are the clocks right?"
        )


def _digest(body: bytes, secret: str, timestamp: str) -> str:
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
