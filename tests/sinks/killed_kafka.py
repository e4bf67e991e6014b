"""A Kafka sink as a program, to be killed: `python -m tests.sinks.killed_kafka BOOTSTRAP PREFIX [before|after NUMBER]`.

It writes the batches of `batches` from where the sink's position says on, and kills itself at the commit of one of
them: when all of its records are with the broker and the transaction is open, or when it was committed.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final
from unittest import mock

from pgcdc.lsn import Position
from pgcdc.protocol import Batch
from pgcdc.sinks import kafka, kafka_transactions
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Table, insert, transaction

TABLE: Final = Table("numbers", {"id": "bigint"}, key=("id",))
ROWS: Final = 5


def batches() -> list[Batch]:
    """Eight batches of a few rows each."""
    changes = [
        transaction(*(insert(TABLE, {"id": first + row}) for row in range(ROWS))) for first in range(0, 40, ROWS)
    ]
    capture = Capture.of(changes)
    whole = Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])
    return whole.pieces(ROWS)


def main() -> None:
    """Write."""
    bootstrap, prefix, when, number = [*sys.argv[1:], "never", "0"][:4]
    commit, count = kafka_transactions.Transaction.commit, 0

    def killing(transaction: kafka_transactions.Transaction) -> None:
        nonlocal count
        count += 1
        if when == "before" and count == int(number):
            transaction._producer.flush(120)
            os.kill(os.getpid(), signal.SIGKILL)
        commit(transaction)
        if when == "after" and count == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    sink = kafka.Kafka(bootstrap, prefix=prefix, format="json", partitions=3, timeout=120)
    with mock.patch.object(kafka_transactions.Transaction, "commit", killing):
        sink.open()
        for batch in batches():
            last, stored = batch.last_position, sink.position()
            # What a pipeline gives again that has not stored how far it was: the last one once more.
            if stored is None or last is None or last >= Position(*stored):
                sink.write(batch)
        sink.close()


if __name__ == "__main__":
    main()
