"""What others decode changes with, as their users call it: pypgoutput, psycopg's loaders, wal2json through msgspec."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import msgspec
from psycopg import pq
from psycopg.adapt import Transformer

from benches.capture import CACHE, Workload, stem, write
from benches.pure_python import PureDecoder, Table, u32
from tests.golden.make import connect

WAL2JSON_VERSION = 15
WAL2JSON_PACKAGE = f"postgresql-{WAL2JSON_VERSION}-wal2json"


class Unavailable(Exception):
    """A peer cannot be had here; says why."""


def pypgoutput() -> dict[int, Callable[[bytes], Any]]:
    """The peer's class for each kind of message, as its own reader picks them.

    They know only the text form, and their values are the strings as sent.

    Raises:
        Unavailable: When it is not installed.
    """
    try:
        version("pypgoutput")
    except PackageNotFoundError:
        raise Unavailable("pypgoutput: not installed (pip install --no-deps pypgoutput==0.0.3)") from None
    from pypgoutput import decoders

    return {
        ord("B"): decoders.Begin,
        ord("C"): decoders.Commit,
        ord("R"): decoders.Relation,
        ord("I"): decoders.Insert,
        ord("U"): decoders.Update,
        ord("D"): decoders.Delete,
    }


class TransformerDecoder(PureDecoder):
    """The pure parser with psycopg's Transformer for the values.

    Messages have to be cut into columns in Python; the loaders are psycopg's, in C when it has them.

    Args:
        form: The form of the values, which psycopg has to be told.
    """

    def __init__(self, form: Literal["text", "binary"]) -> None:
        super().__init__("struct")
        self.format = pq.Format.BINARY if form == "binary" else pq.Format.TEXT
        self.transformers: dict[int, Any] = {}

    def row(self, message: bytes, at: int, table: Table, is_key: bool) -> tuple[Any, int]:
        at += 2
        if is_key:
            return self.key(message, at, table)
        oid = table.relation.oid
        transformer = self.transformers.get(oid)
        if transformer is None:
            transformer = self.transformers[oid] = Transformer()
            transformer.set_loader_types([column.type_oid for column in table.relation.columns], self.format)
        columns: list[bytes | None] = []
        append = columns.append
        for _ in table.forms:
            form = message[at]
            if form == 110:
                append(None)
                at += 1
                continue
            start = at + 5
            at = start + u32(message, at + 1)[0]
            append(message[start:at])
        return table.make(transformer.load_sequence(columns)), at  # type: ignore[arg-type]


class Wal2JsonColumn(msgspec.Struct, gc=False):
    """A column of wal2json's format 2."""

    name: str
    type: str
    value: Any


class Wal2JsonChange(msgspec.Struct, gc=False):
    """A message of wal2json's format 2."""

    action: str
    schema: str | None = None
    table: str | None = None
    columns: list[Wal2JsonColumn] | None = None
    identity: list[Wal2JsonColumn] | None = None


def wal2json(workload: Workload) -> list[str]:
    """What wal2json sent for a workload, as psycopg2 hands it over: `str` payloads, format 2.

    Made once, with Debian's package of the plugin in a server of ours, and kept in `.cache/`.

    Raises:
        Unavailable: When the plugin or the server cannot be had.
    """
    file = CACHE / f"{stem(workload)}-wal2json.json"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_capture(workload, wal2json_plugin())), encoding="utf-8")
    payloads: list[str] = json.loads(file.read_text(encoding="utf-8"))
    return payloads


def wal2json_plugin() -> Path:
    """The plugin, from Debian's package, fetched once.

    Raises:
        Unavailable: When it cannot be had.
    """
    plugins = list(CACHE.glob("wal2json/**/wal2json.so"))
    if not plugins:
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise Unavailable("wal2json: its plugin is taken from Debian's package, and this system has no apt-get")
        with tempfile.TemporaryDirectory() as folder:
            got = subprocess.run(
                ["apt-get", "download", WAL2JSON_PACKAGE], cwd=folder, capture_output=True, text=True, check=False
            )
            packages = list(Path(folder).glob("*.deb"))
            if not packages:
                raise Unavailable(
                    f"wal2json: apt-get has no {WAL2JSON_PACKAGE} ({got.stderr.strip().splitlines()[-1:]})"
                )
            subprocess.run(["dpkg-deb", "-x", packages[0], CACHE / "wal2json"], check=True)
        plugins = list(CACHE.glob("wal2json/**/wal2json.so"))
    return plugins[0]


def _capture(workload: Workload, plugin: Path) -> list[str]:
    from tests.servers.postgres import PostgresServer, remove_templates
    from tests.servers.programs import ServerUnavailable

    # The server runs as another user, who need not see this folder.
    with tempfile.TemporaryDirectory(prefix="wal2json-") as folder:
        Path(folder).chmod(0o755)
        copy = shutil.copy(plugin, folder)
        try:
            with PostgresServer(WAL2JSON_VERSION) as server, connect(server.dsn()) as connection:
                for statement in workload.tables:
                    connection.execute(statement)
                connection.execute(
                    "SELECT pg_create_logical_replication_slot('bench', %s)", (copy.removesuffix(".so"),)
                )
                write(workload, connection)
                rows = connection.execute(
                    "SELECT data FROM pg_logical_slot_peek_changes('bench', NULL, NULL, 'format-version', '2')"
                )
                payloads = [payload for (payload,) in rows]
        except ServerUnavailable as error:
            raise Unavailable(f"wal2json: {error}") from error
    remove_templates()
    print(f"wal2json: {len(payloads)} payloads", file=sys.stderr)
    return payloads
