"""The Rust half of pgcdc: what `rust/python` exports. Import it through `pgcdc.protocol`, nowhere else.

Longer than other files because it is the one place where these classes are documented.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from os import PathLike
from types import GenericAlias
from typing import Any, Generic, Literal, TypeAlias, final, overload

from msgspec import Struct
from typing_extensions import TypeVar, disjoint_base

from pgcdc.errors import DecodeError
from pgcdc.events import Delete, Event, Insert, Message, Relation, Truncate, Update
from pgcdc.lsn import Position
from pgcdc.protocol.assembling import AssemblerStatistics

__all__ = [
    "ArrowTable",
    "Assembler",
    "Batch",
    "BatchReader",
    "CopyReader",
    "DebeziumEnvelope",
    "Decoder",
    "Frames",
    "JsonRow",
    "Libpq",
    "RowFormat",
    "RowPlan",
    "SchemaVersions",
    "Spool",
    "TypeCatalog",
    "copied_values",
    "encode_message",
    "encode_status_update",
    "json_fields",
    "json_items",
    "json_members",
    "json_number",
]

_Row = TypeVar("_Row", covariant=True, default=Any)
_Own = TypeVar("_Own", bound=Struct)
_Source: TypeAlias = int | tuple[int, str | Callable[[bytes], str] | None]

@disjoint_base
class TypeCatalog:
    """What is known of the types that PostgreSQL's own catalog does not fix (OID 10000 and up).

    Every decoder has one; without an entry such a type is given as text when it came as text, as bytes when it came in
    binary.
    """

    def __new__(cls) -> TypeCatalog: ...
    def add(
        self,
        oid: int,
        name: str,
        *,
        base: int | None = None,
        modifier: int | None = None,
        element: int | None = None,
        delimiter: str = ",",
        enum: bool = False,
        subtype: int | None = None,
        range: int | None = None,
        fields: Sequence[tuple[str, int]] | None = None,
        like: Literal[
            "hstore",
            "citext",
            "ltree",
            "lquery",
            "ltxtquery",
            "cube",
            "vector",
            "halfvec",
            "sparsevec",
            "geometry",
            "geography",
        ]
        | None = None,
    ) -> None:
        """Say what one type is: give exactly one of these, the modifier with `base`, the delimiter with `element`.

        A type is known when all that it is made of is; the order in which they are added does not matter.

        Args:
            oid: The type's OID.
            name: Its name, for messages; without its schema also the name of a composite type's class.
            base: For a domain, the OID of its base type.
            modifier: The type modifier of that, where it has one: that of numeric(10,2) says the scale.
            element: For an array, the OID of its elements' type.
            delimiter: What is between two elements of an array in its text form (`typdelim` of the elements' type).
            enum: Whether it is an enum, whose binary form is its label.
            subtype: For a range, the OID of the type of its bounds.
            range: For a multirange, the OID of the type of its ranges.
            fields: For a composite type, the name and the OID of the type of each attribute that was not dropped.
            like: For a type of an extension, its name there.

        Raises:
            ConfigError: When not exactly one of these is given, or `like` is none of the above.

        Source:
            PostgreSQL manual, "pg_type".
        """
    def knows(self, type_oid: int) -> bool:
        """Whether a value of this type is decoded from binary into a value equal to the one decoded from text."""

@final
class RowFormat(Generic[_Row]):
    """How rows are given: as structs, dicts or tuples, and how JSON columns are.

    One format keeps the classes that it made for each relation, so make one and use it again.

    Args:
        rows: `"struct"`: a msgspec struct made for each relation; `"dict"`; `"tuple"`.
        types: The user's own msgspec struct classes by `"schema.table"` or `"table"`, used instead of a made one.
            Columns that the class has no field for are left out; a field that the relation has no column for keeps its
            default.
        json: `"decode"`: Python objects, with Decimal for numbers that a float cannot hold; `"raw"`: `msgspec.Raw`;
            `"text"`: str.
        out_of_range: What becomes of a value that Python's type for it cannot hold (infinity, years before 1 and after
            9999, 24:00:00): `"pgtext"`: a `PgText`, in PostgreSQL's own words; `"error"`: InvalidValue.
        catalog: What is known of user-defined types.

    Raises:
        ConfigError: When an argument is none of the above.
    """

    @overload
    def __new__(
        cls,
        rows: Literal["struct"] = "struct",
        *,
        types: Mapping[str, type[_Own]],
        json: Literal["decode", "raw", "text"] = "decode",
        out_of_range: Literal["pgtext", "error"] = "pgtext",
        catalog: TypeCatalog | None = None,
    ) -> RowFormat[_Own]: ...
    @overload
    def __new__(
        cls,
        rows: Literal["struct"] = "struct",
        *,
        types: None = None,
        json: Literal["decode", "raw", "text"] = "decode",
        out_of_range: Literal["pgtext", "error"] = "pgtext",
        catalog: TypeCatalog | None = None,
    ) -> RowFormat[Any]: ...
    @overload
    def __new__(
        cls,
        rows: Literal["dict"],
        *,
        types: None = None,
        json: Literal["decode", "raw", "text"] = "decode",
        out_of_range: Literal["pgtext", "error"] = "pgtext",
        catalog: TypeCatalog | None = None,
    ) -> RowFormat[dict[str, Any]]: ...
    @overload
    def __new__(
        cls,
        rows: Literal["tuple"],
        *,
        types: None = None,
        json: Literal["decode", "raw", "text"] = "decode",
        out_of_range: Literal["pgtext", "error"] = "pgtext",
        catalog: TypeCatalog | None = None,
    ) -> RowFormat[tuple[Any, ...]]: ...
    @overload
    def __new__(
        cls,
        rows: Literal["struct", "dict", "tuple"] = "struct",
        *,
        types: Mapping[str, type[Struct]] | None = None,
        json: Literal["decode", "raw", "text"] = "decode",
        out_of_range: Literal["pgtext", "error"] = "pgtext",
        catalog: TypeCatalog | None = None,
    ) -> RowFormat[Any]: ...
    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    @property
    def catalog(self) -> TypeCatalog: ...

@final
class DebeziumEnvelope:
    """The lines of Debezium's connector for PostgreSQL, without a schema, and what the bytes do not say of them.

    Lines are equal, field by field, to what Debezium 3.6 emits for the same WAL, tombstones aside, in these settings of
    it: its defaults, `decimal.handling.mode` = `precise` or `string`, `time.precision.mode` = `adaptive` or
    `isostring`, `include.unknown.datatypes` off or on, `skipped.operations` = `none`.

    A line has `before`, `after`, `source`, `transaction` (null), `op`, `ts_ms`, `ts_us` and `ts_ns`.

    - `op` is `"c"`, `"u"`, `"d"`, `"r"` (a row of the initial copy), `"t"` (one line for each table of a TRUNCATE) or
      `"m"` (a logical message: `message` with `prefix` and the `content` in Base64, no `before` and `after`, no `ts_us`
      and `ts_ns`).
    - An update that changes the key is two lines, a delete of the old row and an insert of the new one. The key is what
      the stream marks as replica identity; see `keys`.
    - A column of the old row that was not sent is null. An unchanged TOAST value that was not sent is
      `"__debezium_unavailable_value"`, in the column's own form: in Base64 for bytea, `["…"]` for a list of strings,
      its bytes as numbers for a list of numbers.
    - `source` has `version`, `connector`, `name`, `ts_ms`, `snapshot`, `db`, `sequence`, `ts_us`, `ts_ns`, `schema`,
      `table`, `txId`, `lsn`, `xmin`, `origin`, `origin_lsn`. Its times are those of the commit; for rows of the initial
      copy those of `at`, else 0. `sequence` is `[end of what came before, lsn]`; the first is null for the first
      transaction that a decoder or stream sees. `lsn` is null where it was not given. `origin` and `origin_lsn` say
      where a transaction came from that was replicated to this server. `xmin` is null.
    - `ts_ms`, `ts_us` and `ts_ns` of the line, Debezium's time of processing, are the commit's too, so that the same
      bytes make the same lines; a caller who wants the clock there says `at(time.time_ns())`.

    | type | precise, adaptive | string, isostring |
    |---|---|---|
    | bool, int2, int4, int8, oid, float4, float8 | as in plain lines | |
    | text, varchar, bpchar, name, "char", uuid, enums | string | |
    | json, jsonb | string that holds the document | |
    | bytea | string in Base64 | |
    | numeric(p, s) | whole number of units of the last digit, its bytes (two's complement) in Base64 | `"1.10"` |
    | numeric | `{"scale": 1, "value": "Cw=="}`, zeros at the end of the fraction left out | `"1.10"` |
    | date | days since 1970 | `"2024-02-29Z"` |
    | time | microseconds, of time(0) to time(3) milliseconds | `"12:30:00.5Z"` |
    | timestamp | microseconds since 1970, of timestamp(0) to timestamp(3) milliseconds | `"2024-02-29T12:30:00.5Z"` |
    | timestamptz | `"2024-02-29T12:30:00.500000Z"`, with as many digits as the type has | the same |
    | timetz | `"10:30:00.5Z"`, in UTC | the same |
    | arrays | lists, of any number of dimensions; lower bounds are not said | |
    | money | as a numeric of two digits | `"12.34"` |
    | interval | microseconds, a month taken as the twelfth part of 365.25 days | the same |
    | bit(1) | `true`, `false` | |
    | bit(n), varbit | a number whose highest bit is the first; its bytes, the lowest first, in Base64 | |
    | inet, cidr, macaddr, ranges of PostgreSQL's own, tsvector, xml, citext, ltree | string as PostgreSQL prints it | |
    | point | `{"x": 1.0, "y": 2.0, "wkb": "AQEA…", "srid": null}` | |
    | hstore | string that holds a JSON object | |
    | geometry, geography (postgis) | `{"wkb": …, "srid": …}`, the EWKB in Base64 (not held against Debezium) | |
    | int2vector, oidvector, vector, halfvec (pgvector) | list of numbers (the latter not held against Debezium) | |
    | domains | as their base type, with its modifier, where the catalog has them | |
    | types of users that the catalog does not have | as in plain lines | |
    | line, box and so on, multiranges, composites, xid, pg_lsn, tsquery, arrays of domains | see `unknown` | |

    Where Debezium loses or changes a value, these lines keep it, in a form that no reader takes for another value:

    - NaN and the infinities of a precise numeric, null in Debezium: `{"scale": null, "value": "NaN"}`;
    - infinite dates, timestamps and intervals, some number in Debezium: `"infinity"` and `"-infinity"`; timestamps that
      are more than 64 bits of microseconds from 1970: all digits;
    - 24:00:00 in isostring: `"24:00:00Z"` instead of `"00:00:00Z"`; times in lists with all their digits;
    - arrays of two and more dimensions, nulls or the names of Java objects in Debezium: nested lists;
    - name, null in Debezium: string; int2vector and oidvector, empty in Debezium: all numbers; arrays of bit, null in
      Debezium, and arrays of enums, ltree and tsvector with NULL in them, null as a whole: lists;
    - lquery and ltxtquery, which Debezium leaves out: string;
    - NOT NULL columns of an old row that were not sent, 0 or `""` in Debezium, and NULL in columns with a default,
      which is the default in Debezium: null; unchanged TOAST values of types that Debezium has null for: the words
      above.

    Args:
        name: `source.name`, the prefix of the topics.
        db: `source.db`.
        decimal: `decimal.handling.mode`.
        time: `time.precision.mode`.
        unknown: `include.unknown.datatypes`: whether columns of types that Debezium does not know are written: what
            PostgreSQL prints, in Base64; by default they are left out, as Debezium does. Arrays of names, xml, points,
            money, intervals and varbit, which Debezium leaves out even then, are lists.
        keys: The primary keys of tables whose replica identity is another, by `"schema.table"` or `"table"`: Debezium
            asks the database for them, and under REPLICA IDENTITY FULL the stream does not say which columns they are.
            Without, an update of such a table is always one line.
        version: `source.version`; Debezium's own when readers look at it.

    Raises:
        ConfigError: When an argument is none of the above.

    Source:
        Debezium's documentation, "Debezium connector for PostgreSQL"; what Debezium 3.6.1 emitted for the workload of
        this project's tests.
    """

    def __new__(
        cls,
        name: str = "pgcdc",
        *,
        db: str = "",
        decimal: Literal["precise", "string"] = "precise",
        time: Literal["adaptive", "isostring"] = "adaptive",
        unknown: bool = False,
        keys: Mapping[str, Collection[str]] | None = None,
        version: str | None = None,
    ) -> DebeziumEnvelope: ...
    def at(self, nanoseconds: int) -> DebeziumEnvelope:
        """The same, for lines that are made at a time.

        Args:
            nanoseconds: Since 1970-01-01 UTC, as `time.time_ns()` gives it.
        """

@final
class Decoder(Generic[_Row]):
    """pgoutput messages to events; no connection, no driver.

    Protocol versions 1 to 4, text and binary are recognised from the bytes. A decoder remembers the Relation messages
    and the transactions that it has seen, so use one for each stream, in the stream's order: between StreamStart and
    StreamStop most messages have a transaction's id in them, and nothing else says so. An error changes nothing for
    other messages: after it the decoder is where it would be, had the bad message been a good one of its kind, except
    that the rows of a relation whose Relation message could not be read are refused (UnknownRelation) until it is sent
    again. A call while another one is under way, from another thread or from a row's own class, raises RuntimeError and
    changes nothing. A panic in the Rust half would be a bug; it comes as `pyo3_runtime.PanicException`, which is no
    `Exception`, so that it ends what runs instead of being taken for a bad message.

    Args:
        rows: `"struct"` (default), `"dict"` or `"tuple"`; see `RowFormat`.
        types: The user's own msgspec struct classes by table.
        json: How json and jsonb columns are given: `"decode"`, `"raw"` or `"text"`.
        out_of_range: What becomes of a value that Python's type for it cannot hold (infinity, years before 1 and after
            9999, 24:00:00): `"pgtext"`: a `PgText`, in PostgreSQL's own words; `"error"`: InvalidValue.
        catalog: What is known of user-defined types.

    Raises:
        ConfigError: When an argument is none of the above.

    Source:
        PostgreSQL manual, "Logical Replication Message Formats"; server file `replication/logical/proto.c`.
    """

    @overload
    def __new__(
        cls,
        rows: Literal["struct"] = "struct",
        *,
        types: Mapping[str, type[_Own]],
        json: Literal["decode", "raw", "text"] = "decode",
        out_of_range: Literal["pgtext", "error"] = "pgtext",
        catalog: TypeCatalog | None = None,
    ) -> Decoder[_Own]: ...
    @overload
    def __new__(
        cls,
        rows: Literal["struct"] = "struct",
        *,
        types: None = None,
        json: Literal["decode", "raw", "text"] = "decode",
        out_of_range: Literal["pgtext", "error"] = "pgtext",
        catalog: TypeCatalog | None = None,
    ) -> Decoder[Any]: ...
    @overload
    def __new__(
        cls,
        rows: Literal["dict"],
        *,
        types: None = None,
        json: Literal["decode", "raw", "text"] = "decode",
        out_of_range: Literal["pgtext", "error"] = "pgtext",
        catalog: TypeCatalog | None = None,
    ) -> Decoder[dict[str, Any]]: ...
    @overload
    def __new__(
        cls,
        rows: Literal["tuple"],
        *,
        types: None = None,
        json: Literal["decode", "raw", "text"] = "decode",
        out_of_range: Literal["pgtext", "error"] = "pgtext",
        catalog: TypeCatalog | None = None,
    ) -> Decoder[tuple[Any, ...]]: ...
    @overload
    def __new__(
        cls,
        rows: Literal["struct", "dict", "tuple"] = "struct",
        *,
        types: Mapping[str, type[Struct]] | None = None,
        json: Literal["decode", "raw", "text"] = "decode",
        out_of_range: Literal["pgtext", "error"] = "pgtext",
        catalog: TypeCatalog | None = None,
    ) -> Decoder[Any]: ...
    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    @property
    def catalog(self) -> TypeCatalog: ...
    def decode(self, message: bytes | bytearray | memoryview, lsn: int | None = None) -> Event[_Row]:
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
    ) -> list[Event[_Row] | DecodeError]:
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
        envelope: Literal["plain", "debezium"] | DebeziumEnvelope = "plain",
    ) -> bytes:
        """Write the changes among some messages as lines of JSON, without making Python objects; see `Batch.to_json`.

        Args:
            messages: Whole messages, in stream order.
            lsns: The `wal_start` of each, where known; as long as `messages`.
            envelope: What is around the rows; see `Batch.to_json` and `DebeziumEnvelope`.

        Returns:
            A line for each row change, truncate and logical message; of Debezium's more, see there.

        Raises:
            ConfigError: When the envelope is none of the above.
            DecodeError: For the first change that cannot be written. The decoder has taken note of all messages then
                and can be used again; to have the good ones, make a `Batch` and ask it for both.
        """
    def to_arrow(
        self,
        messages: Sequence[bytes | bytearray | memoryview],
        lsns: Sequence[int] | None = None,
        *,
        text: Collection[str] | None = None,
    ) -> dict[str, ArrowTable]:
        """Give the changes among some messages as Arrow tables, without making Python objects; see `Batch.to_arrow`.

        Args:
            messages: Whole messages, in stream order.
            lsns: The `wal_start` of each, where known; as long as `messages`.
            text: Columns (`"schema.table.column"`) that are given as strings, whatever their type is.

        Returns:
            The tables that have changes, by name.

        Raises:
            ConfigError: When `text` is a single string.
            DecodeError: For the first change that cannot be given. The decoder has taken note of all messages then and
                can be used again; to have the good ones, make a `Batch` and ask it for both.
        """

@final
class RowPlan:
    """What is known of tables whose rows come together, for `Batch.planned`.

    Args:
        keys: The columns of each table's key, as for `Batch.folded`.
        text: Which columns are to be text, as for `Batch.to_copy`.
    """

    def __new__(cls, keys: Mapping[int, Sequence[str]], text: Mapping[int, Collection[int]]) -> RowPlan: ...

@final
class SchemaVersions:
    """Which version of a table's shape was in force where, for all tables.

    Args:
        versions: By the OID of the table: the first position of each version, and its number.
    """

    def __new__(cls, versions: Mapping[int, Sequence[tuple[tuple[int, int], int]]]) -> SchemaVersions: ...
    def version(self, oid: int, position: tuple[int, int]) -> int | None:
        """The version that was in force.

        Args:
            oid: The table.
            position: Where; what comes before the first that is known has that one, too.

        Returns:
            Its number; None of a table that nothing is known of.
        """
    def __eq__(self, other: object, /) -> bool: ...

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
    def span(self) -> tuple[Position, Position] | None:
        """`first_position` and `last_position`, asked for at once; None when there is none."""
    @property
    def end_lsn(self) -> int | None:
        """The end of the last transaction that ends in this batch: safe to confirm when all before it is durable.

        That is what a Commit, StreamCommit, CommitPrepared or RollbackPrepared says; a Prepare and StreamPrepare, too:
        the changes of those must be among what is durable then, because the server sends them no more. Of what an
        Assembler gives, never more than where the oldest transaction was prepared that it still keeps.
        """
    @property
    def commit_end_lsn(self) -> int | None:
        """What the last Commit in this batch says of its end; None when there is none.

        Of what an Assembler gives that can be more than may be confirmed, which `end_lsn` says.
        """
    @property
    def message_lsn(self) -> int | None:
        """Where the last logical message outside of transactions ends; None when there is none.

        A commit may begin at that very place: no stream may begin behind it.

        Source:
            Server function `logicalmsg_decode`; seen on 14 to 18.
        """
    @property
    def in_progress(self) -> bool:
        """Whether it has messages of streamed or prepared transactions, whose changes count only when they commit.

        A StreamAbort alone is none: PostgreSQL 18 sends one to clients that stream nothing, too.
        """
    @property
    def relations(self) -> list[Relation]:
        """The relations that the changes of this batch use, each shape once, in order of first use."""
    def is_of(self, relations: tuple[Relation, ...]) -> bool:
        """Whether `relations` are just these objects, in this order: nothing is made to find that out.

        Args:
            relations: What another batch has given.
        """
    def rows_of(self, relations: tuple[Relation, ...], versions: SchemaVersions, most: int) -> Batch | None:
        """The rows and truncates of a small batch with the versions of their tables, where it is like another one.

        Args:
            relations: As for `is_of`.
            versions: As for `with_versions`.
            most: How many changes it may have.

        Returns:
            The same as `with_versions` and `select` together; None when `is_of` says no, when there are more changes,
            or when something of it is prepared or in progress.
        """
    def events(self, format: RowFormat[_Row] | None = None) -> list[Event[_Row] | DecodeError]:
        """Every message as an event, a DecodeError in the place of a bad one.

        Args:
            format: How rows are given; when None as the stream says that this came from, else structs.
        """
    def changes(
        self, format: RowFormat[_Row] | None = None
    ) -> list[Insert[_Row] | Update[_Row] | Delete[_Row] | Truncate | Message | DecodeError]:
        """Only row changes, truncates and logical messages, a DecodeError in the place of a bad one.

        Args:
            format: How rows are given; when None as the stream says that this came from, else structs.
        """
    def select(
        self,
        tables: Collection[tuple[str, str]] | None = None,
        actions: Collection[str] | None = None,
        *,
        messages: Collection[str] | None = None,
    ) -> Batch:
        """The changes of some tables and actions only; reads headers, decodes nothing.

        What cannot be read is kept in any case, so that nobody goes past it unknowingly.

        Args:
            tables: `(schema, table)` pairs; None for all. Logical messages belong to no table and are kept only
                when None.
            actions: Of `"insert"`, `"update"`, `"delete"`, `"truncate"`, `"message"`; None for all.
            messages: Prefixes: transactional logical messages of these are kept besides, whatever the others say.

        Raises:
            ConfigError: When an action is none of these.
        """
    def folded(self, keys: Mapping[int, Sequence[str]] | None = None) -> Batch:
        """What is left when of all changes of a row only the last counts; for targets that keep a copy of a table.

        First comes a delete for each key that has no row any more, then the rows, in the order of their last changes. A
        row is an insert, or an update without an old key. A column that is UNSET in it is as the target's row of the
        same key has it; where the update has an old key, as the row of that key had it before all of this. So a target
        takes what it needs of old rows, then deletes, then writes.

        Nothing is folded across a TRUNCATE, or a change of a table's shape: what comes before one is in front of it.
        Positions are those of the last changes, and need not be in order. Changes of a table whose rows have no key
        stay as they are, and logical messages, too.

        Args:
            keys: The columns of the key, by the table's OID; of a table that is not in it those of the replica
                identity, none where that is FULL.

        Raises:
            DecodeError: For the first change that cannot be read, or whose key was not sent.
        """
    def to_copy(
        self,
        *,
        marked: bool = True,
        text: Mapping[int, Collection[int]] | None = None,
        catalog: TypeCatalog | None = None,
    ) -> list[tuple[Relation, tuple[bool, ...], tuple[int, int, int, int], bytes]]:
        """Write the rows for COPY … FROM STDIN (FORMAT binary) of another PostgreSQL, without Python objects.

        Values that came in binary are passed through. A column is given as text, for a column of type text, where its
        type is none of PostgreSQL's own (OID 10000 and up), where a value of it came as text, and where it is asked
        for.

        Args:
            marked: Three columns come in front: the number of the row (integer); what it is ("char"); and for a row of
                which something was not sent which columns those are (bytea: a bit for each, from the lowest of the
                first byte, as `get_bit` counts), else NULL. `d` is a row that is to be gone: its key, or the whole old
                row. `u` is a row as it is to be. `m` likewise, of an update with an old key, and the row in front of
                it, `o`, is that key. Without, there may be inserts only, and the columns are the table's alone.
            text: The numbers of columns that are given as text, by the table's OID.
            catalog: What is known of user-defined types; when None, what the stream knows that this came from.

        Returns:
            For each shape of a table, in order of first use: the relation; for each column whether it is text; how many
            rows are to be gone, how many are to be, in how many of those something was not sent, and how many are
            marked `m`; and the bytes. TRUNCATE and logical messages are left out.

        Raises:
            DecodeError: For the first change that cannot be written.

        Source:
            PostgreSQL manual, "COPY", "Binary Format".
        """
    def planned(
        self, plan: RowPlan
    ) -> tuple[int, list[tuple[int, tuple[bool, ...], tuple[int, int, int, int], list[list[bytes | None]]]]]:
        """Fold a small batch and give the rows that `to_copy` would write, each as its values: all of it in one call.

        Args:
            plan: What is known of its tables.

        Returns:
            How many changes are left when it is folded, and for each shape of a table: the table's OID; for each column
            whether it is text; the counts of `to_copy`; and the rows, with the three columns in front.

        Raises:
            DecodeError: For the first change that cannot be written.
        """
    @property
    def catalog(self) -> TypeCatalog | None:
        """What the stream that this came from knows of user-defined types; for a `RowFormat` of one's own."""
    @property
    def versions(self) -> SchemaVersions | None:
        """The versions of tables' shapes that its events carry; None where nobody has said."""
    def with_versions(self, versions: SchemaVersions) -> Batch:
        """The same batch, whose events have `schema_version`; so have those of what is cut from it.

        Args:
            versions: Of all tables in it; shared, not copied.
        """
    def shape_runs(self) -> list[tuple[int, Relation, Position | None, int | None]]:
        """Find where tables change shape: the changes that are the first of their table, or of another shape before.

        Returns:
            For each its place among the messages, as for `split_at`; its table's shape; its position and its version,
            where they are known. In stream order; a truncate once for each of its tables.
        """
    def split_at(self, at: int) -> tuple[Batch, Batch]:
        """The messages before one of them, and it with those that follow.

        Args:
            at: Its place among the messages of this batch, from 0.
        """
    def after(self, position: tuple[int, int]) -> Batch:
        """Only the messages after a position: changes at or below it are left out, as are messages of other kinds
        that belong to transactions which committed below it.

        Args:
            position: `(commit_lsn, index)`.
        """
    def up_to(self, position: tuple[int, int]) -> Batch:
        """Only the messages that `after` leaves out.

        Args:
            position: `(commit_lsn, index)`.
        """
    def take(self, numbers: Iterable[int]) -> Batch:
        """Only some of the changes; they share the bytes, and the events that were made already.

        Args:
            numbers: Their numbers among the changes, from 0; in any order, the changes keep theirs.
        """
    def pieces(self, max_changes: int, max_bytes: int | None = None, *, transactions: bool = False) -> list[Batch]:
        """The changes in pieces, in order; each has one change at least.

        Args:
            max_changes: So many changes in each at most.
            max_bytes: So many bytes of raw messages at most; None for any number.
            transactions: No piece ends within a transaction; one that is larger than the limits makes a larger piece.
        """
    def reshaped(
        self,
        plan: Callable[[Relation], tuple[Relation, Sequence[_Source]] | None],
        *,
        catalog: TypeCatalog | None = None,
    ) -> Batch:
        """The changes with other columns or names; no Python objects are made of rows.

        Positions stay as they are. Messages of other kinds than changes are left out.

        Args:
            plan: Called for each relation of the batch. None leaves its rows as they are. Else the new relation, and
                for each of its columns where it comes from: the number of a column of the old one; or that with a
                string or None that takes the place of every value, or with a function that is given what PostgreSQL
                prints for the value, in UTF-8, the same from text and from binary, and returns the new value as text.
                The function is not called for NULL, and what was not sent stays so.
            catalog: What is known of user-defined types; when None, what the stream knows that this came from.

        Raises:
            ConfigError: When there are not as many sources as columns, or one is not a column of the old relation.
            DecodeError: For the first change that cannot be read: nobody could say what of it is to be left out.
        """
    def rewritten(self, changes: Iterable[int | tuple[int, str, Any, Any, Any]]) -> Batch:
        """The changes written anew: some left out, some as they are, some in place of others.

        Args:
            changes: The number of a change that stays as it is, or a tuple that begins with the number of the change
                whose place it takes, in rising order; the same number may come several times. The tuples are
                `(number, "insert" | "update" | "delete", relation, new, old)`, with the cells of the new and the old
                row or None where there is none: a cell is None, UNSET, a str as PostgreSQL prints the value, bytes as
                it sends the value, or an int, the number of a column whose cell in the same row of the old change is
                taken; `(number, "truncate", relations, cascade, restart_identity)`; and
                `(number, "message", prefix, content, None)`.

        Raises:
            ConfigError: When they are not so.
        """
    def keys(self, columns: Mapping[int, Sequence[str]], *, by_table: bool = True) -> list[tuple[bytes, ...] | None]:
        """Of each change, which changes it has to be in order with; reads no more of a row than the key's bytes.

        Args:
            columns: The columns of the key, by the table's OID.
            by_table: Whether keys of two tables are never the same.

        Returns:
            For each change the key, as bytes that are equal where the keys are; the old one and the new one where it
            was changed; None where it is in order with all changes: it is no row, its table has no key here, or the
            key was not sent.
        """
    def with_primary_keys(self, keys: Mapping[int, Sequence[str]]) -> Batch:
        """The same batch, which knows the primary keys of its tables; so does what is cut from it.

        Args:
            keys: The columns of each, by the table's OID; shared, not copied, and not to be changed any more.
        """
    @property
    def primary_keys(self) -> Mapping[int, Sequence[str]] | None:
        """What `with_primary_keys` was given: the same object; None where nobody has said."""
    def key_columns(self, relation: Relation) -> tuple[str, ...]:
        """The columns by which the rows of a table are known.

        Args:
            relation: The table's shape, one of `relations`.

        Returns:
            Those of the replica identity, which is the primary key by default. Under REPLICA IDENTITY FULL and NOTHING,
            where the stream does not say, the primary key, where somebody has told the batch (a pipeline does). Empty
            where nothing is known.
        """
    def json_rows(
        self,
        key: Callable[[Relation], Sequence[str]] | None = None,
        *,
        catalog: TypeCatalog | None = None,
    ) -> list[JsonRow]:
        """The changes one by one, each with its key as text and its new row as JSON, for targets that keep rows.

        They are made straight from what was received; no Python object is made of a value outside the key.

        Args:
            key: Called for each relation of the batch's rows: the columns of its key. None for `key_columns`.
            catalog: What is known of user-defined types; when None, what the stream knows that this came from.

        Returns:
            In order; a truncate is one for each of its tables.

        Raises:
            DecodeError: For the first change that cannot be written; `changes()` gives the others of the same batch.
        """
    @staticmethod
    def truncation(relations: Sequence[Relation], lsn: int) -> Batch:
        """A batch of one Truncate at the start of an initial copy, for targets that must be emptied first.

        Args:
            relations: The tables.
            lsn: The consistent point of the copy; the position is `(lsn, -1)`.
        """
    @staticmethod
    def concat(batches: Iterable[Batch], *, alike: bool = False) -> Batch:
        """Several batches of one stream as one, for a target to which one large write is cheaper than many small ones.

        It copies their bytes, and shares the events that they have made by now.

        Args:
            batches: In stream order.
            alike: They were kept one by one (`to_bytes`), so that each says anew what shape its tables have: equal ones
                become one, and a target that takes rows of one shape at once has them together. No table may have had
                another shape between two that are equal.
        """
    def to_bytes(self) -> bytes:
        """All of the batch as bytes that can be kept: its messages, and what is known of each.

        They stand alone: the relations that its changes use are in them, and its transactions, positions and LSNs. What
        the stream knows of types is not; see `from_bytes`.

        Raises:
            ConfigError: When it has more than 2**32 messages, or one of more than 4 GiB.
        """
    @staticmethod
    def from_bytes(data: bytes | bytearray | memoryview, format: RowFormat | None = None) -> Batch:
        """The batch that `to_bytes` was called of.

        Any bytes are a batch or an error, and take no more memory than a small multiple of their size.

        Args:
            data: What `to_bytes` gave.
            format: How rows are given to those who ask the batch and do not say.

        Raises:
            DecodeError: When these bytes are no batch, or one of another version of the format.
        """
    @staticmethod
    def of(messages: Iterable[bytes | bytearray | memoryview], lsns: Sequence[int] | None = None) -> Batch:
        """A batch of messages that are in hand already, from the beginning of a stream.

        Args:
            messages: Whole messages, in stream order.
            lsns: The `wal_start` of each, where known; as long as `messages`.
        """
    def to_json(
        self,
        envelope: Literal["plain", "debezium"] | DebeziumEnvelope = "plain",
        *,
        catalog: TypeCatalog | None = None,
    ) -> bytes:
        r"""Write the changes as lines of JSON, straight from what was received, without Python objects or the GIL.

        Each row change, truncate and logical message is one object on one line that ends with a line feed. Its fields
        are those of the event, in this order, and a field that is not known is left out:

        - `action`: `"insert"`, `"update"`, `"delete"`, `"truncate"`, `"message"`;
        - of a row `schema`, `table` and, in a pipeline, `schema_version`; of a truncate `relations` (objects with
          these), `cascade` and `restart_identity`; of a message `transactional`;
        - `position` as `str(Position)` prints it, so that text compares as positions do; `commit_lsn`
          (`"16/B374D848"`), `index` (-1 for rows of the initial copy) and `commit_time`, all where the transaction's
          Begin was seen;
        - `lsn`, where it is known;
        - of a row `new` and `old`, objects by column name, as in the events: a column that was not sent is left out, an
          unchanged TOAST value is taken from the old row where that was sent; of a message `prefix` and `content`.

        Text and binary streams give the same bytes for every type that the decoder knows:

        | type | JSON |
        |---|---|
        | int2, int4, int8, oid, xid, cid, xid8 | number, all digits |
        | float4, float8 | number, the fewest digits that say it; `"NaN"`, `"Infinity"`, `"-Infinity"` |
        | numeric | string with the digits that PostgreSQL prints, `"NaN"` and the infinities included |
        | money | string with its digits: `"-1234.50"` |
        | bool | `true`, `false` |
        | text, varchar, bpchar, name, "char", citext, xml, enums | string |
        | bytea | string `"\\x00ff"` |
        | date, time, timestamp | `"2024-02-29"`, `"12:30:00.500000"` (six digits or none), `"2024-02-29T12:30:00"` |
        | timestamptz | the same in UTC with `Z` |
        | timetz | the same with `Z`, `+05:30` or `-15:59:59` |
        | the same outside the years 1 to 9999, infinite, or 24:00:00 | string in PostgreSQL's own words |
        | uuid | string in small letters |
        | json, jsonb | the document as it was sent; line breaks between its parts become spaces |
        | arrays | arrays, nested; `{"lower_bounds":[0],"elements":[…]}` where a lower bound is not 1 |
        | int2vector, oidvector, vector, halfvec | array of numbers |
        | composite types | object by the attributes' names |
        | hstore | object of strings and nulls |
        | domains | as their base type |
        | any other that is known (intervals, ranges, network addresses, geometry …) | string as PostgreSQL prints it |
        | types that nothing is known of | string: text as sent; bytes that came in binary as bytea |

        Bytes that are not UTF-8 (a database in SQL_ASCII sends them) become lone surrogates `\udc80` to `\udcff`, which
        Python's `json` reads as `surrogateescape` does; a parser that does not take them refuses the line.

        Args:
            envelope: What is around the rows: `"plain"` is the above; `"debezium"`, or a `DebeziumEnvelope` that says
                more, is Debezium's, with Debezium's forms of the values.
            catalog: What is known of user-defined types; when None, what the stream knows that this came from.

        Returns:
            The lines; empty when there is no change.

        Raises:
            ConfigError: When the envelope is none of the above.
            DecodeError: For the first change that cannot be written; `changes()` gives the others of the same batch.

        Source:
            RFC 8259 (JSON), RFC 3339 (times).
        """
    def records(
        self,
        values: Literal["plain", "debezium", "batch"] | DebeziumEnvelope = "plain",
        *,
        key: Callable[[Relation], Sequence[str]] | None = None,
        tombstones: bool = True,
        catalog: TypeCatalog | None = None,
    ) -> list[
        tuple[
            int,
            Relation | None,
            Literal["row", "key", "truncate", "message", "tombstone"],
            bytes | None,
            bytes | None,
            bytes | None,
            int | None,
        ]
    ]:
        """The changes as records of a log, each with its key; made without the GIL and without Python objects of rows.

        Each is `(number, relation, what, key, value, position, version)`: the number of the change among those of the
        batch; the table, None for a logical message; what it is; the key, a JSON object of the key's columns in the
        form of the values; the value; `str(position)` in ASCII; and the schema version; None where they are not known.

        - `"row"`: an insert, an update or a delete. The key is that of the new row, of a delete that of the old one;
          None where the table has no key, or the server did not send it.
        - `"tombstone"`: a key that is gone, with no value: behind a delete, and where an update changed the key.
        - An update that changed the key is in Debezium's envelope a delete, a tombstone and an insert, as Debezium
          emits it; in plain lines a tombstone of the old key before the update; among batches one record, `"key"`.
        - `"truncate"`: one for each of its tables, without a key.
        - `"message"`: a logical message; the key is `{"prefix":"…"}`.

        Args:
            values: What the values are: lines as `to_json` has them, without the line feed; or `"batch"`: `to_bytes` of
                a batch that has just the one change.
            key: Called for each relation that rows are of: the columns of its key, which also say when Debezium takes
                an updated row for another one. None for `key_columns`.
            tombstones: Whether there are tombstones.
            catalog: What is known of user-defined types; when None, what the stream knows that this came from.

        Raises:
            ConfigError: When `values` is none of the above.
            DecodeError: For the first change that cannot be written; `changes()` gives the others of the same batch.
        """
    def to_arrow(
        self, *, text: Collection[str] | None = None, catalog: TypeCatalog | None = None
    ) -> dict[str, ArrowTable]:
        """Give the changes as Arrow tables, straight from what was received, without Python objects or the GIL.

        Each change is one row, in the stream's order; a TRUNCATE is one row in each of its tables. Which columns a
        table has, and of which types, follows from its Relation message alone, never from the values. First come

        - `_action` (utf8): `"insert"`, `"update"`, `"delete"`, `"truncate"`;
        - `_position` (utf8) as `str(Position)` prints it, `_commit_lsn` (uint64), `_commit_time` (timestamp in
          microseconds, UTC; null in the initial copy): null where the transaction's Begin was not seen;
        - `_unset` (list of utf8): the names of the columns that were not sent (unchanged TOAST, outside the key), which
          tells their nulls from NULL; empty for a truncate, which has no row;
        - `_old` (struct of the replica identity's columns; missing where there are none): what an update sent of the
          old row, that is the old key when the key changed, the whole row under REPLICA IDENTITY FULL; else null.

        Then come the table's columns: the new row of an insert or update, the old key or row of a delete. One of the
        first whose name the table uses itself gets one more underscore. Types:

        | PostgreSQL | Arrow |
        |---|---|
        | bool | bool |
        | int2, int4, int8 | int16, int32, int64 |
        | oid, xid, cid | uint32 |
        | xid8, pg_lsn | uint64 |
        | float4, float8 | float, double |
        | numeric(p, s) with 0 ≤ s ≤ p ≤ 38 | decimal128(p, s) |
        | money | decimal128(19, 2) |
        | bytea; geometry and geography of PostGIS (EWKB) | binary |
        | date, time | date32, time64 in microseconds |
        | timestamp, timestamptz | timestamp in microseconds, without zone and in UTC |
        | uuid | arrow.uuid (fixed-size binary of 16) |
        | json, jsonb | arrow.json (utf8), the document as it was sent |
        | arrays | list of the element's type |
        | int2vector, oidvector | list of int16, of uint32 |
        | vector, halfvec | list of float |
        | text, enums, timetz, numeric without precision; columns named in `text` | utf8, in the words of `to_json` |
        | any other, composite types among them | utf8, as PostgreSQL prints it |

        A value that its Arrow type cannot hold is refused, never changed or given as null: infinite dates and
        timestamps, 24:00:00, NaN in a decimal, arrays of several dimensions or with a lower bound other than 1. Name
        such a column in `text` to have all of its values as strings. Strings that are not UTF-8 are refused, too.

        Logical messages are in a table called `"messages"`: `_position`, `_commit_lsn`, `_commit_time`, `lsn`,
        `transactional`, `prefix`, `content`.

        Args:
            text: Columns (`"schema.table.column"`) that are given as strings, whatever their type is.
            catalog: What is known of user-defined types; when None, what the stream knows that this came from.

        Returns:
            The tables that have changes, by name: `"schema.table"`, where a name with a full stop or quote in it is
            quoted as in SQL.

        Raises:
            ConfigError: When `text` is a single string.
            DecodeError: For the first change that cannot be given; `changes()` gives the others of the same batch.

        Source:
            Arrow documentation, "Arrow Columnar Format", "Canonical Extension Types".
        """

