"""All that the servers of the tests are made of, downloaded or built before it is wanted: `python -m tests.servers`.

Two processes of tests that want the same at once would download it twice, and count the time as that of a test.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

from tests.servers import azure, chromium, gcs, kafka, nats, programs, prometheus, redis, registry, search
from tests.servers.programs import VERSIONS, ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> int:
    """Get everything; the exit code is 1 when something cannot be had."""
    missing = 0
    parts: list[Callable[[Callable[[str], None]], object]] = [
        *(lambda say, version=version: programs.find(version, say=say) for version in VERSIONS),
        lambda _: redis.program(install=True),
        lambda _: prometheus.programs(install=True),
        lambda _: chromium.program(install=True),
        nats.program,
        gcs.program,
        azure.program,
        kafka.programs,
        registry.programs,
        search.opensearch,
        search.elasticsearch,
    ]
    say = functools.partial(print, file=sys.stderr, flush=True)
    for part in parts:
        try:
            part(say)
        except ServerUnavailable as error:
            say(f"error: {error}")
            missing += 1
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
