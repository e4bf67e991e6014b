"""Where a run finds its changes on Kafka: the brokers, the topics' prefix, and what the client is told besides."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pgcdc.errors import ConfigError
from pgcdc.tables import Table

__all__ = ["KafkaAddress", "client_library", "parse_address"]

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]")
_OURS: Final = frozenset(
    {
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.partition.eof",
        "group.id",
        "group.protocol",
        "isolation.level",
        "partition.assignment.strategy",
    }
)
"""Settings of the client that this module's callers depend on."""

ASK_WITHIN = 10.0
"""Seconds that a question to the broker may take."""


@dataclass(frozen=True)
class KafkaAddress:
    """What a URL says.

    Attributes:
        brokers: `host:port`, with commas between several.
        prefix: What the names of the topics begin with.
        settings: Of the client, librdkafka's names; may have a password.
    """

    brokers: str
    prefix: str
    settings: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def client(self) -> dict[str, str]:
        """What every client is told."""
        return {**self.settings, "bootstrap.servers": self.brokers}

    def topic(self, table: Table) -> str:
        """The topic of a table's changes.

        Args:
            table: Schema and name.
        """
        return f"{self.prefix}.{'.'.join(_NOT_IN_NAMES.sub('_', part) for part in table)}"

    def topics(self, tables: Iterable[Table]) -> dict[str, Table]:
        """The topics of several tables.

        Args:
            tables: Schemas and names.

        Returns:
            The tables by topic.

        Raises:
            ConfigError: When two of them would have one topic.
        """
        topics: dict[str, Table] = {}
        for table in sorted(tables):
            topic = self.topic(table)
            if topic in topics:
                name = ".".join(table)
                raise ConfigError(
                    f"the tables {'.'.join(topics[topic])} and {name} would both come from the topic {topic}",
                    hint="names of topics have only letters, digits, '.', '_' and '-': rename a table at the source",
                    table=name,
                )
            topics[topic] = table
        return topics

    @property
    def messages_topic(self) -> str:
        """The topic of logical messages."""
        return f"{self.prefix}.message"

    @property
    def positions_topic(self) -> str:
        """The topic of the positions of whoever writes the others."""
        return f"{self.prefix}.pgcdc_positions"


def parse_address(url: str, prefix: str) -> KafkaAddress:
    """Read where changes come from.

    Args:
        url: `kafka://host:port,host:port/PREFIX?setting=value`. `kafka+ssl://` is the same with
            `security.protocol=ssl`; a user and a password make it SASL (`PLAIN`, unless `sasl.mechanism` is among the
            settings, which have librdkafka's names).
        prefix: What the topics' names begin with, where the URL does not say.

    Returns:
        The address.

    Raises:
        ConfigError: When it is not such a URL. The text is not repeated: it may have a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("kafka", "kafka+ssl"):
        raise ConfigError(
            "changes come from a replication slot, or from Kafka, and what was given is no address of Kafka",
            hint="kafka://broker:9092/PREFIX, with the prefix that the Kafka sink writes topics with",
        )
    login, _, hosts = parts.netloc.rpartition("@")
    brokers = [host if ":" in host else f"{host}:9092" for host in hosts.split(",") if host]
    if not brokers:
        raise ConfigError("the address of Kafka names no broker", hint="kafka://broker:9092/PREFIX")
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in settings.keys() & _OURS:
        raise ConfigError(f"{name!r} cannot be set in the address of Kafka: the pipeline sets it")
    tls = parts.scheme == "kafka+ssl"
    if login:
        user, _, password = login.partition(":")
        settings = {
            "sasl.mechanism": "PLAIN",
            "sasl.username": unquote(user),
            "sasl.password": unquote(password),
            **settings,
        }
    protocol = f"sasl_{'ssl' if tls else 'plaintext'}" if login else "ssl" if tls else None
    if protocol is not None:
        settings.setdefault("security.protocol", protocol)
    return KafkaAddress(",".join(brokers), unquote(parts.path.strip("/")) or prefix, settings)


def client_library() -> Any:
    """Import confluent-kafka.

    Returns:
        The module.

    Raises:
        ConfigError: When it is not installed.
    """
    try:
        import confluent_kafka
        import confluent_kafka.admin
    except ImportError:
        raise ConfigError("to read from Kafka takes confluent-kafka", hint="pip install 'pgcdc[kafka]'") from None
    return confluent_kafka
