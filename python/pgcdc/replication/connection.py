# Made from connection_async.py by ./dev lint --fix: change that file, not this one.
"""A replication connection: slots, and the one stream that it can carry at a time.

Over 400 lines, because all that can be asked of a stream is said here.

Source: PostgreSQL manual, "Streaming Replication Protocol".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcdc.connection_string import Dsn, dsn_of
from pgcdc.errors import ConfigError, PositionError
from pgcdc.lsn import format_lsn
from pgcdc.replication import server, slots, starting
from pgcdc.replication.administration import Administration
from pgcdc.replication.heartbeat import Heartbeat
from pgcdc.replication.session import Session
from pgcdc.replication.snapshot import Snapshot, take_snapshot
from pgcdc.replication.snapshot_plan import SPLIT_BYTES
from pgcdc.replication.sqlstate import Doing, connection_lost
from pgcdc.replication.stream import Stream
from pgcdc.replication.stream_options import Reconnect, StreamOptions, reconnecting
from pgcdc.replication.timeline import switch_point

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Literal, Self

    from pgcdc.protocol import RowFormat
    from pgcdc.replication.link import Link
    from pgcdc.replication.progress import Progress

__all__ = ["Connection", "connect"]


def connect(dsn: Dsn = "", *, connect_timeout: float = 10.0) -> Connection:
    """Connect to a database as a replication client.

    Args:
        dsn: A connection string or URI, also one of SQLAlchemy's. What it leaves open comes from PG* variables, service
            files and .pgpass; with several hosts each is tried. The application's name is pgcdc unless given.
        connect_timeout: Seconds for each host; a `connect_timeout` in the DSN or PGCONNECT_TIMEOUT comes first.

    Returns:
        The connection; a context manager.

    Raises:
        ConfigError: When the DSN is malformed, or the server refuses this role, database or host.
        ConnectionLost: When there is no server, or it cannot take a connection now.

    Source:
        PostgreSQL manual, "Streaming Replication Protocol"; libpq: PQconnectStart.
    """
    return Connection.connect(dsn, connect_timeout=connect_timeout)


class Connection(Administration):
    """A connection to a server for replication: slots, SQL, and one stream at a time.

    It is two sessions, the second made when it is first needed. The walsender takes replication commands only, never
    SQL: a query leaves the present shape of tables and publications in its caches, and decoding, which must see them as
    they were when a row was written, would believe those (seen on 14 to 18: a row decoded with a column that was added
    later, a publication found that did not exist yet). SQL goes to an ordinary session of the same server. So it can
    also be run while a stream is open, and does not end the life of an exported snapshot.

    Made by `connect`.

    Args:
        walsender: Takes the replication commands.
        dsn: As for `connect`.
        connect_timeout: As for `connect`.

    Attributes:
        dsn: The DSN as it was given. It may hold a password.
        system_identifier: Names the cluster; a standby has its primary's.
        timeline: The timeline of the WAL.
        database: The database's name.
    """

    def __init__(self, walsender: Session, dsn: str, connect_timeout: float) -> None:
        self.dsn = dsn
        self.system_identifier = ""
        self.timeline = 0
        self.database = ""
        self._connect_timeout = connect_timeout
        self._sender_timeout = 0.0
        self._walsender = walsender
        self._sql: Session | None = None
        self._stream: Stream | None = None

    @classmethod
    def connect(cls, dsn: Dsn = "", *, connect_timeout: float = 10.0) -> Self:
        """Connect; the contract is `connect`'s.

        Args:
            dsn: As there.
            connect_timeout: As there.

        Returns:
            The connection.
        """
        dsn = dsn_of(dsn)
        walsender = Session.connect(dsn, replication=True, connect_timeout=connect_timeout)
        connection = cls(walsender, dsn, connect_timeout)
        try:
            connection._identify()
        except BaseException:
            walsender.close()
            raise
        return connection

    def _identify(self) -> None:
        """Ask the server who it is."""
        identity = self._walsender.execute("IDENTIFY_SYSTEM", doing=Doing("identifying the server"))
        system_identifier, timeline, _, database = identity[0]
        self.system_identifier = system_identifier or ""
        self.timeline = int(timeline or 0)
        self.database = database or ""
        # This view is the same at all times, so the rule above is not broken.
        settings = server.show(self._walsender, "wal_sender_timeout")
        self._sender_timeout = int(settings["wal_sender_timeout"]) / 1000

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "streaming" if self._streaming else "open"
        return f"<pgcdc.replication.Connection to {self.database!r}, {state}>"

    @property
    def server_version(self) -> int:
        """The server's version as a number: 180004 for 18.4."""
        return self._walsender.server_version

    @property
    def backend_pid(self) -> int:
        """The process of the walsender, as `pg_stat_replication` and a slot's `active_pid` name it."""
        return self._walsender.pgconn.backend_pid

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._walsender.closed

    def close(self) -> None:
        """End the stream, if there is one, and the connection. Closing twice is no error."""
        try:
            if self._stream is not None:
                self._stream.close()
        finally:
            self._walsender.close()
            if self._sql is not None:
                self._sql.close()

    def execute(self, sql: str) -> list[tuple[str | None, ...]]:
        """Run SQL on the ordinary session beside the walsender; it is one session for as long as the connection lives.

        Args:
            sql: One or several statements. Values are written into it; `quoting.literal` does that safely.

        Returns:
            The rows of the last statement that gave any, every value as text.

        Raises:
            ConfigError: When the role may not do it, or something that the statement names is not there.
            ReplicationError: When the server refused otherwise.
            ConnectionLost: When the connection broke.

        Source:
            PostgreSQL manual, "Message Flow", Simple Query.
        """
        return self.session().execute(sql)

    def snapshot(
        self,
        slot: str | None,
        publications: Sequence[str],
        *,
        failover: bool = False,
        connections: int = 2,
        split_bytes: int = SPLIT_BYTES,
        timeout: float = 60.0,
    ) -> Snapshot:
        """Make a slot, and take all rows that publications publish, as they are at its consistent point.

        A stream from that slot then gives exactly what was changed since. The snapshot needs no lock but ACCESS SHARE,
        and that for each table only while it is copied.

        Args:
            slot: The name of the slot that is made; it stays, also when the rows are not read to the end. None: a
                temporary one that is gone with the snapshot.
            publications: The names of publications; they must exist.
            failover: As for `create_slot`.
            connections: How many connections share the snapshot, at most.
            split_bytes: Larger tables are cut into ranges of about so many bytes, which several connections can copy.
            timeout: As for `create_slot`; it is made again when what is published changes meanwhile, and may then
                take as long again.

        Returns:
            The snapshot; a context manager. This connection must take no replication command before it is entered.

        Raises:
            PublicationNotFound: When a publication does not exist.
            SnapshotStale: When what is published changed each time that the slot was made.
            ConfigError: When a limit cannot be; besides, as `create_slot`.
            ReplicationError: As `create_slot`.
            ConnectionLost: When the connection broke.

        Source:
            PostgreSQL manual, "Snapshot Synchronization Functions".
        """
        return take_snapshot(
            self,
            slot,
            publications,
            failover=failover,
            connections=connections,
            split_bytes=split_bytes,
            timeout=timeout,
        )

    def stream(
        self,
        slot: str,
        publications: Sequence[str],
        *,
        start_lsn: int = 0,
        binary: bool | None = None,
        streaming: Literal["off", "on", "parallel"] = "off",
        two_phase: bool = False,
        messages: bool | None = None,
        origin: Literal["any", "none"] | None = None,
        format: RowFormat | None = None,
        reconnect: bool | Reconnect = False,
        heartbeat: float | None = None,
        confirm_idle: bool = True,
        feedback: bool = True,
        receive_timeout: float = 60.0,
        max_memory: int = 1 << 25,
        spill_directory: str | None = None,
    ) -> Stream:
        """Start streaming.

        A walsender can stream only once, so a second stream of this connection gets a new session: temporary slots of
        the first are gone then.

        Args:
            slot: The slot's name.
            publications: The names of publications; they must exist.
            start_lsn: Where to start: transactions that committed before are left out. 0 for where the slot is. The
                server moves a start before the slot's own position forward to it without a word.
            binary: Ask for binary values. None: binary when every published column can be had and read in binary,
                else text, with one log line.
            streaming: `"on"` or `"parallel"`: large transactions come while they are under way, and are kept here until
                they are committed, so that they come out as any other. It spares the server its own spilling.
                `"parallel"` is `"on"` before PostgreSQL 16.
            two_phase: Have prepared transactions sent at their PREPARE; they are kept here and come out when they are
                committed. It cannot be taken back: from then on the slot is one with two_phase. Needs PostgreSQL 15.
            messages: Have logical messages sent; None: yes, unless there is a heartbeat.
            origin: `"none"`: only changes that were made on that server, not what was replicated to it. Needs
                PostgreSQL 16.
            format: How rows are given when events are iterated; the types of this database are added to its catalog,
                those that are created later too, when a table of a binary stream has one. A type that cannot be decoded
                is named by one log line then, and its values are bytes.
            reconnect: Make another connection when this one is lost, and go on where it was; what was handed over does
                not come again. How long to try, a `Reconnect` says. It needs a permanent slot.
            heartbeat: Seconds between two logical messages that are written on a session of their own, so that there is
                WAL also in a database that nobody writes to.
            confirm_idle: When everything that was handed over is confirmed, confirm also the WAL since, as keepalives
                tell of it: it has nothing for this stream.
            feedback: Send status updates by themselves, from a thread (or task) of their own, while the caller does not
                read.
            receive_timeout: Seconds that the server may leave a request for an answer unanswered, until the connection
                is taken for lost.
            max_memory: How many bytes of transactions under way are kept in memory; beyond that they go to files.
            spill_directory: Where these files are; None for the system's directory for temporary files.

        Returns:
            The stream; a context manager and an iterator of events.

        Raises:
            SlotNotFound: When there is no such slot.
            SlotInUse: When another process streams from it.
            SlotLost: When the server has given up WAL that it needs.
            PublicationNotFound: When a publication does not exist.
            PositionError: When `start_lsn` is beyond the server's WAL; a standby has a minute to replay it.
            ConfigError: When the slot is not one for pgoutput and this database, or the server does not know an option.
            ConnectionLost: When the connection broke.

        Source:
            PostgreSQL manual, "Streaming Replication Protocol", START_REPLICATION SLOT … LOGICAL.
        """
        options = StreamOptions(
            slot=slot,
            publications=[publications] if isinstance(publications, str) else list(publications),
            binary=binary,
            streaming=streaming,
            two_phase=two_phase,
            messages=heartbeat is None if messages is None else messages,
            origin=origin,
            confirm_idle=confirm_idle,
            feedback=feedback,
            receive_timeout=receive_timeout,
            reconnect=reconnecting(reconnect),
            heartbeat=heartbeat,
            max_memory=max_memory,
            spill_directory=spill_directory,
        )
        starting.check_start(slot, start_lsn)
        return self._start(options, start_lsn, format)

    def _start(self, options: StreamOptions, start_lsn: int, format: RowFormat | None) -> Stream:
        """Start streaming; the contract is `stream`'s."""
        walsender = self._idle_walsender()
        if self._stream is not None:
            walsender = self._renewed(options.slot)
        link, format, progress = starting.start(
            walsender,
            self.session(),
            self.database,
            options,
            start_lsn=start_lsn,
            format=format,
            progress=None,
            sender_timeout=self._sender_timeout,
            ask=self._another_session,
        )

        def again() -> Link:
            self._connect_again(progress)
            link, _, _ = starting.start(
                self._walsender,
                self.session(),
                self.database,
                options,
                start_lsn=progress.resume_lsn,
                format=format,
                progress=progress,
                sender_timeout=self._sender_timeout,
                ask=self._another_session,
            )
            return link

        heart = None
        if options.heartbeat is not None:
            heart = Heartbeat(options.heartbeat, self._another_session, options.slot)
        self._stream = Stream(link, format, options, progress, again, heart)
        return self._stream

    def _connect_again(self, progress: Progress) -> None:
        """New sessions in the place of those that were lost, to any server of the DSN that is the same one."""
        self._walsender.close()
        if self._sql is not None:
            self._sql.close()
            self._sql = None
        renewed = Connection.connect(self.dsn, connect_timeout=self._connect_timeout)
        try:
            self._check_identity(renewed, progress)
        except BaseException:
            renewed.close()
            raise
        self._walsender = renewed._walsender
        self.timeline = renewed.timeline
        self._sender_timeout = renewed._sender_timeout

    def _check_identity(self, renewed: Connection, progress: Progress) -> None:
        """Refuse a server whose WAL is not the one that the stream's positions are in."""
        slot = progress.slot
        if renewed.system_identifier != self.system_identifier:
            raise PositionError(
                f'the stream from slot "{slot}" cannot go on: the server has the system identifier'
                f" {renewed.system_identifier}, it began on {self.system_identifier}",
                hint="correct the DSN; to follow another server, take a new slot and a new snapshot there",
                slot=slot,
                lsn=progress.resume_lsn,
            )
        if renewed.timeline == self.timeline:
            return
        switch = None
        if renewed.timeline > self.timeline:
            [(_, history)] = renewed._walsender.execute(f"TIMELINE_HISTORY {renewed.timeline}")
            switch = switch_point(history or "", self.timeline)
        if switch is None or progress.reached_lsn > switch:
            place = f"{format_lsn(progress.reached_lsn)} of timeline {self.timeline}"
            raise PositionError(
                f'the stream from slot "{slot}" cannot go on: it was at {place}, and the server\'s timeline'
                f" {renewed.timeline} does not continue that",
                hint="what was handed over may not exist there: compare the targets, then a new slot and snapshot",
                slot=slot,
                lsn=progress.reached_lsn,
            )

    def session(self) -> Session:
        """The ordinary session, for the functions of this package.

        Returns:
            The session; made at the first call, to the server of the walsender.

        Raises:
            ConfigError: When the server refuses an ordinary session.
            ConnectionLost: When the connection is closed or no session can be had now.
        """
        if self._sql is None:
            if self.closed:
                raise connection_lost(Doing("using the connection"), "it was closed before")
            self._sql = self._another_session()
        return self._sql

    def _another_session(self) -> Session:
        """A new ordinary session to the server of the walsender."""
        return Session.connect(
            self.dsn, replication=False, connect_timeout=self._connect_timeout, beside=self._walsender
        )

    @property
    def _streaming(self) -> bool:
        return self._stream is not None and not self._stream.closed

    def _idle_walsender(self) -> Session:
        """The walsender, when no stream has it."""
        if self._streaming:
            raise ConfigError(
                "this connection is streaming and takes no replication commands",
                hint="close the stream, or use another connection",
            )
        return self._walsender

    def _renewed(self, slot: str) -> Session:
        """A new walsender in the place of one that has streamed before.

        Its caches are those of the old stream; besides, it remembers for ever that a CopyDone ended its stream and ends
        the next one at once (14 to 18, seen).
        """
        found = None if self.closed else slots.state(self.session(), slot)
        if found is not None and found.temporary:
            raise ConfigError(
                f'the temporary slot "{slot}" was streamed from already, and it lasts only as long as its session',
                hint="use a permanent slot",
                slot=slot,
            )
        if self.closed:
            raise connection_lost(Doing("using the connection"), "it was closed before")
        renewed = Session.connect(
            self.dsn, replication=True, connect_timeout=self._connect_timeout, beside=self._walsender
        )
        self._walsender.close()
        self._walsender = renewed
        return renewed
