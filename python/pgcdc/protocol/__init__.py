"""The decoder: bytes to events. The only room that imports the Rust half; it needs no connection and no driver."""

from pgcdc._pgoutput import (
    ArrowTable,
    Batch,
    BatchReader,
    CopyReader,
    Decoder,
    RowFormat,
    TypeCatalog,
    encode_status_update,
)
from pgcdc.protocol.catalog import Catalog
from pgcdc.protocol.values import PgArray, PgText

__all__ = [
    "ArrowTable",
    "Batch",
    "BatchReader",
    "Catalog",
    "CopyReader",
    "Decoder",
    "PgArray",
    "PgText",
    "RowFormat",
    "TypeCatalog",
    "encode_status_update",
]
