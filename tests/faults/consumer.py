"""A program that reads a stream and keeps what it read in a file: it is killed, stopped, and measured by the tests.

Each transaction is one line; the last line is the position. A line that was cut by a kill is taken back at the start.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
from pathlib import Path
from types import FrameType

import pgcdc
from pgcdc.events import Commit, Insert
from pgcdc.replication import Stream


def main() -> None:
    """Read until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dsn")
    parser.add_argument("slot")
    parser.add_argument("log", type=Path)
    parser.add_argument("--streaming", default="off")
    parser.add_argument("--sums", type=int, help="only count and sum ids of so many transactions; then say the memory")
    arguments = parser.parse_args()

    stopping = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    start_lsn = resume(arguments.log)
    options = {"streaming": arguments.streaming, "max_memory": 1 << 22}
    with (
        pgcdc.connect(arguments.dsn) as connection,
        connection.stream(arguments.slot, ["p"], start_lsn=start_lsn, reconnect=True, **options) as stream,
        arguments.log.open("a") as log,
    ):
        print("running", flush=True)
        if arguments.sums:
            add_up(stream, arguments.sums)
            return
        rows: list[str] = []
        while not stopping:
            for event in stream.read(0.2).events(stream.format):
                if isinstance(event, Insert):
                    rows.append(f"{event.new.id}:{event.new.batch}")
                elif isinstance(event, Commit):
                    if rows:
                        log.write(f"{event.end_lsn} {event.commit_lsn} {','.join(rows)}\n")
                        log.flush()
                        os.fsync(log.fileno())
                    rows = []
                    stream.confirm(event)


def resume(log: Path) -> int:
    """Take back a line that is not whole, and give the position: where the last one ended."""
    if not log.exists():
        return 0
    text = log.read_text()
    whole = text[: text.rfind("\n") + 1]
    with log.open("r+") as file:
        file.truncate(len(whole))
    return int(whole.splitlines()[-1].split()[0]) if whole else 0


def add_up(stream: Stream, count: int) -> None:
    """Say of so many transactions with rows how many rows they have, and what the ids add up to; then the memory."""
    before = 0
    for transaction in stream.transactions():
        number = total = 0
        for change in transaction:
            if isinstance(change, Insert):
                number += 1
                total += change.new.id
                before = before or peak()  # whatever is needed for any row is there
        stream.confirm(transaction)
        if number:
            print(f"transaction {number} {total}", flush=True)
            count -= 1
        if not count:
            break
    print(f"grown {peak() - before}", flush=True)


def peak() -> int:
    """The most memory that this process had, in bytes.

    Linux's ru_maxrss begins with what the process had that started this one, and that is more than is looked for here.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
