"""Three Kafka brokers of our own, each a controller too: any one may be away, and the others have all that it has."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from tests.servers.jvm import java
from tests.servers.kafka import KafkaServer
from tests.servers.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = ["KafkaCluster"]

_COUNT: Final = 3
_SETTINGS: Final = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    # A broker that dies is noticed sooner than by default, so that tests wait less.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1000",
}


class _Node(KafkaServer):
    """One of them.

    Args:
        number: Which.
        controllers: The ports of all controllers, by number.
        cluster: The cluster's id.
    """

    def __init__(self, number: int, controllers: Mapping[int, int], cluster: str) -> None:
        self._cluster = cluster
        voters = ",".join(f"{one}@127.0.0.1:{port}" for one, port in controllers.items())
        own = {"node.id": str(number), "controller.quorum.voters": voters}
        super().__init__({**_SETTINGS, **own}, controller=controllers[number])

    def _format(self) -> None:
        arguments = ["format", "-t", self._cluster, "-c", str(self._properties)]
        command = [java("Kafka"), *self._run("kafka.tools.StorageTool"), *arguments]
        subprocess.run(command, capture_output=True, check=True, timeout=240)


class KafkaCluster:
    """Three brokers on 127.0.0.1.

        with KafkaCluster() as cluster:
            Producer({"bootstrap.servers": cluster.bootstrap})
            cluster.nodes[2].crash()

    Attributes:
        nodes: The brokers by their number, of which 1 is the first.

    Raises:
        ServerUnavailable: This machine does not have it and cannot get it.
    """

    def __init__(self) -> None:
        # The first letter is no hyphen: one in sixty-four would be taken for an option.
        cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        controllers = {number: free_port() for number in range(1, _COUNT + 1)}
        self.nodes = {number: _Node(number, controllers, cluster) for number in controllers}

    @property
    def bootstrap(self) -> str:
        """What clients call `bootstrap.servers`."""
        return ",".join(node.bootstrap for node in self.nodes.values())

    def start(self) -> None:
        """Start all, and return when all are ready: none is before another is."""
        with ThreadPoolExecutor(_COUNT) as threads:
            list(threads.map(KafkaServer.start, self.nodes.values()))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.destroy()

    def destroy(self) -> None:
        """End all and delete their folders."""
        for node in self.nodes.values():
            node.destroy()


if __name__ == "__main__":
    # For those who want to look at it: `python -m tests.servers.kafka_cluster`.
    with KafkaCluster() as _cluster:
        print(_cluster.bootstrap, *(node.folder for node in _cluster.nodes.values()), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()