@final
class ArrowTable:
    """The changes of one table in a batch, for whoever speaks Arrow: `duckdb`, `polars`, `pyarrow`.

    `pyarrow.table(it)`, `polars.DataFrame(it)` and `SELECT … FROM it` in DuckDB take it as it is, without a copy of the
    data. When the table's columns changed within the batch, there is a part for each run of rows with the same columns
    and the whole refuses to be read as one: take `parts`, which every table has.

    Source:
        Arrow documentation, "The Arrow PyCapsule Interface".
    """

    @property
    def table(self) -> str:
        """The table's name, as `Batch.to_arrow` has it."""
    @property
    def num_rows(self) -> int:
        """How many changes there are."""
    @property
    def parts(self) -> list[ArrowTable]:
        """The same rows in the same order, each part with the same columns throughout; mostly one."""
    def __arrow_c_schema__(self) -> object:
        """The columns, as a capsule.

        Raises:
            SchemaError: When there is more than one part.
        """
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """The columns and the rows as one struct array, as capsules.

        Args:
            requested_schema: Not followed; the consumer casts.

        Raises:
            SchemaError: When there is more than one part.
        """
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows as a stream of one record batch, as a capsule.

        Args:
            requested_schema: Not followed; the consumer casts.

        Raises:
            SchemaError: When there is more than one part.
        """

@final
class Libpq:
    """Two functions of a libpq that is loaded, for `Frames.take`.

    Args:
        get_copy_data: The address of `PQgetCopyData`. A wrong one crashes the process.
        free_memory: The address of `PQfreemem`.

    Raises:
        ValueError: When an address is 0.
    """

    def __new__(cls, get_copy_data: int, free_memory: int) -> Libpq: ...

@final
class Frames:
    """Payloads of CopyData in one piece of memory, for a reader; a sequence of bytes for everybody else."""

    def __new__(cls) -> Frames: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> bytes: ...
    def __iter__(self) -> Iterator[bytes]: ...
    def append(self, frame: bytes | bytearray | memoryview) -> None:
        """Put one payload behind the others."""
    def take(self, libpq: Libpq, connection: int, max_bytes: int, max_frames: int) -> int:
        """Take the payloads that libpq holds, without waiting and without an object for each.

        Args:
            libpq: The library that the connection belongs to.
            connection: The address of a `PGconn` that no other thread uses meanwhile. A wrong one crashes the process.
            max_bytes: Stop when so many bytes are there.
            max_frames: Stop when so many payloads are there.

        Returns:
            What PQgetCopyData said last: 0 when nothing more has come so far, -1 when the server ended the COPY, -2 for
            an error that libpq can tell; 1 when a limit was reached.

        Raises:
            ValueError: When the connection is 0.

        Source:
            libpq: PQgetCopyData, PQfreemem.
        """
    def messages(self) -> tuple[list[bytes], list[int]]:
        """The messages in XLogData payloads, and where each begins in the WAL; keepalives are left out.

        Raises:
            DecodeError: When a payload is neither XLogData nor keepalive or is cut short.

        Source:
            PostgreSQL manual, "Streaming Replication Protocol", XLogData.
        """
    @property
    def nbytes(self) -> int:
        """How many bytes they have together."""

@final
class BatchReader:
    """CopyData frames of one replication stream to batches; keeps relations, transactions and what keepalives said.

    Args:
        format: How rows are given to those who ask a batch and do not say: the stream knows its database's types.

    Source:
        PostgreSQL manual, "Streaming Replication Protocol", XLogData and Primary keepalive message.
    """

    def __new__(cls, format: RowFormat | None = None) -> BatchReader: ...
    def read(self, frames: Frames | Sequence[bytes | bytearray | memoryview]) -> Batch:
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
        """Everything up to here was received whole and would not be needed again; 0 at the beginning.

        The end in the WAL of the last transaction that ended, or the `wal_end` of a keepalive that came later, if no
        transaction, no piece of a stream and no streamed transaction was unfinished then. While a transaction is
        prepared, never more than where that was: after a restart beyond it the server does not send its changes again.
        """
    @property
    def in_transaction(self) -> bool:
        """Whether the last message read left a transaction open."""
    def take_reply_request(self) -> bool:
        """Whether a keepalive since the last call asked for an answer."""

@final
class Assembler:
    """Streamed and prepared transactions (protocols 2 to 4) to batches as protocol 1 has them.

    What comes out are whole committed transactions in the order of their commits: Begin, Origin, Relation and Type,
    changes without `xid` and with their positions, Commit. What was rolled back, wholly or to a savepoint, is left out,
    and so is a streamed or prepared transaction that has no change. A prepared one comes out at its COMMIT PREPARED.
    Transactions that are neither streamed nor prepared, and logical messages outside of transactions, pass at once.

    Three things are not as protocol 1 has them: the Origin of a streamed transaction says `commit_lsn=0`, because the
    server does; the `lsn` of a Begin is that of the transaction's first piece or of its PREPARE; Relation and Type may
    be said more often.

    Transactions that are still open are kept in memory; together they take about `max_memory` bytes, beyond which the
    largest is written to a file, compressed. A transaction that comes out is cut into batches of about 1 MiB, so one of
    any size takes no more. Files have no name and are gone with the process. The shapes of tables, each once in a
    transaction, and what is known of roll-backs are in no file: they may take half of `max_memory`, or 1 MiB where that
    is more.

    Use one for each connection: a server that is asked again sends all open transactions from their beginning. After an
    error it gives the same error for ever; what came out before is good, and nothing else was to be confirmed.

    Args:
        max_memory: What open transactions may take in memory, in bytes.
        spill_directory: Where files are made; None for the system's directory for temporary files.
        max_spill: What all files may take, in bytes; None for as much as there is.
        format: How rows are given to those who ask a batch and do not say.

    Raises:
        ConfigError: When `spill_directory` is not a directory.

    Source:
        PostgreSQL manual, "Streaming of Large Transactions for Logical Decoding", "Two-phase Commit Support for Logical
        Decoding"; server file `replication/logical/worker.c`.
    """

    def __new__(
        cls,
        *,
        max_memory: int = 33554432,
        spill_directory: str | PathLike[str] | None = None,
        max_spill: int | None = 17179869184,
        format: RowFormat | None = None,
    ) -> Assembler: ...
    def read(
        self, messages: Iterable[bytes | bytearray | memoryview], lsns: Sequence[int] | None = None
    ) -> Iterator[Batch]:
        """Take some messages and give what is whole by then.

        Args:
            messages: Whole messages (payloads of XLogData), in stream order, of any protocol version.
            lsns: The `wal_start` of each, where known; as long as `messages`.

        Returns:
            Batches, made as they are asked for. What is not asked for is not lost: the next `read` gives it first.

        Raises:
            DecodeError: When a message that begins or ends a transaction cannot be read, or others are missing before
                it. What else cannot be read is given with its transaction, as a decoder does.
            PositionError: When a prepared transaction is committed whose changes were not sent: the slot was confirmed
                past its PREPARE TRANSACTION.
            ReplicationError: When a streamed transaction commits with a logical message of which the server does not
                say whether it was rolled back to a savepoint: it gives all the id of the whole transaction. What can be
                concluded is: of one that a row of no sub-transaction follows, or that has one of its own
                sub-transaction before it and of none that was rolled back behind it.
            SpillError: When a transaction cannot be kept in its file, because there is no room or not more than
                `max_spill`; or when the shapes of the tables that open transactions use, and what is known of
                their roll-backs, take more than they may.
        """
    @property
    def hold_lsn(self) -> int | None:
        """Where the oldest transaction was prepared that has not come out whole yet; None when there is none.

        Nothing may be confirmed past it: the server would send that it was committed, and its changes not again.
        Streamed transactions that are not prepared hold nothing: their commits are still to come.
        """
    @property
    def confirmable_lsn(self) -> int:
        """What may be confirmed once all that was given is durable; 0 at the beginning.

        The end of the last transaction that ended, whether it came out or not, but nothing past `hold_lsn`, nor between
        the PREPARE and the COMMIT PREPARED of a transaction that came out: a slot that stands there would be sent its
        end without its changes. So where prepared transactions overlap without end, it stands still.
        Who confirms batch by batch takes `Batch.end_lsn`, which says the same of what came out up to there.
        """
    def take_spans(self) -> list[tuple[int, int]]:
        """Of the prepared transactions that came out since the last call: where they were prepared, where they ended.

        A slot must not stand in between: it would be sent the end without the changes. Who confirms what
        `Batch.end_lsn` or `confirmable_lsn` says needs none of this; who confirms other places moves them out of these.

        Returns:
            Pairs of LSNs; of more than a thousand of them one that covers all.
        """
    @property
    def idle(self) -> bool:
        """Whether nothing is open, coming out or not looked at yet: then a keepalive's `wal_end` may be confirmed."""
    def statistics(self) -> AssemblerStatistics:
        """How many transactions are open and what room they take."""

