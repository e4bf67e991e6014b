"""Makes Debezium's golden captures again: `python -m tests.golden.debezium.make`. Needs Java 17 and Maven."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.golden.debezium.workload import statements
from tests.golden.make import Captured, connect, peek, read_capture, write_capture

HERE = Path(__file__).parent
FORMS = ("text", "binary")
POSTGRESQL = 18
MODES: dict[str, dict[str, str]] = {
    "default": {},
    "strings": {"decimal.handling.mode": "string", "time.precision.mode": "isostring"},
    "unknown": {"include.unknown.datatypes": "true"},
}
"""What differs from Debezium's defaults, by the name of the file."""


TYPES = """
WITH used AS (
    SELECT t.* FROM pg_type t JOIN pg_attribute a ON a.atttypid = t.oid JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace >= 2200 AND a.attnum > 0
)
SELECT t.oid::int8, t.typname, t.typtype::text, t.typbasetype::int8, t.typelem::int8, t.typtypmod, (
    SELECT json_agg(json_build_array(attname, atttypid::int8) ORDER BY attnum)
    FROM pg_attribute WHERE attrelid = t.typrelid AND attnum > 0
)
FROM pg_type t WHERE t.oid >= 16384 AND (t.oid IN (SELECT oid FROM used) OR t.oid IN (SELECT typelem FROM used))
ORDER BY 1
"""
"""The types that tables have, and their elements'."""


def read_messages(form: str) -> Captured:
    """The (wal_start, message) pairs of the workload, of one form of values."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(gzip.decompress((HERE / f"{form}.capture.gz").read_bytes()))
        file.flush()
        return read_capture(Path(file.name))


def read_types() -> list[dict[str, Any]]:
    """The types that are not PostgreSQL's own: what `TypeCatalog.add` takes."""
    types: list[dict[str, Any]] = json.loads((HERE / "types.json").read_text(encoding="utf-8"))
    return types


def read_events(mode: str) -> list[dict[str, Any]]:
    """What Debezium emitted in one mode; of others than the default what differs from it, with `number` in its list."""
    lines = gzip.decompress((HERE / f"{mode}.jsonl.gz").read_bytes()).splitlines()
    return [json.loads(line) for line in lines]


def libraries(folder: Path) -> str:
    """Debezium and what it needs, as a class path."""
    target = f"-DoutputDirectory={folder}"
    subprocess.run(["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", target], check=True)
    return f"{folder}/*"


def properties(port: int, mode: str) -> dict[str, str]:
    """Debezium's configuration: nothing but what it has to be told, and the mode."""
    return {
        "name": "golden",
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": "127.0.0.1",
        "database.port": str(port),
        "database.user": "postgres",
        "database.password": "-",
        "database.dbname": "postgres",
        "topic.prefix": "shop",
        "plugin.name": "pgoutput",
        "slot.name": f"golden_{mode}",
        "publication.name": "golden",
        "publication.autocreate.mode": "disabled",
        "snapshot.mode": "no_data",
        "skipped.operations": "none",  # truncates too
        "event.processing.failure.handling.mode": "warn",  # what it cannot convert is left out, and the rest comes
        "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
        "converter.schemas.enable": "false",
        **MODES[mode],
    }


def emitted(class_path: str, settings: dict[str, str], folder: Path) -> list[dict[str, Any]]:
    """What Debezium emits, without the time at which it did."""
    file = folder / "properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    command = ["java", "-cp", class_path, str(HERE / "Capture.java"), str(file)]
    written = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8").stdout
    events = [json.loads(line) for line in written.splitlines()]
    for event in events:
        for name in ("ts_ms", "ts_us", "ts_ns"):
            (event["value"] or {}).pop(name, None)
    return events


def write_packed(path: Path, content: bytes) -> None:
    """Write a file packed, the same for the same content."""
    path.write_bytes(gzip.compress(content, mtime=0))


def main() -> None:
    """Make all captures."""
    from tests.servers.postgres import PostgresServer, remove_templates  # only here: reading captures needs no server

    with tempfile.TemporaryDirectory() as name, PostgresServer(POSTGRESQL) as server:
        folder = Path(name)
        class_path = sys.argv[1] if len(sys.argv) > 1 else libraries(folder / "libraries")
        with connect(server.dsn()) as connection:
            connection.execute("CREATE PUBLICATION golden FOR ALL TABLES WITH (publish_via_partition_root = true)")
            for slot in ("golden", *(f"golden_{mode}" for mode in MODES)):
                connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
            for statement in statements():
                connection.execute(statement)
            connection.execute("CREATE TABLE done (id int PRIMARY KEY)")
            for form in FORMS:
                write_capture(folder / form, peek(connection, "golden", "golden", binary=form == "binary"))
                write_packed(HERE / f"{form}.capture.gz", (folder / form).read_bytes())
            connection.execute("INSERT INTO done VALUES (1)")
            rows = connection.execute(TYPES).fetchall()
        names = ("oid", "name", "kind", "base", "element", "modifier", "fields")
        types = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        (HERE / "types.json").write_text("[" + ",\n".join(types) + "]\n", encoding="utf-8")
        defaults: list[dict[str, Any]] = []
        for mode in MODES:
            events = emitted(class_path, properties(server.port, mode), folder)
            defaults = defaults or events
            if events is not defaults:
                pairs = enumerate(zip(events, defaults, strict=True))
                events = [{"number": number, **event} for number, (event, default) in pairs if event != default]
            lines = "".join(json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n" for event in events)
            write_packed(HERE / f"{mode}.jsonl.gz", lines.encode())
            print(f"{mode}: {len(events)} events", file=sys.stderr)
    remove_templates()


if __name__ == "__main__":
    main()
