"""Transforms: what a consumer gets, made of what the source sent; see `Pipeline.on` and `Pipeline.add`, `transform=`.

Each function here returns one. A function of one's own, `def f(change) -> change | None | [changes]`, is one too.
"""

from pgcdc.transforms.applying import Context, Shaped, Transform
from pgcdc.transforms.columns import drop, hashed, keep, mask, rename
from pgcdc.transforms.functions import enrich, route, where
from pgcdc.transforms.outbox import outbox

__all__ = [
    "Context",
    "Shaped",
    "Transform",
    "drop",
    "enrich",
    "hashed",
    "keep",
    "mask",
    "outbox",
    "rename",
    "route",
    "where",
]
