"""A Kafka broker of our own: one node in KRaft mode, broker and controller, with transactions."""

from __future__ import annotations

import base64
import contextlib
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Final

from tests.servers.jvm import JavaServer, java, libraries
from tests.servers.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_VERSION: Final = "4.2.0"
_ARTIFACTS: Final = (
    f"org.apache.kafka:kafka_2.13:{_VERSION}",
    "org.apache.logging.log4j:log4j-core:2.25.1",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.1",
)
_SETTINGS: Final = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.num.partitions": "3",
    "transaction.state.log.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "num.partitions": "1",
}
# No parallel collector and no second compiler: a broker that has little to do starts sooner and takes less.
_JAVA: Final = ("-Xmx512m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def programs(say: Callable[[str], None]) -> Path:
    """The broker's jars, downloaded once.

    Args:
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: They are not there and cannot be had.
    """
    return libraries(f"kafka-{_VERSION}", _ARTIFACTS, say=say)


class KafkaServer(JavaServer):
    """One broker on 127.0.0.1; what it has is kept while it is stopped and started again.

        with KafkaServer() as kafka:
            Producer({"bootstrap.servers": kafka.bootstrap})

    Args:
        settings: Lines for `server.properties`, over those that are made anyway.
        user: A name and a password with which one logs in at `guarded`, and may only what the broker's rules allow.
            At `bootstrap` everybody may everything.
        controller: The port of its controller; None: a free one.
        say: Takes a line that tells the user why the tests wait (for a download).
        options: Options of `java`, in place of those that make it small.

    Attributes:
        guarded: What `user` calls `bootstrap.servers`; empty without one.

    Raises:
        ServerUnavailable: This machine does not have it and cannot get it.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        user: tuple[str, str] | None = None,
        controller: int | None = None,
        say: Callable[[str], None] = print,
        options: tuple[str, ...] = _JAVA,
    ) -> None:
        java("Kafka")
        self._libraries = programs(say)
        self._options = options
        super().__init__(f"Kafka {_VERSION}")
        self.port = free_port()
        controller = free_port() if controller is None else controller
        lines = {
            **_SETTINGS,
            "log.dirs": str(self.folder / "data"),
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            **(settings or {}),
        }
        self.guarded = ""
        if user is not None:
            self.guarded = f"127.0.0.1:{free_port()}"
            for name in ("listeners", "advertised.listeners"):
                lines[name] += f",SASL_PLAINTEXT://{self.guarded}"
            lines["listener.security.protocol.map"] += ",SASL_PLAINTEXT:SASL_PLAINTEXT"
            lines |= {
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl_plaintext.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain"
                f'.PlainLoginModule required user_{user[0]}="{user[1]}";',
            }
        self._properties = self.folder / "server.properties"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        (self.folder / "log4j2.properties").write_text(
            "status=error\nappender.out.type=Console\nappender.out.name=out\nrootLogger.level=warn\n"
            "rootLogger.appenderRef.out.ref=out\n"
        )
        self._format()

    @property
    def bootstrap(self) -> str:
        """What clients call `bootstrap.servers`."""
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Start the broker."""
        return [*self._run("kafka.Kafka"), str(self._properties)]

    def is_ready(self) -> bool:
        """Whether it answers ApiVersions, the first request of every client."""
        # Size, API 18, version 0, correlation 7, no client id; the answer begins with its size and the correlation.
        request = bytes([0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 255, 255])
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), 1)) as probe:
            probe.settimeout(1)
            probe.sendall(request)
            return probe.recv(8)[4:8] == request[8:12]

    def _run(self, main: str) -> list[str]:
        log = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return [*self._options, log, "-cp", f"{self._libraries}/*", main]

    def _format(self) -> None:
        # The first letter is no hyphen: one in sixty-four would be taken for an option.
        cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        arguments = ["format", "-t", cluster, "-c", str(self._properties), "--standalone"]
        command = [java("Kafka"), *self._run("kafka.tools.StorageTool"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        if done.returncode != 0:
            # What is wrong comes first; a stack of Scala follows.
            raise RuntimeError(f"Kafka's storage could not be made: {done.stdout[:1000]}{done.stderr[:1000]}")


if __name__ == "__main__":
    # For those who want to look at it: `python -m tests.servers.kafka`.
    with KafkaServer(say=lambda line: print(line, file=sys.stderr)) as _kafka:
        print(_kafka.bootstrap, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()
