"""Buckets of the object stores that the tests have, for whatever keeps files there."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgcdc.sinks.objects import Objects, open_objects

if TYPE_CHECKING:
    import pytest

    from tests.servers.azure import AzureServer
    from tests.servers.gcs import GcsServer
    from tests.servers.s3 import S3Server

__all__ = ["STORES", "Bucket", "new_bucket"]


@dataclass(frozen=True)
class Bucket:
    """An empty bucket.

    Attributes:
        url: Where it is.
        port: The server's.
        config: What obstore needs to know of it, when it is to be reached at a port.
        reader: What Polars needs to know of it.
    """

    url: str
    port: int
    config: Callable[[int], dict[str, Any]]
    reader: dict[str, str]

    def options(self, port: int | None = None, **client_options: Any) -> dict[str, Any]:
        """Arguments for whatever takes them, `Parquet` and `open_objects`.

        Args:
            port: Where it is to be reached; None: where it is.
            client_options: More of them.
        """
        config = self.config(port or self.port)
        return {"config": config, "client_options": {"allow_http": True, **client_options}}

    def objects(self, folder: str, port: int | None = None) -> Objects:
        """The files in a folder of it.

        Args:
            folder: The folder.
            port: As for `options`.
        """
        return open_objects(f"{self.url}/{folder}", **self.options(port))


def _on_s3(request: pytest.FixtureRequest) -> Bucket:
    server: S3Server = request.getfixturevalue("s3")
    name = uuid.uuid4().hex
    server.make_bucket(name)
    reader = {f"aws_{key}": value for key, value in server.config().items()} | {"aws_allow_http": "true"}
    return Bucket(f"s3://{name}", server.port, lambda port: server.config(f"http://127.0.0.1:{port}"), reader)


def _on_azure(request: pytest.FixtureRequest) -> Bucket:
    server: AzureServer = request.getfixturevalue("azure")
    name = uuid.uuid4().hex
    server.make_container(name)
    reader = {f"azure_storage_{key}": value for key, value in server.config().items()} | {"azure_allow_http": "true"}
    return Bucket(f"az://{name}", server.port, server.config, reader)


def _on_gcs(request: pytest.FixtureRequest) -> Bucket:
    server: GcsServer = request.getfixturevalue("gcs")
    name = uuid.uuid4().hex
    server.make_bucket(name)
    reader = {"google_service_account_key": server.key(), "google_allow_http": "true"}
    return Bucket(f"gs://{name}", server.port, lambda port: {"service_account_key": server.key(port)}, reader)


STORES = {"s3": _on_s3, "azure": _on_azure, "gcs": _on_gcs}


def new_bucket(name: str, request: pytest.FixtureRequest) -> Bucket:
    """An empty bucket, on a server that is started for it when none runs.

    Args:
        name: Of the store, as in `STORES`.
        request: Of the fixture or the test that asks.
    """
    return STORES[name](request)
