"""Batches for a sink that is written to without a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcdc.protocol import Batch
from pgcdc.testing import Capture

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgcdc.testing.changes import Change, Transaction


def batch_of(changes: Iterable[Change | Transaction], existing: Iterable[Change] = ()) -> Batch:
    """Changes as one batch that knows its tables' keys; rows of an initial copy before them."""
    capture = Capture.of(changes, existing)
    streamed = Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])
    return Batch.concat([*capture.existing, streamed]).with_primary_keys(capture.keys)
