"""A pipeline inside a FastAPI application: what is committed to `orders` is counted, and asked for over HTTP.

    SHOP_DSN=dbname=shop uvicorn examples.embed_fastapi:app

It runs while the application is up and is drained when it goes down. `/pipeline/readyz` says whether it keeps up, and
if not, why; `/pipeline/healthz` is for what restarts processes. Several workers need `standby=True`: one of them runs
it, the others wait for that one to end, and each counts for itself what it has seen.
"""

import os
from collections import Counter

from fastapi import FastAPI

import pgcdc
from pgcdc.asgi import Lifespan

pipeline = pgcdc.Pipeline("shop", os.environ.get("SHOP_DSN", "dbname=shop"), tables=["orders"])
seen: Counter[str] = Counter()


@pipeline.on("orders")
async def count(change: pgcdc.Change) -> None:
    """On the application's event loop, so that what it fills needs no lock."""
    seen[change.action] += 1


running = Lifespan(pipeline)
app = FastAPI(lifespan=running)
app.mount("/pipeline", running.health)


@app.get("/counts")
async def counts() -> dict[str, int]:
    """How often each action was seen since the process began."""
    return dict(seen)
