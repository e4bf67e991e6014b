"""Classes of tests to inherit from: what every sink does, and what every position store does."""

from pgcdc.testing.part_contract import PartitionedSinkContract
from pgcdc.testing.position_contract import PositionStoreContract
from pgcdc.testing.sink_contract import SinkContract

__all__ = ["PartitionedSinkContract", "PositionStoreContract", "SinkContract"]
