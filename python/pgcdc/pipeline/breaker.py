"""The circuit breaker of one consumer: who has failed often in a row is left alone for a while, then tried once."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Literal, TypeAlias

from pgcdc.pipeline.retry import Retry

__all__ = ["Breaker", "BreakerState"]

logger = logging.getLogger("pgcdc.pipeline")

BreakerState: TypeAlias = Literal["closed", "open", "half-open"]


class Breaker:
    """Counts failures in a row over all that a consumer is given.

    Args:
        consumer: The consumer's name, for the log.
        policy: After how many failures it opens, and for how long.

    Attributes:
        state: `"closed"`: everything is let through; `"open"`: nothing is; `"half-open"`: one trial is under way.
        failures: How many in a row.
    """

    def __init__(self, consumer: str, policy: Retry) -> None:
        self.state: BreakerState = "closed"
        self.failures = 0
        self._consumer = consumer
        self._policy = policy
        self._until = 0.0

    @property
    def next_attempt_in(self) -> float | None:
        """Seconds until the trial; None when it is not open."""
        return max(0.0, self._until - time.monotonic()) if self.state == "open" else None

    async def ready(self) -> None:
        """Wait until a call may be made."""
        if self.state != "open":
            return
        await asyncio.sleep(max(0.0, self._until - time.monotonic()))
        self.state = "half-open"
        logger.info("consumer %r: its breaker is half-open: one attempt is made", self._consumer)

    def failed(self) -> None:
        """A call failed in a way that says nothing about what was written."""
        self.failures += 1
        if self.failures < self._policy.breaker_after:
            return
        if self.state != "open":
            self.state = "open"
            logger.warning(
                "consumer %r: its breaker is open after %d failures in a row: it is left alone for %g s",
                self._consumer,
                self.failures,
                self._policy.breaker_pause,
            )
        self._until = time.monotonic() + self._policy.breaker_pause

    def answered(self) -> None:
        """A call was answered, be it by a refusal."""
        self.failures = 0
        if self.state != "closed":
            self.state = "closed"
            logger.warning("consumer %r: its breaker is closed again", self._consumer)
