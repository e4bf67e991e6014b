"""A pipeline with some sinks, of which all but one are slow, as a program: its memory is measured.

`python -m tests.faults.large_pipeline DSN SLOT ROWS SLOW`
"""

from __future__ import annotations

import sys
import threading
import time

import pgcdc
from pgcdc.pipeline import MemoryPositions
from tests.faults.consumer import peak


class Sums:
    """Counts rows and adds their ids up; forgets them."""

    def __init__(self, name: str, rows: int, pause: float, done: threading.Semaphore) -> None:
        self.name = name
        self.rows = self.total = self.before = 0
        self._wanted = rows
        self._pause = pause
        self._done = done

    def open(self) -> None:
        """Nothing to open."""

    def write(self, batch: pgcdc.Batch) -> None:
        for change in batch.changes():
            assert isinstance(change, pgcdc.Insert)
            self.rows += 1
            self.total += change.new.id
            self.before = self.before or peak()  # whatever is needed for any row is there
        time.sleep(self._pause)
        if self.rows == self._wanted:
            self._done.release()

    def close(self) -> None:
        """Nothing to close."""


def main() -> None:
    """Run until every sink has all rows; then say what each had, and by how much memory grew."""
    dsn, slot, rows, slow = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    pipeline = pgcdc.Pipeline(
        "large", dsn, tables=["written"], slot=slot, publication="p", snapshot="never", positions=MemoryPositions()
    )
    done = threading.Semaphore(0)
    sinks = [Sums(f"sink{number}", rows, 0.01 if number else 0.0, done) for number in range(slow + 1)]
    for sink in sinks:
        pipeline.add(sink, name=sink.name)
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    print("running", flush=True)
    for _ in sinks:
        while not done.acquire(timeout=0.2):
            if not thread.is_alive():
                raise SystemExit("it ended")
    pipeline.stop()
    thread.join()
    for sink in sinks:
        print(f"sums {sink.rows} {sink.total}")
    print(f"grown {peak() - min(sink.before for sink in sinks)}", flush=True)


if __name__ == "__main__":
    main()
