"""Larger writes for those who ask for them: what comes within a time, and transactions whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pgcdc.errors import ConfigError
from pgcdc.lsn import SNAPSHOT_INDEX, Position, format_lsn
from pgcdc.pipeline.items import Rows
from pgcdc.pipeline.options import Options
from pgcdc.pipeline.queue import MERGED_ROWS, Lane
from pgcdc.protocol import Batch

__all__ = ["Unfinished", "gathered"]

MERGED_BYTES = 16 * 1024 * 1024
"""So many bytes of raw messages are gathered for a consumer that waits for more and does not say how many."""


class Unfinished(Exception):
    """The lane ended within a transaction: nothing of it was delivered, and it comes again."""


async def gathered(consumer: str, options: Options, lane: Lane, rows: Rows) -> AsyncIterator[Batch]:
    """Give what a lane has brought as batches that are to be delivered, with what comes behind it.

    Args:
        consumer: The consumer's name, for the error.
        options: What was said of it.
        lane: The lane; what is taken of it counts as worked on, together with `rows`.
        rows: What it has brought.

    Yields:
        Batches in order.

    Raises:
        Unfinished: When nothing more will come, and the end of a transaction is missing.
        ConfigError: When a transaction is larger than the consumer takes whole.
    """
    left = [rows.batch]
    if options.max_wait:
        await _wait(options, lane, left)
    if not options.transactions:
        yield _one(left)
        return
    while True:
        batch = _one(left)
        last = batch.last_position
        if last is None or last.index == SNAPSHOT_INDEX or lane.working_through() > last.commit_lsn:
            yield batch
            return
        begins = Position(last.commit_lsn, SNAPSHOT_INDEX)
        before = batch.up_to(begins)
        if before.changes_count:
            yield before
        left = [batch.after(begins)]
        if not await _rest(consumer, options, lane, left, last.commit_lsn):
            yield _one(left)
            return


async def _wait(options: Options, lane: Lane, left: list[Batch]) -> None:
    """Take what comes within the time that the consumer gives it, until it is as much as it takes at once."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + options.max_wait
    most, most_bytes = options.max_rows or MERGED_ROWS, options.max_bytes or MERGED_BYTES
    count, size = left[0].changes_count, left[0].nbytes
    while count < most and size < most_bytes and (seconds := deadline - loop.time()) > 0:
        batch = await lane.more(seconds)
        if batch is None or not batch.changes_count:
            return
        left.append(batch)
        count += batch.changes_count
        size += batch.nbytes


async def _rest(consumer: str, options: Options, lane: Lane, left: list[Batch], commit_lsn: int) -> bool:
    """Take what comes until a transaction is whole; whether there may be more behind it."""
    count, size = left[0].changes_count, left[0].nbytes
    while True:
        if count > options.transactions or size > options.max_transaction_bytes:
            raise ConfigError(
                f"consumer {consumer!r} takes whole transactions of {options.transactions} changes and"
                f" {options.max_transaction_bytes >> 20} MiB at most, and the one that commits at"
                f" {format_lsn(commit_lsn)} has more",
                hint="transactions=N and max_transaction_bytes=N take larger ones, which have to fit in memory; without"
                " them transactions are taken in parts: nothing of it was delivered",
                lsn=commit_lsn,
            )
        batch = await lane.more(None, commit_lsn)
        if batch is None:
            raise Unfinished
        if not batch.changes_count:
            return False
        left.append(batch)
        count += batch.changes_count
        size += batch.nbytes
        last = batch.last_position
        if last is not None and last.commit_lsn != commit_lsn:
            return True


def _one(batches: list[Batch]) -> Batch:
    return batches[0] if len(batches) == 1 else Batch.concat(batches)