@final
class Spool:
    """A durable queue of batches for one consumer, in the files of a directory: what it has not taken yet.

    Batches are appended, made durable by `sync`, read in the same order, and released when they are not needed any
    more, which removes files. After a crash at any time, of the process or the machine, what was synced is there. What
    was appended later may be there, too, up to some batch, and is durable if it is: `last_position` says how far it
    goes, so who appends goes on with `batch.after(spool.last_position)`. Batches that were released may be read again
    after the spool was opened again; a consumer takes `batch.after(...)` of its own position.

    The directory is made where it is not there, with permissions for its owner only, as its files are. It belongs to
    one object at a time. It has a random id that stays with it: a new, empty spool in the place of a lost one has
    another id. Files are compressed with LZ4, and each batch has a checksum.

    One thread may append and sync while another one reads and releases; no call holds the GIL while it touches files.

    Args:
        directory: Where the files are: on a disk that keeps them.
        max_bytes: What all files may take, in bytes.
        segment_bytes: A file is closed when the next batch would make it larger than this, in bytes. When all batches
            were released, up to this much stays.
        format: How rows are given to those who ask a batch that was read and do not say.

    Raises:
        ConfigError: When `segment_bytes` is not from 1 to `max_bytes`.
        SpoolInUse: When another process has the directory, or another object of this one.
        SpoolError: When it cannot be read or made, or what is there is damaged: the message says which file, and where.
    """

    def __new__(
        cls,
        directory: str | PathLike[str],
        *,
        max_bytes: int = 17179869184,
        segment_bytes: int = 67108864,
        format: RowFormat | None = None,
    ) -> Spool: ...
    @property
    def id(self) -> str:
        """Its id, 32 hexadecimal digits."""
    def append(self, batch: Batch, through_lsn: int = 0) -> int:
        """Put a batch at the end. It is durable after the next `sync`.

        Args:
            batch: The batch; one without messages only says how far the WAL is done.
            through_lsn: How far the WAL is done once this batch is.

        Returns:
            Its sequence: that of the batch before and one more. The first has 1.

        Raises:
            SpoolFull: When it would take more than `max_bytes` with it, or the disk is full.
            SpoolError: When the operating system refuses, or an earlier `sync` did. The batch is not in the spool then.
        """
    def sync(self) -> None:
        """Make durable what was appended.

        Raises:
            SpoolError: When the operating system refuses. Then what was appended since the last time is not durable,
                and nothing more is taken before the spool was closed and opened again.
        """
    def read(self) -> tuple[int, Batch, int] | None:
        """The next batch in order, whether it is durable yet or not.

        Returns:
            Its sequence, the batch, its `through_lsn`; None when there is none yet.

        Raises:
            SpoolError: When it is not there as it was written, or the operating system refuses. The next call tries
                again; nothing is left out.
            DecodeError: When a later version of pgcdc wrote it.
        """
    def release(self, sequence: int) -> None:
        """Give up a batch and all before it: what they led to is durable elsewhere.

        Args:
            sequence: That of the last one.

        Raises:
            SpoolError: When a file cannot be removed. The next call tries again.
        """
    @property
    def through_lsn(self) -> int:
        """That of the last batch, whether it was released or not; 0 when there was none."""
    @property
    def last_position(self) -> Position | None:
        """The position of the last change; None when there was none."""
    @property
    def last_sequence(self) -> int:
        """The sequence of the last batch, whether it was released or not; 0 when there was none."""
    @property
    def pending(self) -> int:
        """How many batches there are that were not released."""
    @property
    def stored_bytes(self) -> int:
        """What the batches' files take, in bytes."""
    def close(self) -> None:
        """Close the files, so that others can open the spool. Any call but this one raises ValueError then."""
    def __enter__(self) -> Spool: ...
    def __exit__(self, *_exception: object) -> None: ...

