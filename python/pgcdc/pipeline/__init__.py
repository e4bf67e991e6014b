"""The pipeline: one slot, a bounded lane for each consumer, positions that are durable before anything is confirmed."""

from pgcdc.pipeline.deadletter import DeadLetter, DeadLetterStore, Marks, MemoryDeadLetters, Which
from pgcdc.pipeline.deadletter_postgres import PostgresDeadLetters
from pgcdc.pipeline.deadletter_sqlite import SqliteDeadLetters
from pgcdc.pipeline.deadletters import DeadLetters
from pgcdc.pipeline.outline import ConsumerOutline, PipelineOutline
from pgcdc.pipeline.pipeline import Pipeline
from pgcdc.pipeline.positions import MemoryPositions, Move, PositionStore, SnapshotState, StoredPosition
from pgcdc.pipeline.positions_postgres import PostgresPositions
from pgcdc.pipeline.positions_sqlite import SqlitePositions
from pgcdc.pipeline.provision import ProvisionPlan, ProvisionStep
from pgcdc.pipeline.retry import Retry
from pgcdc.pipeline.schemas import MemorySchemas, SchemaStore
from pgcdc.pipeline.schemas_postgres import PostgresSchemas
from pgcdc.pipeline.schemas_sqlite import SqliteSchemas
from pgcdc.pipeline.spooling import SpoolOptions
from pgcdc.pipeline.statistics import ConsumerStatistics, PipelineStatistics, SourceStatistics

__all__ = [
    "ConsumerOutline",
    "ConsumerStatistics",
    "DeadLetter",
    "DeadLetterStore",
    "DeadLetters",
    "Marks",
    "MemoryDeadLetters",
    "MemoryPositions",
    "MemorySchemas",
    "Move",
    "Pipeline",
    "PipelineOutline",
    "PipelineStatistics",
    "PositionStore",
    "PostgresDeadLetters",
    "PostgresPositions",
    "PostgresSchemas",
    "ProvisionPlan",
    "ProvisionStep",
    "Retry",
    "SchemaStore",
    "SnapshotState",
    "SourceStatistics",
    "SpoolOptions",
    "SqliteDeadLetters",
    "SqlitePositions",
    "SqliteSchemas",
    "StoredPosition",
    "Which",
]
