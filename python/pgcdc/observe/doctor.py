"""`examine`: everything that has to be right before a pipeline is relied on, looked at live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pgcdc.connection_string import Dsn, dsn_of
from pgcdc.observe.access_checks import ACCESS_CHECKS
from pgcdc.observe.facts import Asked, gather
from pgcdc.observe.finding import Finding
from pgcdc.observe.pipeline_checks import PIPELINE_CHECKS
from pgcdc.observe.server_checks import SERVER_CHECKS
from pgcdc.observe.slot_checks import SLOT_CHECKS, slot_lag
from pgcdc.observe.slot_checks import slot as slot_is_usable
from pgcdc.pipeline.outline import ConsumerOutline, PipelineOutline

__all__ = ["examine"]


def examine(
    dsn: Dsn = "",
    pipeline: PipelineOutline | None = None,
    *,
    slot: str | None = None,
    publication: str | None = None,
    tables: Sequence[str] = (),
    lag_seconds: float = 600.0,
    stored: Mapping[str, int] | None = None,
) -> list[Finding]:
    """Check a server for change data capture, and a pipeline with it; nothing is changed.

    No privilege is needed: what the role may not see is said to be unknown.

    Args:
        dsn: The database that is followed, as libpq understands it.
        pipeline: What `Pipeline.outline` gave: its slot, publication and tables are looked at, and what it says of
            positions, failures and schema changes.
        slot: A slot to look at, where no pipeline is given.
        publication: A publication, likewise.
        tables: Tables as `schema.name`, likewise.
        lag_seconds: How far the slot may be behind, in seconds.
        stored: How many consumers have a stored position that they go on from, by the pipeline's name, and by
            `pipeline/consumer` for those that have slots of their own. None: those in this database are counted, and
            of a slot that is gone it is not known whether positions elsewhere are of it.

    Returns:
        What was found, check by check.

    Raises:
        ConnectionLost: When the server cannot be reached.
    """
    own: list[ConsumerOutline] = []
    if pipeline is not None:
        slot, publication, tables = pipeline.slot, pipeline.publication, pipeline.tables
        own = pipeline.own_slots
        if own and pipeline.slot not in pipeline.slots:
            slot, publication, own = own[0].slot, own[0].publication, own[1:]
    name = None if pipeline is None else pipeline.name
    asked = Asked(
        slot=slot,
        publication=publication,
        tables=tables,
        pipeline=name,
        positions=None if pipeline is None else pipeline.positions,
        stored=None if stored is None else sum(stored.values()),
        snapshot=None if pipeline is None else pipeline.snapshot,
        from_kafka=pipeline is not None and pipeline.from_kafka,
        slots=pipeline.slots if pipeline is not None else [] if slot is None else [slot],
        lag_seconds=lag_seconds,
    )
    facts = gather(dsn_of(dsn), asked)
    findings = [check(facts) for check in (*SERVER_CHECKS, *ACCESS_CHECKS, *SLOT_CHECKS)]
    for one in own:
        whose = f"{name}/{one.name}"
        asked = Asked(
            slot=one.slot,
            publication=one.publication,
            tables=one.tables or tables,
            pipeline=whose,
            positions=None if pipeline is None else pipeline.positions,
            stored=None if stored is None else stored.get(whose, 0),
            snapshot=None if pipeline is None else pipeline.snapshot,
            from_kafka=pipeline is not None and pipeline.from_kafka,
            lag_seconds=lag_seconds,
        )
        theirs = gather(dsn_of(dsn), asked)
        findings += [
            msgspec.structs.replace(finding, title=f"{finding.title} ({one.slot})")
            for finding in (check(theirs) for check in (*ACCESS_CHECKS, slot_is_usable, slot_lag))
        ]
    if pipeline is not None:
        findings += [check(pipeline, facts) for check in PIPELINE_CHECKS]
    return findings
