"""The front door: what follows a database's changes, declared, and the verbs to run, stop and observe it.

Over 400 lines because the contract of each of these is written here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from pgcdc.connection_string import Dsn
from pgcdc.errors import ConfigError, ConnectionLost, Error, PositionError
from pgcdc.lsn import format_lsn
from pgcdc.pipeline import provision, publishing
from pgcdc.pipeline.deadletter import DeadLetterStore
from pgcdc.pipeline.deadletters import DeadLetters, letters_beside
from pgcdc.pipeline.kafka_address import KafkaAddress, parse_address
from pgcdc.pipeline.kafka_run import KafkaRun
from pgcdc.pipeline.migrations import Migrations
from pgcdc.pipeline.outline import PipelineOutline, outline
from pgcdc.pipeline.own_slots import LOOK_EVERY, Start, checked, joined, shared, store_beside, together
from pgcdc.pipeline.ownership import own
from pgcdc.pipeline.positions import (
    MemoryPositions,
    Move,
    PositionStore,
    StoredPosition,
    UnknownConsumer,
    own_slots_in,
    stored_in,
)
from pgcdc.pipeline.positions_postgres import PostgresPositions
from pgcdc.pipeline.progress import Waiters
from pgcdc.pipeline.provision import ProvisionPlan
from pgcdc.pipeline.pulse import Pulse
from pgcdc.pipeline.registration import Registration
from pgcdc.pipeline.run import Run
from pgcdc.pipeline.schemas import MemorySchemas, SchemaStore
from pgcdc.pipeline.schemas_postgres import PostgresSchemas
from pgcdc.pipeline.settings import Settings, SnapshotMode, check_settings, settings_beside, spool_place
from pgcdc.pipeline.signals import Signals
from pgcdc.pipeline.source import Source
from pgcdc.pipeline.spooling import (
    SpoolOptions,
    directory_of,
    is_there,
    move_spool,
    pass_spool_on,
    remove_spool,
    source_of,
)
from pgcdc.pipeline.start import check_left_behind, check_own_slots
from pgcdc.pipeline.statistics import PipelineStatistics, SourceStatistics
from pgcdc.pipeline.subscription import Around, Table, parse_table
from pgcdc.replication import Connection, Reconnect, connect
from pgcdc.schema import History, SchemaVersion

__all__ = ["Pipeline"]


class Pipeline(Registration):
    """One slot of a database, and the consumers of its changes.

    Args:
        name: Names the stored positions, and the slot and publication unless they are given.
        dsn: Where the source is, as libpq understands it; also a URL of SQLAlchemy.
        tables: The tables: `"orders"` (in the schema public), `"sales.orders"`, or a pair of schema and name.
        publication: The publication's name; made for the tables when it does not exist. Default: `pgcdc_` and the name.
        slot: The slot's name; made with the initial copy. Default: likewise.
        snapshot: When existing rows are copied: `"initial"`: at the first start; `"never"`; `"always"`: at every start;
            `"only"`: copy and return, with a temporary slot and no stored positions; `"when_needed"`: as initial, and
            again when the slot was lost or dropped. A table or consumer that is added later gets its rows while the
            stream goes on, except with `"never"`.
        snapshot_connections: How many connections copy existing rows, at most.
        show_progress: Draw a bar on stderr while they are copied, where that is a terminal and the extra `cli` is
            there. Elsewhere, and without it, lines of the log "pgcdc.snapshot" say how far it is.
        positions: Where positions are kept. Default: the table `pgcdc.positions` in the source database.
        dead_letters: Where changes are kept that a consumer could not be given (`on_failure=`). Default: beside the
            positions; beside those of a store of one's own, the table `pgcdc.dead_letters` in the source database.
        max_rows_in_flight: How many changes may wait for each consumer, at most.
        max_bytes_in_flight: How many bytes of raw messages may wait for each consumer, at most.
        reconnect: What becomes of a run that has lost the server, or the one that keeps the positions. True: it goes on
            when the server is back, however long that takes, with pauses that grow to 15 seconds. A `Reconnect` has
            pauses of its own, and a time after which it ends. False: it ends with `ConnectionLost`.
        spool: A directory for what waits for slow consumers and does not fit into memory, in a directory for each
            consumer: then no consumer keeps another one waiting. `SpoolOptions` say how much it may be. None: what
            does not fit waits on the server, and the others wait with it.
        confirm_spooled: Whether the slot may be confirmed past what is only in spools, so that the server can remove
            WAL. It takes a directory that outlives the machine or container.
        standby: Wait while another process has the pipeline, and take over when it ends. False: end with `SlotInUse`.
        source: Where changes come from. None: from the slot. `"kafka://broker:9092/PREFIX"`: from the topics that a
            sink `Kafka(…, prefix="PREFIX", format="pgcdc")` of another pipeline writes; any number of processes share
            them. No slot is made or read then; the database is asked for types, and keeps what it kept before.

    Raises:
        ConfigError: When an argument is not as it must be.
    """

    def __init__(
        self,
        name: str,
        dsn: Dsn = "",
        tables: Collection[str | Table] = (),
        *,
        publication: str | None = None,
        slot: str | None = None,
        snapshot: SnapshotMode = "initial",
        snapshot_connections: int = 2,
        show_progress: bool = False,
        positions: PositionStore | None = None,
        dead_letters: DeadLetterStore | None = None,
        max_rows_in_flight: int = 20_000,
        max_bytes_in_flight: int = 16 * 1024 * 1024,
        reconnect: bool | Reconnect = True,
        spool: str | PathLike[str] | SpoolOptions | None = None,
        confirm_spooled: bool = False,
        standby: bool = False,
        source: str | None = None,
    ) -> None:
        settings = check_settings(
            name=name,
            dsn=dsn,
            tables=tables,
            publication=publication,
            slot=slot,
            snapshot=snapshot,
            snapshot_connections=snapshot_connections,
            show_progress=show_progress,
            max_rows_in_flight=max_rows_in_flight,
            max_bytes_in_flight=max_bytes_in_flight,
            reconnect=reconnect,
            spool=spool,
            confirm_spooled=confirm_spooled,
            standby=standby,
            source=source,
        )
        if source is not None:
            parse_address(source, name)  # says what cannot be meant
        store = PostgresPositions(settings.dsn) if positions is None else positions
        self._set_up(settings, store, letters_beside(store, settings.dsn) if dead_letters is None else dead_letters)

    _letters_go: frozenset[str] | None = None
    """The consumers whose dead letters `destroy()` removes; None: all."""

    def _set_up(self, settings: Settings, store: PositionStore, letters: DeadLetterStore) -> None:
        super().__init__(settings)
        self._store = store
        self._schemas = _schemas_beside(store, settings.dsn)
        self._own_letters = self._letters = letters
        self._beside: dict[str, Pipeline] = {}
        self._waiters = Waiters()
        self._lock = threading.Lock()
        self._run: Run | KafkaRun | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pulse: Pulse | None = None
        self._last: PipelineStatistics | None = None
        self._stop_early = False
        self._apart = False
        self._joint = False
        self._ran_beside = False
        self._around: Around | None = None

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self._settings.name

    @property
    def dead_letters(self) -> DeadLetters:
        """The changes that its consumers could not be given; to be listed, delivered again, dropped."""
        return DeadLetters(self._letters, self.name)

    # Running.

    def run(self, *, source: str | None = None) -> None:
        """Run until it is stopped, on an event loop of its own; SIGTERM and SIGINT stop it.

        What is queued then is finished within 5 s, positions are stored and confirmed, and it returns.

        Args:
            source: Where changes come from, in this run; None: as the pipeline was told.

        Raises:
            Error: When it cannot start or cannot go on; nothing is confirmed past what could not be delivered.
        """
        try:
            with contextlib.closing(Signals(self._signalled)):
                asyncio.run(self.arun(source=source))
        finally:
            for one in (self, *self._beside.values()):
                one._stop_early = False  # A second signal may have come when this run had ended already.

    async def arun(self, *, source: str | None = None) -> None:
        """As `run`, on the running event loop; signals are the caller's. Cancelling it drains in the same way.

        Args:
            source: See `run`.

        Raises:
            Error: When it cannot start or cannot go on.
            CancelledError: After the drain, when it was cancelled.
        """
        error: BaseException | None = None
        try:
            await self._arun(self._settings.source if source is None else source)
        except BaseException as raised:
            error = raised
            raise
        finally:
            # Also where nothing has begun.
            for one in () if self._joint else (self, *self._beside.values()):
                if one._run is None:
                    one._fail_waiters(error)

    async def _arun(self, url: str | None) -> None:
        if url:
            address = parse_address(url, self.name)
            await self._arun_from(Source, self._store, self._schemas, self._own_letters, address)
        elif self._settings.snapshot == "only":
            await self._arun_from(Source, MemoryPositions(), MemorySchemas(), self._own_letters)
        elif beside := self._own_slots():
            await self._arun_together(beside)
        else:
            await self._arun_from(Source, self._store, self._schemas, self._own_letters)

    async def _arun_together(self, beside: Mapping[str, Pipeline]) -> None:
        with self._lock:
            if self._joint or self._run is not None:
                raise self._runs_already()
        own, theirs = self._migrations.split(beside)
        shared_one, start = len(beside) < len(self._subscriptions), Start()
        self._joint = self._closed = True
        try:
            runs = []
            if shared_one:
                parts = (Source, self._store, self._schemas, self._own_letters)
                runs = [self._watched(start), start.by(self._arun_from(*parts, but=beside, migrations=own))]
            else:
                own.check({})  # those of the pipeline run before what comes from its slot
                if not await checked(self._check_alone, lambda: self._stop_early):
                    return
                start.begun()
            for name, one in beside.items():
                one._migrations = theirs[name]
                one._around = self._around
                one._stop_early = one._stop_early or self._stop_early
                runs.append(start.behind(name, one.arun))
            await together(runs)
        finally:
            self._joint = self._closed = False
            self._ran_beside = True
            for one in (self, *beside.values()):
                one._stop_early = False

    async def _watched(self, start: Start) -> None:
        """Tell when the half on the pipeline's slot has begun: while that waits, or is refused, none beside begins."""
        while not start.is_decided:
            run = self._run
            if run is not None and run.statistics().source.phase in ("snapshot", "streaming"):
                start.begun()
            else:
                await asyncio.sleep(LOOK_EVERY)

    def _check_alone(self) -> None:
        """Nothing runs on the pipeline's slot, so nothing else would see what is stored of it."""
        store = store_beside(self._store, self.name)
        with contextlib.suppress(ConnectionLost), contextlib.closing(store):  # those who run will wait for it
            store.open()
            check_left_behind(self._settings, store.load(self.name))
            check_own_slots(self._beside_settings(), own_slots_in(store, self.name))

    def _beside_settings(self) -> Settings:
        return replace(self._settings, own_slots=frozenset(self._with_own_slots()))

    def _with_own_slots(self) -> list[str]:
        if self._settings.snapshot == "only":  # there is no slot then
            return []
        return [name for name, one in self._subscriptions.items() if one.options.own_slot]

    def _own_slots(self) -> Mapping[str, Pipeline]:
        """The pipelines beside this one, by the consumer that each is for."""
        for name in self._with_own_slots():
            if name not in self._beside:
                self._beside[name] = self._beside_for(name)
        return self._beside

    def _beside_for(self, consumer: str) -> Pipeline:
        """The pipeline of a consumer with its own slot; of one that is not registered with it any more, a bare one."""
        if consumer in self._beside:
            return self._beside[consumer]
        subscription = self._subscriptions.get(consumer)
        one = object.__new__(Pipeline)
        settings = settings_beside(self._settings, consumer, () if subscription is None else subscription.tables)
        one._set_up(settings, store_beside(self._store, self.name), self._own_letters)
        one._letters_go = self._letters_go
        if subscription is not None:
            one._subscriptions[consumer] = shared(subscription)
        return one

    async def _arun_from(
        self,
        make_source: Callable[..., Any],
        store: PositionStore,
        schemas: SchemaStore,
        letters: DeadLetterStore | None = None,
        address: KafkaAddress | None = None,
        but: Collection[str] = (),
        migrations: Migrations | None = None,
    ) -> None:
        """Run with changes and positions from anywhere; `pgcdc.testing` plays them, with dead letters beside these."""
        played = letters is None
        self._letters = letters_beside(store, self._settings.dsn) if letters is None else letters
        around = self._around
        subscriptions = {
            name: replace(one, around=around) for name, one in self._subscriptions.items() if name not in but
        }
        if not subscriptions:
            raise ConfigError(
                f"pipeline {self.name!r} has no consumers", hint='@pipeline.on("orders") or pipeline.add(sink)'
            )
        migrations = self._migrations if migrations is None else migrations
        migrations.check(subscriptions)
        with self._lock:
            if self._run is not None:
                raise self._runs_already()
            parks = any(one.options.on_failure != "stop" for one in subscriptions.values())
            parts = (
                self._beside_settings() if but else self._settings,
                subscriptions,
                store,
                self._waiters,
                schemas,
                migrations,
            )
            run: Run | KafkaRun
            if address is not None:
                run = KafkaRun(*parts, self._letters, address=address)
            else:
                # What is played connects to nothing that it does not need.
                run = Run(*parts, make_source, None if played and not parks else self._letters)
            self._run = run
            self._apart = bool(but)
            self._loop = asyncio.get_running_loop()
            pulse = self._pulse = Pulse(self._loop)
            self._closed = True
            if self._stop_early:
                run.stop()
        error: BaseException | None = None
        try:
            await _undisturbed(run)
        except BaseException as raised:
            error = raised
            raise
        finally:
            pulse.end()
            self._last = msgspec.structs.replace(run.statistics(), stored_ago=None)
            with self._lock:
                self._run = self._loop = self._pulse = None
                self._closed = self._joint
                self._stop_early = False
            self._fail_waiters(error)

    def _runs_already(self) -> ConfigError:
        return ConfigError(f"pipeline {self.name!r} runs already in this process")

    def _fail_waiters(self, error: BaseException | None) -> None:
        stopped = Error(f"pipeline {self.name!r} was stopped before it was so far")
        self._waiters.fail(error if isinstance(error, Exception) else stopped)

    def stop(self) -> None:
        """Stop the running pipeline; before its first run, that run. After the last run it does nothing.

        From any thread, or a signal handler.
        """
        for one in list(self._beside.values()):
            one._stop_early = self._joint and one._run is None  # it is about to begin, or does not
            one.stop()
        loop, run = self._loop, self._run
        if run is None or loop is None:
            self._stop_early = self._stop_early or self._joint or not (self._last or self._ran_beside)
            return
        with contextlib.suppress(RuntimeError):  # The loop has ended in this moment.
            loop.call_soon_threadsafe(run.stop)

    def _signalled(self) -> None:
        for one in (self, *self._beside.values()):
            if one._run is None:
                one._stop_early = True  # `run` is about to begin: it has set the signals up.
            else:
                one.stop()

    # Observing.

    def around_writes(self, around: Around | None) -> None:
        """Have something entered around each write of a batch to a consumer: a span, a timer.

        It is entered on the event loop, before the first attempt, and left when the batch is durable, or with what the
        consumer ends with. What it raises ends the pipeline.

        Args:
            around: Called with the consumer's name and the batch; gives a context manager. None: nothing, from the next
                run on.
        """
        self._around = around

    def statistics(self) -> PipelineStatistics:
        """What can be said of the running pipeline, or of the last run; from any thread.

        Returns:
            Frozen numbers.
        """
        beside = {name: one.statistics() for name, one in list(self._beside.items()) if one._run or one._last}
        run, pulse, own = self._run, self._pulse, self._last
        if run is not None:
            own = msgspec.structs.replace(run.statistics(), loop_ago=None if pulse is None else pulse.seconds)
        if beside:
            return joined(self.name, own, beside)
        if own is not None:
            return own
        source = SourceStatistics(phase="stopped", received_lsn=0, confirmed_lsn=0, binary=None, lag=0)
        return PipelineStatistics(name=self.name, source=source, consumers={})

    def outline(self) -> PipelineOutline:
        """What it is made of: names, tables, consumers and their policies; no secret is among them.

        Returns:
            Frozen values.
        """
        return outline(
            self._settings,
            list(self._subscriptions.values()),
            self._migrations,
            type(self._store),
            durable=not isinstance(self._store, MemoryPositions),
        )

    async def wait(self, lsn: int) -> None:
        """Wait until every consumer has done everything that committed before an LSN.

        Args:
            lsn: Of `SELECT pg_current_wal_flush_lsn()`, say, after a commit. On a quiet server keepalives do.

        Raises:
            Error: When the pipeline ends before.
        """
        await asyncio.gather(*map(asyncio.wrap_future, self._reaching(lsn)))

    def wait_sync(self, lsn: int, timeout: float | None = None) -> None:
        """As `wait`, blocking: not on the event loop that the pipeline runs on.

        Args:
            lsn: What must be reached.
            timeout: How long to wait, in seconds; None: for ever.

        Raises:
            TimeoutError: When it is not reached in time.
            Error: When the pipeline ends before.
        """
        futures = self._reaching(lsn)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            for future in futures:
                future.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise TimeoutError(f"pipeline {self.name!r} did not reach {format_lsn(lsn)} within {timeout} s") from None
        finally:
            for future in futures:
                future.cancel()

    def _reaching(self, lsn: int) -> list[Future[None]]:
        """What is done when the consumers on the pipeline's slot, and each that has its own, have come so far."""
        run = self._run
        if isinstance(run, KafkaRun):
            raise ConfigError(
                f"pipeline {self.name!r} reads from Kafka, where no process knows how far the others are",
                hint="the lag of its consumer groups says that: `kafka-consumer-groups --describe`",
            )
        beside = self._own_slots() if run is None or self._apart else {}
        futures = [future for one in beside.values() for future in one._reaching(lsn)]
        if len(beside) < len(self._subscriptions) or not beside:
            futures.append(self._waiters.add(lsn))
        if run is not None:
            run.progressed()  # It may be reached already, and nothing more happen.
        return futures

    # Before the first run, and after the last.

    def plan_init(self) -> ProvisionPlan:
        """Say what `init` would make, and what is there already; nothing is changed.

        Returns:
            The plan, for `print` and for `msgspec.json.encode`.

        Raises:
            ConfigError: When the server cannot serve a stream, or a table does not exist or cannot be published.
            SlotNotFound: When positions are stored of a slot that is gone.
            PositionError: When they are of another server.
            ConnectionLost: When a server cannot be reached.
        """
        with connect(self._settings.dsn) as connection:
            stored = self._stored_there() or {}
            return provision.plan_init(connection, self.name, self._provided(), self._stores(), stored)

    def init(self, plan: ProvisionPlan | None = None) -> ProvisionPlan:
        """Make what a run needs and would make itself: for a role that may, before one runs it that may less.

        The slot is made by the first run, together with the copy of existing rows; here only for `snapshot="never"`.

        Args:
            plan: What `plan_init` gave and somebody has agreed to: nothing else is made. None: whatever is missing.

        Returns:
            What was made.

        Raises:
            Error: When something cannot be made.
        """
        with connect(self._settings.dsn) as connection:
            if plan is None:
                stored = self._stored_there() or {}
                plan = provision.plan_init(connection, self.name, self._provided(), self._stores(), stored)
            provision.provide(connection, self._provided(), plan, self._stores())
            return plan

    def plan_destroy(self) -> ProvisionPlan:
        """Say what `destroy(tables=True)` would remove, and what stays; nothing is changed.

        Returns:
            The plan.

        Raises:
            ConnectionLost: When a server cannot be reached.
        """
        with connect(self._settings.dsn) as connection:
            all_of_them = (self, *(one for one in self._all_beside() if one._is_its_own(connection)))
            spools = sorted({str(path) for one in all_of_them for path in one._spools() if path.exists()})
            settings = [one._settings for one in all_of_them]
            return provision.plan_destroy(connection, self.name, settings, self._stores(), spools)

    def _provided(self) -> list[Settings]:
        """What has a slot and a publication: this, unless each of its consumers has its own, and those."""
        beside = self._own_slots()
        own = [self._settings] if len(beside) < len(self._subscriptions) or not beside else []
        return [*own, *(one._settings for one in beside.values())]

    def _stored_there(self) -> Mapping[str, Mapping[str, StoredPosition]] | None:
        """What is stored of what `_provided` gives, by name; None when this kind of store cannot be asked."""
        return stored_in(self._store, [one.name for one in self._provided()])

    def _stores(self) -> tuple[Any, ...]:
        return self._store, self._schemas, self._own_letters

    def destroy(self, *, tables: bool = False) -> None:
        """Drop the slot, the publication if a pipeline made it, spools, stored positions and dead letters.

        What is missing is no error; a slot of this name that another database has stays. What consumers have that have
        slots of their own goes with it.

        Args:
            tables: Drop also the tables of pipelines in PostgreSQL, where no other pipeline uses them, and their schema
                when pgcdc has made it.

        Raises:
            SlotInUse: When it runs, here or elsewhere.
            Error: When the server cannot be reached or refuses.
        """
        plan = self.plan_destroy() if tables else None
        self._remove(all_letters=tables)
        for one in self._all_beside():
            one._remove_beside(all_letters=tables)
        if plan is not None:
            with connect(self._settings.dsn) as connection:
                provision.remove_tables(connection, plan, self._stores())

    def _remove(self, *, all_letters: bool) -> None:
        with self._owned(), connect(self._settings.dsn) as connection:
            own(connection, self._settings.slot, _sleep)
            self._drop_slot(connection)
            self._forget_letters(all_of_them=all_letters)
            for directory in self._spools():
                remove_spool(directory, self._settings.slot, source_of(connection))
            self._store.forget(self.name)
            self._schemas.forget(self.name)

    def _forget_letters(self, *, all_of_them: bool) -> None:
        letters = self._own_letters
        if all_of_them or self._letters_go is None:
            letters.forget(self.name)
            return
        having = set(letters.marks(self.name))
        stay = having - self._letters_go
        letters.forget(self.name, {*self._subscriptions, *self._store.load(self.name), *having} - stay)
        for consumer in stay:
            letters.rename(self.name, consumer, consumer)  # so the next run's owner may begin with the first epoch

    def _drop_slot(self, connection: Connection) -> None:
        slot = connection.slot(self._settings.slot)
        # Names of slots are a server's: in a copy of a database this is the one of the original.
        if slot is not None and slot.database == connection.database:
            connection.drop_slot(self._settings.slot, if_exists=True)
        publishing.drop(connection, self._settings)

    # Stored positions, while it does not run.

    def forget(self, consumer: str) -> None:
        """Remove the stored position of a consumer that is not wanted any more, and its spool in the pipeline's.

        Of one that has a slot of its own, that goes, too; but what it has left on the pipeline's slot goes first, and
        alone. With the last one on a slot that slot goes, which would keep WAL for nobody, and the publication if a
        pipeline made it.

        Args:
            consumer: Its name.

        Raises:
            PositionError: When there is no such position.
            SlotInUse: When the pipeline runs, here or elsewhere.
        """
        with self._owned():
            left_behind = consumer in self._store.load(self.name)
            has_own = consumer in {*self._with_own_slots(), *own_slots_in(self._store, self.name)}
        if has_own and not left_behind:
            self._beside_for(consumer)._remove_beside()
            return
        with self._owned(), connect(self._settings.dsn) as connection:
            own(connection, self._settings.slot, _sleep)
            self._stored(consumer)
            is_last = len(self._store.load(self.name)) == 1
            if is_last:
                self._drop_slot(connection)
            self._own_letters.forget(self.name, [consumer])
            for directory in self._spools(consumer):
                remove_spool(directory, self._settings.slot, source_of(connection), consumer)
            self._store.forget(self.name, [consumer])
            self._schemas.forget(self.name, None if is_last else [consumer])

    def rename(self, consumer: str, new: str) -> None:
        """Let a consumer go on under another name.

        Args:
            consumer: The name that its position is stored under.
            new: The name that it is registered with now.

        Raises:
            PositionError: When there is no such position, or the new name has one already.
            PositionError: When the slot is confirmed past its spool, and that is not where this pipeline has any.
            SlotInUse: When the pipeline runs, here or elsewhere.
        """
        with self._owned(), connect(self._settings.dsn) as connection:
            own(connection, self._settings.slot, _sleep)
            if consumer in own_slots_in(self._store, self.name) and consumer not in self._store.load(self.name):
                raise PositionError(
                    f"consumer {consumer!r} of pipeline {self.name!r} has a slot of its own, which cannot be renamed",
                    hint=f"name={consumer!r} keeps it; or Pipeline.forget({consumer!r}), and a new copy for {new!r}",
                )
            row = self._stored(consumer)
            renamed, found = msgspec.structs.replace(row, consumer=new), self._store.load(self.name).get(new)
            if found is None:  # else it is refused below, or was done already
                source = source_of(connection)
                if row.spool is not None and not is_there(row.spool, self._spools(new) | self._spools(consumer)):
                    raise PositionError(
                        f"consumer {consumer!r} of pipeline {self.name!r} has spool {row.spool}, which the slot is"
                        " confirmed past, and none of the pipeline's directories is that one",
                        hint=f"rename it with the pipeline on which {new!r} is registered with its spool",
                        slot=self._settings.slot,
                    )
                move_spool(self._settings.spool, self._settings.slot, consumer, new, source)
                for directory in self._spools(new) | self._spools(consumer):
                    pass_spool_on(directory, self._settings.slot, consumer, new, source)
            self._schemas.rename(self.name, consumer, new)
            # In this order: a crash in between leaves both, the next start says so, and the same call goes on.
            if found != renamed:
                self._store.move(self.name, [Move(None, renamed)])
            self._own_letters.rename(self.name, consumer, new)
            self._store.forget(self.name, [consumer])

    def schema_history(self, table: str | Table | None = None) -> list[SchemaVersion]:
        """Read the versions that the pipeline's tables have had; also while it runs.

        Args:
            table: Only those of this table, by its latest name, or by any that it had.

        Returns:
            By table, the oldest first.

        Raises:
            ConnectionLost: When the server that keeps them cannot be reached.
        """
        store = _schemas_beside(self._store, self._settings.dsn)  # one of its own: the run may be using the other
        if not getattr(store, "is_there", lambda: True)():
            return []  # who looks makes nothing
        store.open()
        try:
            beside = [settings_beside(self._settings, consumer, ()).name for consumer in self._with_own_slots()]
            tables: dict[int, list[SchemaVersion]] = {}
            for name in (self.name, *beside):
                for oid, versions in itertools.groupby(sorted(store.versions(name), key=_oid), key=_oid):
                    # Each slot has its own; who has seen more of a table knows more.
                    tables[oid] = max(tables.get(oid, []), list(versions), key=len)
            history = History([version for versions in tables.values() for version in versions])
        finally:
            store.close()
        if table is None:
            return history.of()
        wanted = parse_table(table)
        oids = {version.oid for version in history.of() if (version.schema, version.table) == wanted}
        return history.of(lambda version: version.oid in oids)

    def _spools(self, only: str | None = None) -> set[Path]:
        """The directories of spools: of one consumer, or of all that are registered or ever were in the pipeline's."""
        settings = self._settings
        places = [spool_place(settings, one) for name, one in self._subscriptions.items() if only in (None, name)]
        found = {place.directory for place in places if place is not None}
        if settings.spool is not None:
            above = Path(settings.spool.directory) / settings.slot
            found |= {directory_of(settings.spool, settings.slot, only)} if only else set(above.glob("*"))
        return found

    def _all_beside(self) -> list[Pipeline]:
        """The pipelines beside this one, also of consumers that are not registered any more."""
        with self._owned():
            names = {*self._with_own_slots(), *own_slots_in(self._store, self.name)}
        return [self._beside_for(name) for name in sorted(names)]

    def _remove_beside(self, *, all_letters: bool = True) -> None:
        with self._owned(), connect(self._settings.dsn) as connection:
            its_own = self._is_its_own(connection)
        if its_own:
            self._remove(all_letters=all_letters)

    def _is_its_own(self, connection: Connection) -> bool:
        """Whether the slot of this name is that of this pipeline beside another, as far as anything says so."""
        store = store_beside(self._store, self.name)
        with contextlib.closing(store):
            store.open()
            return bool(store.load(self.name)) or publishing.found(connection, self._settings).ours

    def _stored(self, consumer: str) -> Any:
        stored = self._store.load(self.name)
        if consumer not in stored:
            raise UnknownConsumer(
                f"pipeline {self.name!r} has no stored position for consumer {consumer!r}",
                hint=f"it has them for {', '.join(map(repr, sorted(stored))) or 'none'}",
            )
        return stored[consumer]

    @contextlib.contextmanager
    def _owned(self) -> Iterator[None]:
        if any(one._run is not None for one in (self, *self._beside.values())):
            raise ConfigError(f"pipeline {self.name!r} runs", hint="stop it first")
        with contextlib.closing(self._own_letters), contextlib.ExitStack() as stack:
            for store in (self._store, self._schemas):
                stack.callback(store.close)
                store.open()
            yield


def _oid(version: SchemaVersion) -> int:
    return version.oid


def _schemas_beside(positions: PositionStore, dsn: str) -> SchemaStore:
    """Where versions are kept: where the positions are, when that says where; else in the source database."""
    beside = getattr(positions, "schemas", None)
    return PostgresSchemas(dsn) if beside is None else beside()


async def _undisturbed(run: Run | KafkaRun) -> None:
    """Await a run to its end, also when this task is cancelled: then it is stopped first."""
    task = asyncio.create_task(run.run(), name="pgcdc-run")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if not task.cancelled():
                cancelled = error
                run.stop()
        except Exception:  # noqa: S110 (raised below)
            pass
    if cancelled is not None:
        cancelled.__context__ = task.exception()
        raise cancelled
    task.result()


def _sleep(seconds: float) -> None:
    threading.Event().wait(seconds)
