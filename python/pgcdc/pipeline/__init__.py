"""The pipeline: one slot, a bounded lane for each consumer, positions that are durable before anything is confirmed."""

from pgcdc.pipeline.pipeline import Pipeline
from pgcdc.pipeline.positions import MemoryPositions, Move, PositionStore, SnapshotState, StoredPosition
from pgcdc.pipeline.positions_postgres import PostgresPositions
from pgcdc.pipeline.positions_sqlite import SqlitePositions
from pgcdc.pipeline.schemas import MemorySchemas, SchemaStore
from pgcdc.pipeline.schemas_postgres import PostgresSchemas
from pgcdc.pipeline.schemas_sqlite import SqliteSchemas
from pgcdc.pipeline.statistics import ConsumerStatistics, PipelineStatistics, SourceStatistics

__all__ = [
    "ConsumerStatistics",
    "MemoryPositions",
    "MemorySchemas",
    "Move",
    "Pipeline",
    "PipelineStatistics",
    "PositionStore",
    "PostgresPositions",
    "PostgresSchemas",
    "SchemaStore",
    "SnapshotState",
    "SourceStatistics",
    "SqlitePositions",
    "SqliteSchemas",
    "StoredPosition",
]
