# Made from administration_async.py by ./dev lint --fix: change that file, not this one.
"""What of a server can be looked at and changed besides a stream: its slots and its publications.

Slots and publications are values (structs), as they were when they were asked for; what changes them are methods of the
connection (docs/decisions/0027).

Source: PostgreSQL manual, "Streaming Replication Protocol"; "pg_replication_slots"; "CREATE PUBLICATION".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pgcdc.replication import publication_changes, slot_changes, slots
from pgcdc.replication.publication_plan import PublicationPlan
from pgcdc.replication.slot import NewSlot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pgcdc.replication.publication_definition import Publication
    from pgcdc.replication.session import Session
    from pgcdc.replication.slot import Slot, SlotState
    from pgcdc.replication.slot_plan import SlotPlan

__all__ = ["Administration"]


class Administration(ABC):
    """The part of a connection that has to do with slots and publications.

    Attributes:
        database: The database's name.
    """

    database: str

    @abstractmethod
    def session(self) -> Session:
        """The ordinary session."""

    @abstractmethod
    def _idle_walsender(self) -> Session:
        """The walsender, when no stream has it; ConfigError when one has."""

    @property
    @abstractmethod
    def backend_pid(self) -> int:
        """The process of the walsender."""

    @property
    @abstractmethod
    def _streaming(self) -> bool:
        """Whether a stream has the walsender."""

    def create_slot(
        self,
        name: str,
        *,
        temporary: bool = False,
        failover: bool = False,
        two_phase: bool = False,
        if_not_exists: bool = False,
        export_snapshot: bool = False,
        timeout: float = 60.0,
    ) -> Slot:
        """Create a replication slot for pgoutput.

        The server waits until every transaction that has written so far is at its end. When it fails, for whatever
        reason, no slot is left.

        Args:
            name: The slot's name: letters a to z, digits, underscores.
            temporary: Drop it when this connection ends.
            failover: Have it synchronised to standbys; needs PostgreSQL 17.
            two_phase: Decode prepared transactions at PREPARE; needs PostgreSQL 15.
            if_not_exists: Return the existing slot (with `created` false and no snapshot) instead of an error.
            export_snapshot: Export a snapshot of the consistent point. It lasts until the next replication command on
                this connection (another slot created or dropped, a stream); SQL does not end it.
            timeout: Seconds to wait for open transactions.

        Returns:
            The slot.

        Raises:
            ConfigError: When the name cannot be, the slot exists (unless `if_not_exists`), there is no free slot, the
                server's wal_level is not logical or it does not know an option, or a stream is open.
            ReplicationError: When `timeout` passed; the sentence names the transactions that held it up.
            ConnectionLost: When the connection broke.

        Source:
            PostgreSQL manual, "Streaming Replication Protocol", CREATE_REPLICATION_SLOT.
        """
        return slots.create(
            self._idle_walsender(),
            self.session(),
            name,
            self.database,
            temporary=temporary,
            failover=failover,
            two_phase=two_phase,
            if_not_exists=if_not_exists,
            export_snapshot=export_snapshot,
            timeout=timeout,
        )

    def drop_slot(self, name: str, *, if_exists: bool = False) -> None:
        """Drop a replication slot.

        Args:
            name: The slot's name.
            if_exists: Whether a missing slot is no error.

        Raises:
            SlotNotFound: When there is no such slot.
            SlotInUse: When a process streams from it.
            ConfigError: When a stream is open on this connection.

        Source:
            PostgreSQL manual, "Streaming Replication Protocol", DROP_REPLICATION_SLOT.
        """
        slots.drop(self._idle_walsender(), self.session(), name, if_exists=if_exists)

    def slot(self, name: str) -> SlotState | None:
        """Look at a replication slot.

        `lag_seconds` needs a word. The server keeps no time for a position in its WAL, but the files of the WAL have
        one, that of the last write to each. What is told is the age of the file that holds the first byte the slot has
        not confirmed: that byte is at least as old. It can be older by the time that it took to fill one file (16 MB),
        and it need not be a change for this slot. It is 0.0 when there is no WAL behind the position, and None for a
        physical slot, when the file is gone, or when the role may not list the files (`GRANT pg_monitor TO …`).

        Args:
            name: The slot's name.

        Returns:
            Its state, None when there is no such slot.

        Source:
            PostgreSQL manual, "pg_replication_slots"; "System Administration Functions", pg_ls_waldir.
        """
        session = self.session()
        found = slots.state(session, name)
        return None if found is None else slots.with_ages(session, [found])[0]

    def slots(self) -> list[SlotState]:
        """Look at all replication slots of the server, of every database and kind.

        Returns:
            Their states, by name; `slot` says what they tell.
        """
        session = self.session()
        return slots.with_ages(session, slots.states(session))

    def advance_slot(self, name: str, lsn: int, *, timeout: float = 60.0) -> int:
        """Move a slot forward without streaming: what was committed before is not given to anybody any more.

        A temporary slot can be moved only by the connection that made it.

        Args:
            name: The slot's name.
            lsn: Where to: the `end_lsn` of a Commit, as a rule. In the middle of a transaction, it comes whole. With
                `two_phase`, not past a PREPARE whose transaction is still open: only its end would come.
            timeout: Seconds; the server reads all WAL up to there.

        Returns:
            Where the slot is now; less than `lsn` only when that is not flushed yet.

        Raises:
            SlotNotFound: When there is no such slot.
            SlotInUse: When a process streams from it, or another session made it and it is temporary.
            SlotLost: When the server has given up WAL that it needs.
            PositionError: When it would have to go back, or beyond the end of the WAL.
            ConfigError: When it is not one for pgoutput and this database.
            ReplicationError: When `timeout` passed.

        Source:
            PostgreSQL manual, "Replication Management Functions", pg_replication_slot_advance.
        """
        owner = None if self._streaming else self._idle_walsender()
        return slots.advance(owner, self.session(), name, lsn, self.database, timeout=timeout)

    def copy_slot(self, source: str, name: str, *, temporary: bool = False) -> Slot:
        """Make another slot that is where one is: both give the same changes from there on.

        It works while a process streams from the source. `failover` and `two_phase` are not copied: the server gives
        the copy neither.

        Args:
            source: The slot that is copied.
            name: The new slot's name: letters a to z, digits, underscores.
            temporary: Drop the copy when this connection ends; whether the source is temporary plays no part.

        Returns:
            The copy. It has no snapshot.

        Raises:
            SlotNotFound: When there is no such source.
            SlotLost: When the server has given up WAL that the source needs.
            ConfigError: When the name cannot be or is taken, there is no free slot, or the source is not one for
                pgoutput and this database; for a temporary copy, when a stream is open on this connection.

        Source:
            PostgreSQL manual, "Replication Management Functions", pg_copy_logical_replication_slot.
        """
        session = self.session()
        runner = self._idle_walsender() if temporary else session
        return slots.copy(runner, session, source, name, self.database, temporary=temporary)

    def plan_slots(
        self,
        *,
        create: Iterable[str | NewSlot] = (),
        advance: Mapping[str, int] | None = None,
        drop: Iterable[str] = (),
    ) -> SlotPlan:
        """Say what making, moving and dropping slots would do, and how much WAL that frees; nothing is changed yet.

        What is as it is wanted already is left out: a slot that is there, is where it is to be, or is gone.

        Args:
            create: The slots that are wanted, by name or with their options.
            advance: By slot, the LSN where it is to be.
            drop: The slots that are not wanted; one of the same name in `create` is made anew.

        Returns:
            The plan, for `print` and for `apply`.

        Raises:
            SlotNotFound: When a slot that is to be moved is not there.
            SlotLost: When a slot that is to be kept has lost its WAL.
            PositionError: When one would have to go back, or beyond the end of the WAL.
            ConfigError: When a wish contradicts another one, the server's version, or the slot that is there.

        Source:
            PostgreSQL manual, "pg_replication_slots".
        """
        wanted = [NewSlot(slot) if isinstance(slot, str) else slot for slot in create]
        return slot_changes.plan(self.backend_pid, self.session(), self.database, wanted, advance or {}, list(drop))

    def publication(self, name: str) -> Publication | None:
        """Look at a publication as it is defined; `published_tables` tells what comes of it.

        Args:
            name: Its name.

        Returns:
            The publication, None when there is no such one.

        Source:
            PostgreSQL manual, "pg_publication", "pg_publication_rel", "pg_publication_namespace".
        """
        return publication_changes.read(self.session(), name)

    def publications(self) -> list[Publication]:
        """Look at all publications of the database.

        Returns:
            The publications, by name.
        """
        return publication_changes.read_all(self.session())

    def plan_publication(self, wanted: Publication) -> PublicationPlan:
        """Say what would change for a publication to be what is wanted; nothing is changed yet.

        Row filters are read by the server, in a transaction that is rolled back: so it is known whether one is the same
        as before, and which columns it needs. For that the role has to be allowed to read the table and to make
        temporary ones; else a warning says that it was not looked at.

        Args:
            wanted: The publication as it is to be; whether it is there is found out.

        Returns:
            The plan, for `print` and for `apply`.

        Raises:
            ConfigError: When a table, schema or column is not there or cannot be published, or the server's version
                does not know what is wanted.
            ReplicationError: When the server cannot read a row filter.

        Source:
            PostgreSQL manual, "CREATE PUBLICATION", "ALTER PUBLICATION".
        """
        return publication_changes.plan(self.session(), wanted)

    def plan_drop_publication(self, name: str) -> PublicationPlan:
        """Say what dropping a publication means; nothing is changed yet.

        Args:
            name: Its name.

        Returns:
            The plan, for `print` and for `apply`.

        Raises:
            PublicationNotFound: When there is no such one.

        Source:
            PostgreSQL manual, "DROP PUBLICATION".
        """
        return publication_changes.plan_to_drop(self.session(), name)

    def apply(self, plan: PublicationPlan | SlotPlan, *, timeout: float = 60.0) -> None:
        """Do what was planned, exactly that, and only if what it was made for is still as it was.

        A publication is changed in one transaction: completely or not at all. Slots know no transaction; all of them
        are looked at before the first step, and when a later one fails, a note of the error says what was done before.

        Args:
            plan: The plan. One with nothing to change does nothing.
            timeout: Seconds: for all of a publication, for each slot.

        Raises:
            PlanStale: When the publication, one of its tables, or a slot was changed since.
            SlotInUse: When a process streams from a slot that is to be dropped or moved.
            ConfigError: When the role may not do it; or a stream, or a transaction of one's own, is open on this
                connection.
            ReplicationError: When `timeout` passed, or the server refused otherwise.

        Source:
            PostgreSQL manual, "ALTER PUBLICATION"; "Replication Management Functions".
        """
        session = self.session()
        if isinstance(plan, PublicationPlan):
            publication_changes.apply(session, plan, timeout)
        else:
            slot_changes.apply(self._idle_walsender(), session, plan, self.database, timeout)