@final
class CopyReader:
    """`COPY … TO STDOUT (FORMAT binary)` to batches of Inserts with position `(lsn, -1)`.

    Args:
        relation: The table; as many columns as the COPY sends, in its order.
        lsn: The consistent point of the snapshot that the COPY runs in.
        text_columns: For each column whether it was cast to text for the copy, and is to be decoded as the text form of
            its type; None when none was.
        format: How rows are given to those who ask a batch and do not say.

    Source:
        PostgreSQL manual, "COPY", Binary Format.
    """

    def __new__(
        cls,
        relation: Relation,
        lsn: int,
        text_columns: Sequence[bool] | None = None,
        format: RowFormat | None = None,
    ) -> CopyReader: ...
    def read(self, frames: Frames | Sequence[bytes | bytearray | memoryview]) -> Batch:
        """Take some CopyData payloads, cut anywhere.

        Raises:
            DecodeError: When they are not COPY BINARY, or a row has another number of columns than the relation.
        """
    @property
    def finished(self) -> bool:
        """Whether the trailer was read: without it the copy is not whole."""

@final
class JsonRow:
    """What one change does to a row: its key, and what it is now. Made by `Batch.json_rows`."""

    @property
    def action(self) -> Literal["insert", "update", "delete", "truncate", "message"]:
        """What happened."""
    @property
    def number(self) -> int:
        """The number of the change among those of the batch, from 0; the tables of one truncate have the same."""
    @property
    def position(self) -> Position | None:
        """The position of the change; None when its transaction's commit is not known."""
    @property
    def position_text(self) -> str | None:
        """`str(position)`, in a tenth of the time."""
    @property
    def commit_lsn(self) -> int | None:
        """The first half of the position."""
    @property
    def relation(self) -> Relation | None:
        """The table's shape; None for a logical message."""
    @property
    def key(self) -> tuple[str | None, ...] | None:
        """The values of the key, as PostgreSQL prints them, of the row as it is now; of a delete, as it was.

        None when the table has no key that is known, or the server did not send it. A value is None for NULL.
        """
    @property
    def old_key(self) -> tuple[str | None, ...] | None:
        """The key that the row had before an update, if it was another one."""
    @property
    def new(self) -> bytes | None:
        """The row as it is now, a JSON object by column name, values as in `Batch.to_json`; None when it is gone.

        Columns that were not sent are left out.
        """
    @property
    def unsent(self) -> tuple[str, ...]:
        """The names of the columns of the new row that were not sent (unchanged TOAST): they are what they were."""

