"""What a member of a group asks of brokers before it begins: asked again while they are away, within a bound."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from typing import Any, Final, TypeVar

from pgcdc.errors import ConfigError, ConnectionLost

__all__ = ["Asking", "Leaving"]

logger = logging.getLogger("pgcdc.pipeline")

Answer = TypeVar("Answer")

ASK_WITHIN: float = 2.0
"""Seconds that the first question may take: the member does not notice meanwhile that it is to end."""
ASK_LONGER: float = 5.0
"""Seconds that another may take, at most, when brokers are slow."""
KNOWN_WITHIN: float = 10.0
"""Seconds that brokers have to know of a topic that a member is given partitions of: one that was just started, or just
told of a topic, may not know of it for a moment. As long a topic watch waits before it says that one was deleted."""
ASK_AGAIN = 0.1
"""Seconds between two questions that are not answered yet."""
_AWAY: Final = (
    "BROKER_NOT_AVAILABLE",
    "COORDINATOR_LOAD_IN_PROGRESS",
    "COORDINATOR_NOT_AVAILABLE",
    "FENCED_LEADER_EPOCH",
    "KAFKA_STORAGE_ERROR",
    "LEADER_NOT_AVAILABLE",
    "LISTENER_NOT_FOUND",
    "NETWORK_EXCEPTION",
    "NOT_COORDINATOR",
    "NOT_LEADER_FOR_PARTITION",
    "OFFSET_NOT_AVAILABLE",
    "REPLICA_NOT_AVAILABLE",
    "REQUEST_TIMED_OUT",
    "UNKNOWN_LEADER_EPOCH",
    "UNSTABLE_OFFSET_COMMIT",
    "_ALL_BROKERS_DOWN",
    "_DESTROY",  # of the client's own part for a broker, when what it knows of the brokers has changed
    "_DESTROY_BROKER",
    "_NODE_UPDATE",
    "_RESOLVE",
    "_SSL",
    "_TIMED_OUT",
    "_TIMED_OUT_QUEUE",
    "_TRANSPORT",
    "_WAIT_CACHE",
    "_WAIT_COORD",
)
"""Errors that say nothing but that it is to be asked again."""
_UNKNOWN: Final = ("UNKNOWN_TOPIC_ID", "UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC")
"""Errors that say so for a moment, and are right when they stay."""


class Leaving(Exception):
    """The member is about to leave: what it asked is of no interest any more."""


class Asking:
    """Asks, for one member.

    Args:
        kafka: The client library.
        name: The consumer's name.
        patience: How long it asks, in seconds.
        meanwhile: Called between two questions.

    Attributes:
        stops: Whether nothing is asked any more; the member is about to leave.
    """

    def __init__(self, kafka: Any, name: str, patience: float, meanwhile: Callable[[], None]) -> None:
        self.stops = False
        self._kafka = kafka
        self._name = name
        self._patience = patience
        self._meanwhile = meanwhile
        codes = kafka.KafkaError
        # Not every version has all.
        self._away = frozenset(getattr(codes, code, None) for code in _AWAY)
        self._unknown = frozenset(getattr(codes, code, None) for code in _UNKNOWN)
        self._refused = {codes.GROUP_AUTHORIZATION_FAILED, codes.TOPIC_AUTHORIZATION_FAILED}

    def is_away(self, error: Any) -> bool:
        """Whether an error says that a broker is away for now.

        Args:
            error: The client's.
        """
        return error.code() in self._away

    def ask(self, question: Callable[[float], Answer], who: str, what: str, since: float) -> Answer:
        """Ask until there is an answer.

        Args:
            question: Asks once, for so many seconds.
            who: Whoever is asked, in the words of an error.
            what: What it is to say.
            since: When the member began to ask, by the monotonic clock.

        Returns:
            The answer.

        Raises:
            Leaving: When the member is about to leave.
            ConnectionLost: When there is none in time, or it is another error; or brokers know of no such topic.
            ConfigError: When the consumer may not know.
        """
        has_warned, within = False, ASK_WITHIN
        unknown_since: float | None = None
        while not self.stops:
            try:
                return question(within)
            except TimeoutError:
                unknown_since, reason = None, "no answer in time"
            except self._kafka.KafkaException as error:
                said = error.args[0]
                if said.code() in self._refused:
                    raise ConfigError(f"Kafka refuses consumer {self._name!r}: {said.name()}: {said.str()}") from None
                if said.code() in self._unknown:
                    unknown_since = unknown_since or time.monotonic()
                    stays = time.monotonic() - unknown_since >= KNOWN_WITHIN
                else:
                    unknown_since, stays = None, not self.is_away(said)
                if stays:
                    raise ConnectionLost(
                        f"consumer {self._name!r} has lost Kafka: {who} does not say {what}: {said.str()}"
                    ) from None
                reason = said.str()
            waited = time.monotonic() - since
            if waited >= self._patience:
                raise ConnectionLost(
                    f"consumer {self._name!r} has lost Kafka: {who} has not said for {waited:.0f} s {what}: {reason}",
                    hint="start it again when the brokers are well; it waits for half of max.poll.interval.ms, which"
                    " the address may set: kafka://broker/PREFIX?max.poll.interval.ms=600000",
                )
            if not has_warned:
                has_warned = True
                logger.warning("consumer %r waits: %s does not say yet %s: %s", self._name, who, what, reason)
            within = min(2 * within, ASK_LONGER)
            self._meanwhile()
            time.sleep(ASK_AGAIN)
        raise Leaving

    def settle(self, asked: Collection[Future[Any]], within: float) -> None:
        """Wait until all of what was asked is answered, or failed.

        Args:
            asked: What was asked.
            within: How long, in seconds.

        Raises:
            Leaving: When the member is about to leave.
            TimeoutError: When it is not in time.
        """
        deadline = time.monotonic() + within
        while wait(asked, ASK_AGAIN).not_done:
            if self.stops:
                raise Leaving
            if time.monotonic() > deadline:
                raise TimeoutError
