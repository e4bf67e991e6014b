"""What happens in the source while several processes read from Kafka."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Database


class Load:
    """Transactions of any kind, one after another until it is ended, and statements between them.

    Args:
        database: Where the table `orders` is.
        seed: Of what is chosen.
        also: A statement of each transaction, with its number as parameter.
    """

    def __init__(self, database: Database, seed: int, also: str | None = None) -> None:
        self._database = database
        self._also = also
        self._chosen = random.Random(seed)
        self._between: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        chosen, key, number = self._chosen, 1000, 0
        with self._database.connect() as connection:
            while not (self._end.wait(0.02) and self._between.empty()):
                number += 1
                with contextlib.suppress(queue.Empty):
                    connection.execute(self._between.get_nowait())
                with connection.transaction():
                    for _ in range(chosen.randint(1, 6)):
                        key += 1
                        connection.execute("INSERT INTO orders (id, amount, note) VALUES (%s, 1.5, 'new')", (key,))
                    if self._also is not None:
                        connection.execute(self._also, (number,))
                    some = chosen.randint(1000, key)
                    changed = "UPDATE orders SET note = %s WHERE id BETWEEN %s AND %s"
                    connection.execute(changed, (f"{number}", some, some + 5))
                    if chosen.random() < 0.3:
                        connection.execute("DELETE FROM orders WHERE id = %s", (chosen.randint(1000, key),))
                    if chosen.random() < 0.02:
                        moved = "UPDATE orders SET id = id + 1000000 WHERE id = %s"
                        connection.execute(moved, (chosen.randint(1000, key),))

    def execute(self, statement: str) -> None:
        self._between.put(statement)

    def end(self) -> None:
        self._end.set()
        self._thread.join()
