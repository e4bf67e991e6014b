"""A pipeline's run without a server: its consumers, queues and positions are the real ones, what they get is played."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from pgcdc.errors import PositionError
from pgcdc.lsn import Position
from pgcdc.pipeline import MemoryPositions, MemorySchemas, Pipeline, PipelineStatistics, PositionStore, StoredPosition
from pgcdc.pipeline.fanout import Fanout
from pgcdc.pipeline.items import Begin, CopyBegin, CopyEnd
from pgcdc.pipeline.ledger import Ledger
from pgcdc.pipeline.progress import Waiters
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.settings import Settings
from pgcdc.pipeline.statistics import Phase
from pgcdc.pipeline.subscription import Subscription
from pgcdc.pipeline.versioning import Versioning
from pgcdc.protocol import Assembler, Batch, Catalog
from pgcdc.replication import SnapshotProgress
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Change, Transaction

__all__ = ["Played", "aplay", "play"]

_SYSTEM: Final = "0"
_FINGERPRINT: Final = "played"


class Played(msgspec.Struct, frozen=True):
    """What came of it.

    Attributes:
        statistics: Of the run, at its end.
        positions: The store with what was stored; given to the next `play`, it goes on there.
    """

    statistics: PipelineStatistics
    positions: PositionStore

    def delivered(self, consumer: str) -> int:
        """How many changes became durable in a consumer.

        Args:
            consumer: Its name.
        """
        return self.statistics.consumers[consumer].delivered


def play(
    pipeline: Pipeline,
    what: Capture | Iterable[Transaction | Change],
    *,
    existing: Iterable[Change] = (),
    positions: PositionStore | None = None,
    messages_at_once: int = 100,
) -> Played:
    """Play changes into a pipeline and wait until every consumer has them.

    Its handlers and sinks are called as they are by a run: each consumer by itself, from threads or the event loop. No
    server is asked for anything, so what a server would refuse is not noticed.

    Args:
        pipeline: The pipeline; its dsn and its positions are not used.
        what: Changes, transactions, or a capture.
        existing: Inserts of the rows that an initial copy brings, before everything else.
        positions: Where positions are kept; what a consumer has had according to them it does not get again. None: in
            memory, from the beginning.
        messages_at_once: How many messages one read of the stream holds.

    Returns:
        What came of it.

    Raises:
        Error: What the run ended with; what was delivered until then is stored.
    """
    return asyncio.run(aplay(pipeline, what, existing=existing, positions=positions, messages_at_once=messages_at_once))


async def aplay(
    pipeline: Pipeline,
    what: Capture | Iterable[Transaction | Change],
    *,
    existing: Iterable[Change] = (),
    positions: PositionStore | None = None,
    messages_at_once: int = 100,
) -> Played:
    """As `play`, on the running event loop.

    Args:
        pipeline: See `play`.
        what: Likewise.
        existing: Likewise.
        positions: Likewise.
        messages_at_once: Likewise.

    Returns:
        What came of it.

    Raises:
        Error: What the run ended with.
    """
    capture = what if isinstance(what, Capture) else Capture.of(what, existing)
    store = MemoryPositions() if positions is None else positions

    def source(
        settings: Settings,
        subscriptions: Mapping[str, Subscription],
        lanes: Mapping[str, Lane],
        ledger: Ledger,
        formats: RowFormats,
        versioning: Versioning,
        condition: threading.Condition,
        waiters: Waiters,
        ended: Callable[[BaseException | None], None],
    ) -> PlayedSource:
        del waiters  # they are told by the lanes, and nobody has to ask a server for keepalives
        return PlayedSource(
            capture, messages_at_once, settings, subscriptions, lanes, ledger, formats, versioning, condition, ended
        )

    schemas = getattr(store, "schemas", MemorySchemas)()
    await pipeline._arun_from(source, store, schemas)
    return Played(pipeline.statistics(), store)


class PlayedSource:
    """Takes the place of `pgcdc.pipeline.source.Source`.

    Args:
        capture: What is played.
        at_once: How many messages one read holds.
        settings: As there, like all that follow.
        subscriptions: Likewise.
        lanes: Likewise.
        ledger: Likewise.
        formats: Likewise.
        versioning: Likewise.
        condition: Likewise.
        ended: Likewise.
    """

    def __init__(
        self,
        capture: Capture,
        at_once: int,
        settings: Settings,
        subscriptions: Mapping[str, Subscription],
        lanes: Mapping[str, Lane],
        ledger: Ledger,
        formats: RowFormats,
        versioning: Versioning,
        condition: threading.Condition,
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self.asked = 0
        self.confirmed_lsn = 0
        self.received_lsn = 0
        self.binary: bool | None = None
        self.snapshot: SnapshotProgress | None = None
        self.unfinished_copy = False
        self.moved_ago: float | None = None
        self._capture = capture
        self._at_once = at_once
        self._settings = settings
        self._subscriptions = subscriptions
        self._lanes = lanes
        self._ledger = ledger
        self._formats = formats
        self._versioning = versioning
        self._condition = condition
        self._ended = ended
        self._fanout = Fanout(subscriptions, lanes, self._wait, formats.renamed, versioning)
        self._stopping = False
        self._over = False
        self._thread = threading.Thread(target=self._work, name=f"pgcdc-{settings.name}-source", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Play no more."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()

    def confirm(self, lsn: int) -> None:
        """Take down what a server would be told."""
        self.confirmed_lsn = max(self.confirmed_lsn, lsn)

    def finish(self, timeout: float) -> bool:
        """End the thread; blocks.

        Args:
            timeout: How long to wait for it, in seconds.

        Returns:
            Whether it has ended.
        """
        self.stop()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def interrupt(self) -> None:
        """Nothing that would have to be."""

    def lag_seconds(self, through_lsn: int) -> float | None:
        """Nothing: what is played committed at a time that was made up."""
        del through_lsn
        return None

    @property
    def phase(self) -> Phase:
        """What it does at present."""
        return "stopped" if self._over else "streaming"

    def _work(self) -> None:
        reason: BaseException | None = None
        try:
            with suppress(_Stopped):
                self._play()
        except BaseException as error:
            reason = error
        finally:
            self._over = True
            self._ended(reason)

    def _play(self) -> None:
        self._formats.use(Catalog())
        self._formats.order_by(self._capture.order(), self._capture.keys)
        messages = self._capture.messages
        start, end = self._capture.first_lsn, self._capture.end_lsn
        stored = self._ledger.open()
        self._versioning.open()
        self._own(stored, start, end)
        begun = {name for name, row in stored.items() if row.snapshot == "begun"}
        if begun or not stored:
            self._copy(start, begun)
        assembler = Assembler()
        through = start
        for first in range(0, len(messages), self._at_once):
            part = messages[first : first + self._at_once]
            for batch in assembler.read([payload for _, payload in part], [lsn for lsn, _ in part]):
                through = max(through, batch.end_lsn or 0)
                self._fanout.send(batch, through)
            through = max(through, assembler.confirmable_lsn)
            self.received_lsn = max(self.received_lsn, part[-1][0], through)
            self._fanout.send(Batch.of([]), through)
        self._wait(lambda: all(not lane.rows and lane.through_lsn >= through for lane in self._lanes.values()))

    def _own(self, stored: Mapping[str, StoredPosition], start: int, end: int) -> None:
        """Own the pipeline, and say where each consumer stands."""
        for name in stored:
            if name not in self._subscriptions:
                raise PositionError(f"these positions have a consumer {name!r}, and the pipeline has none")
        rows = [
            stored.get(name)
            or StoredPosition(
                consumer=name,
                epoch=0,
                snapshot="done" if subscription.copies else "none",
                position=None,
                through_lsn=start,
                slot=self._settings.slot,
                system_identifier=_SYSTEM,
                timeline=1,
                fingerprint=_FINGERPRINT,
            )
            for name, subscription in self._subscriptions.items()
        ]
        self._ledger.fingerprint = _FINGERPRINT
        self._ledger.put(rows)
        for name, row in self._ledger.stored.items():
            self._lanes[name].offer(Begin(row, max(end, row.through_lsn), exact=True))

    def _copy(self, start: int, begun: Collection[str]) -> None:
        """Bring the rows that exist: to all consumers, or again to those that an earlier run had begun to copy for."""
        existing: Sequence[Batch] = self._capture.existing
        if not existing and not self._capture.empty:
            return
        relations = {one.oid: one for one in self._capture.empty}
        relations |= {relation.oid: relation for batch in existing for relation in batch.relations}
        copying = [
            lane
            for name, lane in self._lanes.items()
            if self._subscriptions[name].copies and (name in begun or not begun)
        ]
        position = (existing[0].last_position if existing else None) or Position(start, -1)
        self._versioning.begin(relations.values(), position.commit_lsn, self._wait)
        for lane in copying:
            lane.offer(CopyBegin(list(relations.values()), position.commit_lsn, again=bool(begun)))
        for batch in existing:
            self._fanout.send(batch, start, only=copying)
        for lane in copying:
            lane.offer(CopyEnd())

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self._condition:
            while not self._stopping:
                if ready():
                    return
                # Lanes say when they have room; that a lane was moved on by its advance alone nobody says.
                self._condition.wait(0.05)
        raise _Stopped


class _Stopped(Exception):
    """The run is being stopped."""
