"""Two brokers, of which one dies that a client takes for the one to be asked: it asks the other."""

from __future__ import annotations

import base64
import subprocess
import time
import uuid
from typing import TYPE_CHECKING

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pgcdc.pipeline.kafka_asking import Asking
from pgcdc.pipeline.kafka_topic_watch import TopicWatch
from tests.pipeline.running import until
from tests.servers.jvm import java
from tests.servers.kafka import KafkaServer
from tests.servers.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


class Node(KafkaServer):
    """A broker of a cluster whose first one is its controller, too.

    Args:
        number: Which.
        controller: The controller's port.
        cluster: The cluster's id.
    """

    def __init__(self, number: int, controller: int, cluster: str) -> None:
        self._number = number
        self._controller = controller
        self._cluster = cluster
        super().__init__(
            {
                "node.id": str(number),
                "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
                "broker.session.timeout.ms": "3000",
                "broker.heartbeat.interval.ms": "500",
            }
        )

    def _format(self) -> None:
        lines = dict(line.split("=", 1) for line in self._properties.read_text().splitlines())
        lines["listeners"] = f"PLAINTEXT://127.0.0.1:{self.port}"
        if self._number == 1:
            lines["listeners"] += f",CONTROLLER://127.0.0.1:{self._controller}"
        else:
            lines["process.roles"] = "broker"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        arguments = ["format", "-t", self._cluster, "-c", str(self._properties)]
        command = [java("Kafka"), *self._run("kafka.tools.StorageTool"), *arguments]
        command += ["--standalone"] if self._number == 1 else []
        subprocess.run(command, capture_output=True, check=True, timeout=240)


@pytest.fixture
def nodes(kafka: KafkaServer) -> Iterator[tuple[Node, Node]]:
    """Two brokers; `kafka` for its skip where there is none."""
    controller = free_port()
    cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
    with Node(1, controller, cluster) as first, Node(2, controller, cluster) as second:
        yield first, second


def test_a_broker_that_was_to_be_asked_and_is_gone(nodes: tuple[Node, Node]) -> None:
    """A client asks whom it was told to ask last, though others would answer."""
    first, second = nodes
    admin = AdminClient({"bootstrap.servers": f"{first.bootstrap},{second.bootstrap}", "log_level": 2})
    until(lambda: len(admin.list_topics(timeout=10).brokers) == 2, "two brokers")
    [made] = admin.create_topics([NewTopic("orders", 1, replica_assignment=[[1]])]).values()
    made.result()
    asking = Asking(confluent_kafka, "one", 30.0, lambda: None)
    watch = TopicWatch(confluent_kafka, "one", "shop.one", admin, asking)
    until(lambda: admin.list_topics(timeout=10).controller_id == 2, "the second is to be asked")
    second.stop()
    since = time.monotonic()
    assert watch.describe({"orders"}, since)["orders"].partitions == 1
    watch.check_policies({"orders"}, since)