def encode_message(event: Event[Any], *, xid: int | None = None) -> bytes:
    """Write the message that an event is read from, for tests and for whoever plays a server.

    Args:
        event: Any event. Rows are given as they are sent: a tuple with an item for each column of the relation; None
            for NULL, UNSET for what is not sent, str for the text form, bytes for the binary form. An old row is sent
            whole where the relation's replica identity is full, else as a key. What a message does not say
            (`commit_lsn` and `index` of a change, `lsn`) is left out.
        xid: The (sub-)transaction's id, for a message that stands between StreamStart and StreamStop and of a kind that
            has one there; None for the event's own, if it has one.

    Returns:
        The message, beginning with its kind byte.

    Raises:
        TypeError: When it is no event, or a row no such tuple.
        ConfigError: When no message can say this: a zero byte in a name, another number of columns than the relation's,
            an Insert without a new row.

    Source:
        PostgreSQL manual, "Logical Replication Message Formats".
    """

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

def copied_values(data: bytes) -> list[list[bytes | None]]:
    """Read the rows of COPY BINARY data that `Batch.to_copy` has written.

    Args:
        data: The data, whole.

    Returns:
        The values of each row, in binary.

    Raises:
        ValueError: When it is not whole.

    Source:
        PostgreSQL manual, "COPY", "Binary Format".
    """

def json_fields(row: bytes) -> list[bytes]:
    """The columns of a row as fields of text, as a Redis hash has them.

    Args:
        row: `JsonRow.new`, or another JSON object.

    Returns:
        Name, value, name, value, … in its order, without those that are null. Of a string its characters, in UTF-8, and
        a byte that is not as it came from the server; of other values what stands there.

    Raises:
        ValueError: When it is no object; not each text that is no JSON is one.
    """

def json_members(object: bytes) -> dict[str, bytes]:
    """Take a JSON object apart, also one with text that no UTF-8 has, which other parsers refuse.

    That is half of a surrogate pair, which columns of type json may hold, and as which bytes are written that are no
    UTF-8.

    Args:
        object: JSON text that its writer has checked: of nested values only the end is looked for.

    Returns:
        Its values as they stand there, by name.

    Raises:
        ValueError: When it is no JSON object.
    """

def json_items(array: bytes) -> list[bytes]:
    """Likewise a JSON array.

    Args:
        array: JSON text that its writer has checked.

    Returns:
        Its items as they stand there.

    Raises:
        ValueError: When it is none.
    """

def json_number(text: str) -> float | Decimal:
    """A number in JSON: a float where that says the same, else a Decimal.

    Args:
        text: The number's characters.
    """
