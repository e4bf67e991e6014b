"""The pipeline: one slot, a bounded lane for each consumer, positions that are durable before anything is confirmed."""

from pgcdc.pipeline.pipeline import Pipeline
from pgcdc.pipeline.positions import MemoryPositions, Move, PositionStore, SnapshotState, StoredPosition
from pgcdc.pipeline.positions_postgres import PostgresPositions
from pgcdc.pipeline.positions_sqlite import SqlitePositions
from pgcdc.pipeline.statistics import ConsumerStatistics, PipelineStatistics, SourceStatistics

__all__ = [
    "ConsumerStatistics",
    "MemoryPositions",
    "Move",
    "Pipeline",
    "PipelineStatistics",
    "PositionStore",
    "PostgresPositions",
    "SnapshotState",
    "SourceStatistics",
    "SqlitePositions",
    "StoredPosition",
]
