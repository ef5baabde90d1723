"""`Durably.from_env()`: settings of the environment, and what is wrong with them."""

from __future__ import annotations

import inspect
import logging
from datetime import timedelta
from typing import Any

import pytest

from durably import Durably, ValidationError
from durably.rules.configuration import SETTINGS, read_duration
from durably.runtime.settings import Settings

URL = {"DURABLY_URL": "sqlite:///:memory:"}


def settings_of(durably: Durably) -> Settings:
    found: Any = vars(durably)["_settings"]
    assert isinstance(found, Settings)
    return found


def test_the_url_is_enough() -> None:
    durably = Durably.from_env(URL)
    assert repr(durably) == "Durably('sqlite:///:memory:')"
    assert settings_of(durably) == settings_of(Durably("sqlite:///:memory:"))


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DURABLY_URL", "sqlite:///env.db")
    assert repr(Durably.from_env()) == "Durably('sqlite:///env.db')"


def test_every_setting_can_be_given() -> None:
    given = URL | {
        "DURABLY_LEASE": "12s",
        "DURABLY_RENEWAL": "500ms",
        "DURABLY_POLL_INTERVAL": "0.5",
        "DURABLY_MAX_CONCURRENT_RUNS": "7",
        "DURABLY_MAX_CRASHES": "5",
        "DURABLY_RETAIN_RUNS": "30d",
        "DURABLY_RETAIN_EVENTS": "never",
        "DURABLY_PRESERVE_STEPS": "no",
        "DURABLY_MAX_VALUE_BYTES": "1000",
        "DURABLY_MIGRATE": "check",
        "DURABLY_SCHEMA": "jobs",
        "DURABLY_LISTEN_URL": "",
    }
    assert settings_of(Durably.from_env(given)) == Settings(
        lease=timedelta(seconds=12),
        renewal=timedelta(milliseconds=500),
        poll_interval=timedelta(milliseconds=500),
        max_concurrent_runs=7,
        max_crashes=5,
        retain_runs=timedelta(days=30),
        retain_events=None,
        preserve_steps=False,
        max_value_bytes=1000,
    )


def test_there_is_a_variable_for_every_setting_but_those_that_are_objects() -> None:
    parameters = set(inspect.signature(Durably.__init__).parameters) - {"self"}
    assert parameters - set(SETTINGS) == {"connect", "environment"}
    assert set(SETTINGS) <= parameters


def test_what_the_call_says_wins() -> None:
    durably = Durably.from_env(URL | {"DURABLY_LEASE": "12s", "DURABLY_MAX_CRASHES": "no"}, max_crashes=9)  # fmt: skip
    assert settings_of(durably).max_crashes == 9


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"DURABLY_URL": ""}, "^DURABLY_URL: is not set"),
        ({"DURABLY_URL": "jobs.db"}, "^DURABLY_URL: 'jobs.db' is no URL"),
        ({"DURABLY_LEASE": "soon"}, "^DURABLY_LEASE: 'soon' is no duration: write 30s"),
        ({"DURABLY_LEASE": "-1"}, "^DURABLY_LEASE: '-1' is no duration"),
        ({"DURABLY_LEASE": "never"}, "^DURABLY_LEASE: 'never' is no duration"),
        ({"DURABLY_LEASE": "9" * 400}, "^DURABLY_LEASE: .* is no duration"),
        ({"DURABLY_LEASE": "0"}, "^DURABLY_LEASE: .*too short"),
        ({"DURABLY_MAX_CRASHES": "1.5"}, "^DURABLY_MAX_CRASHES: '1.5' must be a whole number"),
        ({"DURABLY_MAX_CRASHES": "0"}, "^DURABLY_MAX_CRASHES: .* at least 1"),
        ({"DURABLY_PRESERVE_STEPS": "maybe"}, "^DURABLY_PRESERVE_STEPS: 'maybe' must be true or false"),
        ({"DURABLY_MIGRATE": "never"}, '^DURABLY_MIGRATE: .*"auto" or "check"'),
        ({"DURABLY_LISTEN_URL": "postgresql://host/x"}, "^DURABLY_LISTEN_URL: is for PostgreSQL alone"),
    ],
)
def test_a_wrong_variable_is_named_with_the_remedy(variables: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Durably.from_env(URL | variables)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("1.5", 1.5), ("250ms", 0.25), ("5 m", 300), ("2h", 7200), ("7D", 604800), ("4w", 2419200), ("0s", 0)],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert read_duration(text, field="x") == timedelta(seconds=seconds)


def test_a_variable_that_looks_misspelt_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Durably.from_env(URL | {"DURABLY_LEASES": "5s", "DURABLY_TEST_POSTGRES": "x", "DURABLY_MAX_CRASH": "5"})
    assert [record.getMessage() for record in caplog.records] == [
        "DURABLY_LEASES is no setting of durably: did you mean DURABLY_LEASE?",
        "DURABLY_MAX_CRASH is no setting of durably: did you mean DURABLY_MAX_CRASHES?",
    ]
