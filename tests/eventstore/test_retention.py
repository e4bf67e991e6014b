"""Rules of retention, as they are declared."""

from __future__ import annotations

from datetime import timedelta

import pytest

import pgcdc
from pgcdc.eventstore import EventStore
from pgcdc.eventstore.retention import period


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("90 days", timedelta(days=90)),
        ("1 day", timedelta(days=1)),
        ("36 hours", timedelta(hours=36)),
        ("2 weeks", timedelta(days=14)),
        ("6 months", timedelta(days=180)),
        (" 2 years", timedelta(days=730)),
        (timedelta(seconds=5), timedelta(seconds=5)),
    ],
)
def test_periods(said: str | timedelta, meant: timedelta) -> None:
    assert period(said) == meant


@pytest.mark.parametrize(
    "said", ["", "days", "90", "-1 days", "1.5 days", "3 fortnights", "99999999999 years", timedelta(-1)]
)
def test_what_is_no_period(said: str | timedelta) -> None:
    with pytest.raises(pgcdc.ConfigError):
        period(said)


def test_rules_are_said_in_words() -> None:
    store = EventStore("dbname=nowhere")
    store.retention("order", hot="90 days", warm="2 years")
    store.retention("*", hot="1 year")
    store.retention("visit", hot="36 hours", warm=timedelta(days=2))
    store.retention("order", hot="1 day", warm="1 day")  # the last word counts
    assert [str(rule) for rule in store.rules] == [
        "order: hot for 1 day, then warm, cold after 1 day",
        "other types: hot for 1 year, then warm",
        "visit: hot for 36 hours, then warm, cold after 2 days",
    ]
    with pytest.raises(pgcdc.ConfigError, match="cold before they are warm"):
        store.retention("order", hot="2 years", warm="90 days")
