"""The Rust half of pgcdc: what `rust/python` exports. Import it through `pgcdc.protocol`, nowhere else."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, final

from typing_extensions import disjoint_base

from pgcdc.errors import DecodeError
from pgcdc.events import Delete, Event, Insert, Message, Relation, Truncate, Update
from pgcdc.lsn import Position

__all__ = [
    "Batch",
    "BatchReader",
    "CopyReader",
    "Decoder",
    "RowFormat",
    "TypeCatalog",
    "encode_status_update",
    "json_number",
]

@disjoint_base
class TypeCatalog:
    """What is known of the types that PostgreSQL's own catalog does not fix (OID 16384 and up).

    Every decoder has one; without an entry such a type is given as text when it came as text, as bytes when it came in
    binary.
    """

    def __new__(cls) -> TypeCatalog: ...
    def add(
        self, oid: int, name: str, *, base: int | None = None, element: int | None = None, enum: bool = False
    ) -> None:
        """Say what one type is.

        Args:
            oid: The type's OID.
            name: Its name, for messages.
            base: For a domain, the OID of its base type.
            element: For an array, the OID of its elements' type.
            enum: Whether it is an enum, whose binary form is its label.

        Raises:
            ConfigError: When not exactly one of base, element and enum is given.
        """
    def knows(self, type_oid: int) -> bool:
        """Whether a value of this type is decoded from binary into a value equal to the one decoded from text."""

@final
class RowFormat:
    """How rows are given: as structs, dicts or tuples, and how JSON columns are.

    One format keeps the classes that it made for each relation, so make one and use it again.

    Args:
        rows: `"struct"`: a msgspec struct made for each relation; `"dict"`; `"tuple"`.
        types: The user's own msgspec struct classes by `"schema.table"` or `"table"`, used instead of a made one.
            Columns that the class has no field for are left out; a field that the relation has no column for keeps its
            default.
        json: `"decode"`: Python objects, with Decimal for numbers that a float cannot hold; `"raw"`: `msgspec.Raw`;
            `"text"`: str.
        catalog: What is known of user-defined types.

    Raises:
        ConfigError: When an argument is none of the above.
    """

    def __new__(
        cls,
        rows: Literal["struct", "dict", "tuple"] = "struct",
        *,
        types: Mapping[str, type] | None = None,
        json: Literal["decode", "raw", "text"] = "decode",
        catalog: TypeCatalog | None = None,
    ) -> RowFormat: ...
    @property
    def catalog(self) -> TypeCatalog: ...

@final
class Decoder:
    """pgoutput messages to events; no connection, no driver.

    Text and binary are recognised from the bytes. A decoder remembers the Relation messages and the transaction that it
    has seen, so use one for each stream, in the stream's order.

    Args:
        rows: `"struct"` (default), `"dict"` or `"tuple"`; see `RowFormat`.
        types: The user's own msgspec struct classes by table.
        json: How json and jsonb columns are given: `"decode"`, `"raw"` or `"text"`.
        catalog: What is known of user-defined types.

    Raises:
        ConfigError: When an argument is none of the above.

    Source:
        PostgreSQL manual, "Logical Replication Message Formats"; server file `replication/logical/proto.c`.
    """

    def __new__(
        cls,
        rows: Literal["struct", "dict", "tuple"] = "struct",
        *,
        types: Mapping[str, type] | None = None,
        json: Literal["decode", "raw", "text"] = "decode",
        catalog: TypeCatalog | None = None,
    ) -> Decoder: ...
    @property
    def catalog(self) -> TypeCatalog: ...
    def decode(self, message: bytes | bytearray | memoryview, lsn: int | None = None) -> Event:
        """Decode one whole message (the payload of one XLogData).

        Args:
            message: The message, beginning with its kind byte.
            lsn: The `wal_start` of the XLogData, where known.

        Returns:
            The event.

        Raises:
            UnknownRelation: When a row names a relation that this decoder has not seen.
            InvalidValue: When a column's bytes do not fit its type.
            DecodeError: When the bytes are not one whole message. The decoder can be used again after any of these.
        """
    def decode_many(
        self, messages: Sequence[bytes | bytearray | memoryview], lsns: Sequence[int] | None = None
    ) -> list[Event | DecodeError]:
        """Decode a list of messages in one crossing.

        Args:
            messages: Whole messages, in stream order.
            lsns: The `wal_start` of each, where known; as long as `messages`.

        Returns:
            As many items as messages: the event, or in the place of a bad message the error.
        """
    def to_json(
        self,
        messages: Sequence[bytes | bytearray | memoryview],
        lsns: Sequence[int] | None = None,
        *,
        envelope: Literal["plain"] = "plain",
    ) -> bytes:
        """Write the changes among some messages as lines of JSON, without making Python objects; see `Batch.to_json`.

        Args:
            messages: Whole messages, in stream order.
            lsns: The `wal_start` of each, where known; as long as `messages`.
            envelope: What is around the rows.

        Returns:
            A line for each row change, truncate and logical message.

        Raises:
            ConfigError: When the envelope is none of the above.
            DecodeError: For the first change that cannot be written. The decoder has taken note of all messages then and
                can be used again; to have the good ones, make a `Batch` and ask it for both.
        """

@final
class Batch:
    """A run of messages from one stream: their bytes, the relations valid for them, and their positions.

    Nothing is decoded until it is asked for; what was made is kept and shared by all who ask for the same. Immutable.
    """

    def __len__(self) -> int:
        """The number of messages of any kind."""
    def __iter__(self) -> Iterator[Event | DecodeError]:
        """The events of all messages, rows as structs."""
    @property
    def nbytes(self) -> int:
        """The size of the raw messages in bytes."""
    @property
    def changes_count(self) -> int:
        """The number of row changes, truncates and logical messages."""
    @property
    def first_position(self) -> Position | None:
        """The position of the first change, None when there is none."""
    @property
    def last_position(self) -> Position | None:
        """The position of the last change, None when there is none."""
    @property
    def end_lsn(self) -> int | None:
        """The `end_lsn` of the last Commit in this batch: safe to confirm when all before it is durable."""
    @property
    def relations(self) -> list[Relation]:
        """The relations that the changes of this batch use, each shape once, in order of first use."""
    def events(self, format: RowFormat | None = None) -> list[Event | DecodeError]:
        """Every message as an event, a DecodeError in the place of a bad one.

        Args:
            format: How rows are given; structs when None.
        """
    def changes(
        self, format: RowFormat | None = None
    ) -> list[Insert[Any] | Update[Any] | Delete[Any] | Truncate | Message | DecodeError]:
        """Only row changes, truncates and logical messages, a DecodeError in the place of a bad one.

        Args:
            format: How rows are given; structs when None.
        """
    def select(
        self, tables: Collection[tuple[str, str]] | None = None, actions: Collection[str] | None = None
    ) -> Batch:
        """The changes of some tables and actions only; reads headers, decodes nothing.

        What cannot be read is kept in any case, so that nobody goes past it unknowingly.

        Args:
            tables: `(schema, table)` pairs; None for all. Logical messages belong to no table and are kept only
                when None.
            actions: Of `"insert"`, `"update"`, `"delete"`, `"truncate"`, `"message"`; None for all.

        Raises:
            ConfigError: When an action is none of these.
        """
    def after(self, position: tuple[int, int]) -> Batch:
        """Only the messages after a position: changes at or below it are left out, as are messages of other kinds
        that belong to transactions which committed below it.

        Args:
            position: `(commit_lsn, index)`.
        """
    @staticmethod
    def truncation(relations: Sequence[Relation], lsn: int) -> Batch:
        """A batch of one Truncate at the start of an initial copy, for targets that must be emptied first.

        Args:
            relations: The tables.
            lsn: The consistent point of the copy; the position is `(lsn, -1)`.
        """
    @staticmethod
    def concat(batches: Iterable[Batch]) -> Batch:
        """Several batches of one stream as one, for a target to which one large write is cheaper than many small ones.

        Args:
            batches: In stream order.
        """
    @staticmethod
    def of(messages: Iterable[bytes | bytearray | memoryview], lsns: Sequence[int] | None = None) -> Batch:
        """A batch of messages that are in hand already, from the beginning of a stream.

        Args:
            messages: Whole messages, in stream order.
            lsns: The `wal_start` of each, where known; as long as `messages`.
        """
    def to_json(self, envelope: Literal["plain"] = "plain", *, catalog: TypeCatalog | None = None) -> bytes:
        r"""Write the changes as lines of JSON, straight from what was received: no Python objects, and other threads run.

        Each row change, truncate and logical message is one object on one line that ends with a line feed. Its fields
        are those of the event, in this order, and a field that is not known is left out:

        - `action`: `"insert"`, `"update"`, `"delete"`, `"truncate"`, `"message"`;
        - of a row `schema` and `table`; of a truncate `relations` (objects with `schema` and `table`), `cascade` and
          `restart_identity`; of a message `transactional`;
        - `position` as `str(Position)` prints it, so that text compares as positions do; `commit_lsn` (`"16/B374D848"`),
          `index` (-1 for rows of the initial copy) and `commit_time`, all where the transaction's Begin was seen;
        - `lsn`, where it is known;
        - of a row `new` and `old`, objects by column name, as in the events: a column that was not sent is left out, an
          unchanged TOAST value is taken from the old row where that was sent; of a message `prefix` and `content`.

        Text and binary streams give the same bytes for every type that the decoder knows:

        | type | JSON |
        |---|---|
        | int2, int4, int8, oid | number, all digits |
        | float4, float8 | number, the fewest digits that say it; `"NaN"`, `"Infinity"`, `"-Infinity"` |
        | numeric | string with the digits that PostgreSQL prints, `"NaN"` and the infinities included |
        | bool | `true`, `false` |
        | text, varchar, bpchar, name, "char", enums | string |
        | bytea | string `"\\x00ff"` |
        | date, time, timestamp | `"2024-02-29"`, `"12:30:00.500000"` (six digits or none), `"2024-02-29T12:30:00"` |
        | timestamptz | the same in UTC with `Z` |
        | timetz | the same with `Z`, `+05:30` or `-15:59:59` |
        | the same outside the years 1 to 9999, infinite, or 24:00:00 | string in PostgreSQL's own words |
        | uuid | string in small letters |
        | json, jsonb | the document as it was sent; line breaks between its parts become spaces |
        | arrays | arrays, nested; `{"lower_bounds":[0],"elements":[…]}` where a lower bound is not 1 |
        | domains and enums in the catalog | as their base type |
        | any other | string: text as sent; bytes that came in binary as bytea |

        Bytes that are not UTF-8 (a database in SQL_ASCII sends them) become lone surrogates `\udc80` to `\udcff`, which
        Python's `json` reads as `surrogateescape` does; a parser that does not take them refuses the line.

        Args:
            envelope: What is around the rows: `"plain"` is the above.
            catalog: What is known of user-defined types.

        Returns:
            The lines; empty when there is no change.

        Raises:
            ConfigError: When the envelope is none of the above.
            DecodeError: For the first change that cannot be written; `changes()` gives the others of the same batch.

        Source:
            RFC 8259 (JSON), RFC 3339 (times).
        """

@final
class BatchReader:
    """CopyData frames of one replication stream to batches; keeps relations, transaction and what keepalives said.

    Source:
        PostgreSQL manual, "Streaming Replication Protocol", XLogData and Primary keepalive message.
    """

    def __new__(cls) -> BatchReader: ...
    def read(self, frames: Sequence[bytes | bytearray | memoryview]) -> Batch:
        """Take the payloads of some CopyData frames (XLogData or keepalive), in order.

        Args:
            frames: What libpq's `PQgetCopyData` returned, one item each.

        Returns:
            The messages in them; empty when all were keepalives.

        Raises:
            DecodeError: When a frame is neither XLogData nor keepalive or is cut short.
        """
    @property
    def received_lsn(self) -> int:
        """The highest WAL position seen in any frame; 0 at the beginning. Reported as "written", never as flushed."""
    @property
    def idle_lsn(self) -> int:
        """Everything up to here was received whole; 0 at the beginning.

        The `wal_end` of the last keepalive that came outside a transaction, or the last Commit's `end_lsn` if higher.
        """
    @property
    def in_transaction(self) -> bool:
        """Whether the last message read left a transaction open."""
    def take_reply_request(self) -> bool:
        """Whether a keepalive since the last call asked for an answer."""

@final
class CopyReader:
    """`COPY … TO STDOUT (FORMAT binary)` to batches of Inserts with position `(lsn, -1)`.

    Args:
        relation: The table; as many columns as the COPY sends, in its order.
        lsn: The consistent point of the snapshot that the COPY runs in.
        text_columns: For each column whether it was cast to text for the copy, and is to be decoded as the text form of
            its type; None when none was.

    Source:
        PostgreSQL manual, "COPY", Binary Format.
    """

    def __new__(cls, relation: Relation, lsn: int, text_columns: Sequence[bool] | None = None) -> CopyReader: ...
    def read(self, frames: Sequence[bytes | bytearray | memoryview]) -> Batch:
        """Take some CopyData payloads, cut anywhere.

        Raises:
            DecodeError: When they are not COPY BINARY, or a row has another number of columns than the relation.
        """
    @property
    def finished(self) -> bool:
        """Whether the trailer was read: without it the copy is not whole."""

def encode_status_update(written: int, flushed: int, applied: int, reply_requested: bool = False) -> bytes:
    """A Standby status update, to be sent as one CopyData.

    Args:
        written: How far the WAL was received.
        flushed: How far it is durable: the server may throw away what is below.
        applied: How far it is applied.
        reply_requested: Ask for a keepalive at once.

    Returns:
        34 bytes.

    Source:
        PostgreSQL manual, "Streaming Replication Protocol", Standby status update.
    """

def json_number(text: str) -> float | Decimal:
    """A number in JSON: a float where that says the same, else a Decimal.

    Args:
        text: The number's characters.
    """
