"""A schema registry with the API of Confluent's: schemas are registered, and refused when readers could not follow."""

from __future__ import annotations

from typing import Any, Final, Literal

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from pgcdc.errors import RegistryError, SinkUnavailable

__all__ = ["Registry", "framed"]

_NOT_FOUND: Final = 404
_BUSY: Final = 429
_BROKEN: Final = 500


class Registry:
    """One registry.

    Args:
        settings: Of `SchemaRegistryClient`: `{"url": …}` at least.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._opened: SchemaRegistryClient | None = None

    @property
    def _client(self) -> SchemaRegistryClient:
        if self._opened is None:
            self._opened = SchemaRegistryClient(self._settings)
        return self._opened

    def close(self) -> None:
        """Let go of the connections; the next call makes new ones."""
        client, self._opened = self._opened, None
        if client is not None:
            with client:  # not all versions have close()
                pass

    def register(self, subject: str, schema: str, kind: Literal["AVRO", "PROTOBUF"]) -> int:
        """Register a schema; the same one again is found again.

        Args:
            subject: What it is of: `"{topic}-value"`.
            schema: Its text.
            kind: Its language.

        Returns:
            Its id.

        Raises:
            RegistryError: When the registry refuses it, for its level of compatibility or because it is none.
            SinkUnavailable: When the registry cannot be reached.
        """
        try:
            return self._client.register_schema(subject, Schema(schema, kind))
        except Exception as error:
            raise _mapped(error, subject) from error

    def latest(self, subject: str) -> str | None:
        """The text of the schema that was registered last.

        Args:
            subject: What it is of.

        Returns:
            The text, None when there is none.

        Raises:
            RegistryError: When the registry refuses to say.
            SinkUnavailable: When the registry cannot be reached.
        """
        try:
            return self._client.get_latest_version(subject).schema.schema_str
        except SchemaRegistryError as error:
            if error.http_status_code == _NOT_FOUND:
                return None
            raise _mapped(error, subject) from error
        except Exception as error:
            raise _mapped(error, subject) from error


def framed(schema_id: int, indexes: bytes = b"") -> bytes:
    """What stands before a value: a zero, the schema's id, and for Protobuf which message of it.

    Args:
        schema_id: The id.
        indexes: The message's place in the schema.

    Source:
        Confluent's documentation, "Wire format".
    """
    return b"\x00" + schema_id.to_bytes(4, "big") + indexes


def _mapped(error: Exception, subject: str) -> RegistryError | SinkUnavailable:
    if isinstance(error, SchemaRegistryError):
        status = error.http_status_code
        if 0 < status < _BROKEN and status != _BUSY:
            return RegistryError(
                f"the schema registry refuses the schema of {subject} ({status}): {error.error_message}",
                hint="readers of the former version could not read this one: set another level of compatibility for the"
                " subject, or give the table another topic",
            )
        return SinkUnavailable(f"the schema registry does not work ({status})")
    # Of the client's HTTP library, which is not always the same.
    return SinkUnavailable(f"the schema registry cannot be reached: {type(error).__name__}")
