"""Secrets are replaced by `***` in everything that `pgcdc run` writes, whoever worded it.

pgcdc's own messages have none. This is for the words of others: a driver's error that quotes a URL, a handler's log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote

from pgcdc.config import holds_secret
from pgcdc.errors import ConfigError

__all__ = ["Redactor"]

_MASK: Final = "***"
_SHORTEST: Final = 4
"""Shorter ones are not looked for: a text without any "a" would tell as much, and nobody could read it."""
_SHORTEST_GUESSED: Final = 6
"""Of the environment not everything that has such a name is a secret."""

# Up to the first "@" and up to the last: a password that was not escaped may have one.
_IN_URL: Final = re.compile(r"://[^/?#\s:@]*:(?=([^@\s]*)@)(?=(\S*)@)")
_PAIR: Final = re.compile(r"([A-Za-z_]+)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&']+)", re.DOTALL)
_CONNECTION: Final = re.compile(r"://|\b(?:host|hostaddr|port|user|dbname|service|\w*passw\w*)\s*=")
_SECRET_PARAMETERS: Final = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")


class Redactor:
    """Knows the secrets of a process.

    Args:
        environment: Passwords in it, and in its URLs, are secrets from the beginning on.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        for name, value in environment.items():
            if holds_secret(name) and (name == "PGPASSWORD" or len(value) >= _SHORTEST_GUESSED):
                self.learn(value)
            for secret in _in_text(value):
                self.learn(secret)

    def learn(self, *secrets: str) -> None:
        """Replace these from now on, however they are escaped.

        Args:
            *secrets: Passwords and the like.
        """
        for secret in secrets:
            self._forms.update(form for form in _forms(secret) if len(form) >= _SHORTEST)
        # The longest first: of two that begin alike, all of the longer one is replaced.
        alternatives = "|".join(map(re.escape, sorted(self._forms, key=lambda form: (-len(form), form))))
        self._pattern = re.compile(alternatives) if alternatives else None

    def learn_dsn(self, dsn: str) -> None:
        """Replace the secrets of a connection string from now on; all of it, when libpq does not understand it.

        Args:
            dsn: The connection string.
        """
        from pgcdc.replication.dsn import parameters_of

        self.learn(*_in_text(dsn))
        try:
            parameters = parameters_of(dsn, replication=False)
        except ConfigError:
            self.learn(dsn)
            return
        self.learn(*(str(parameters[name]) for name in _SECRET_PARAMETERS if parameters.get(name)))

    def learn_arguments(self, arguments: Sequence[str]) -> None:
        """Replace the secrets of a command line from now on, wherever in it they stand.

        Args:
            arguments: What stands after `pgcdc`: also a connection string that is given where none belongs.
        """
        for argument in arguments:
            value = argument.partition("=")[2] if argument.startswith("-") else argument
            if _CONNECTION.search(value) or any(_in_text(value)):
                self.learn_dsn(value)

    def learn_options(self, value: Any) -> None:
        """Replace the passwords of all URLs and connection strings in options from now on.

        Args:
            value: What a configuration file has: a string, or arrays and tables of them.
        """
        if isinstance(value, str):
            self.learn(*_in_text(value))
        elif isinstance(value, dict):
            for item in value.values():
                self.learn_options(item)
        elif isinstance(value, list | tuple):
            for item in value:
                self.learn_options(item)

    def __call__(self, text: str) -> str:
        """The same text without secrets."""
        return text if self._pattern is None else self._pattern.sub(_MASK, text)

    def everywhere(self, value: Any) -> Any:
        """The same value with each of its strings without secrets.

        Args:
            value: As `msgspec.to_builtins` makes it.
        """
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {key: self.everywhere(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.everywhere(item) for item in value]
        return value


def _in_text(text: str) -> Iterator[str]:
    """What follows a user's name in a URL, and what is given to a parameter that has a secret's name."""
    for found in _IN_URL.finditer(text):
        yield from (part for part in found.groups() if part)
    for name, value in _PAIR.findall(text):
        if holds_secret(name):
            yield re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL) if value.startswith("'") else value


def _forms(secret: str) -> Iterator[str]:
    """A secret as it may stand in a text."""
    for form in {secret, unquote(secret)}:
        yield from (form, quote(form, safe=""), quote(form), quote_plus(form), repr(form)[1:-1], ascii(form)[1:-1])
        yield from (json.dumps(form)[1:-1], json.dumps(form, ensure_ascii=False)[1:-1])
        yield form.replace("\\", "\\\\").replace("'", "\\'")
