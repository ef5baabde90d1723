"""Ids: UUIDv7 that sort in the order in which a process makes them, one by one or many at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import chain, cycle, islice
from uuid import UUID

import pytest

from durably.environment import Environment, SystemEnvironment
from durably.testing import ManualClock

COUNTS = (1, 1000, 0, 3, 1, 1000)


@pytest.fixture(params=["system", "manual"])
def environment(request: pytest.FixtureRequest) -> Environment:
    return SystemEnvironment() if request.param == "system" else ManualClock()


def mixed(environment: Environment) -> list[str]:
    """Ids made one by one and many at a time, in turn."""
    return list(chain.from_iterable([environment.new_id(), *environment.new_ids(count)] for count in COUNTS))


def test_ids_sort_in_the_order_in_which_they_were_made(environment: Environment) -> None:
    made = mixed(environment)
    assert len(made) == sum(COUNTS) + len(COUNTS)
    assert made == sorted(set(made))


def test_each_id_is_a_uuid_of_version_7_as_it_is_written(environment: Environment) -> None:
    for made in mixed(environment):
        read = UUID(made)
        assert (str(read), read.version, read.variant) == (made, 7, "specified in RFC 4122")


def test_many_ids_have_the_millisecond_in_which_they_were_made() -> None:
    before = time.time_ns() // 1_000_000
    made = SystemEnvironment().new_ids(1000)
    after = time.time_ns() // 1_000_000
    assert {before <= UUID(one).int >> 80 <= after for one in made} == {True}


@pytest.mark.parametrize("count", [1, 2, 1000, 70_000])
@pytest.mark.parametrize("pattern", [b"\xff", b"\x00", b"\xff" * 8 + b"\x00\x00"])
def test_ids_sort_whatever_chance_says(monkeypatch: pytest.MonkeyPatch, count: int, pattern: bytes) -> None:
    """The last digits may be about to run over."""
    chance: Callable[[int], bytes] = lambda size: bytes(islice(cycle(pattern), size))  # noqa: E731 - it is handed over
    monkeypatch.setattr(os, "urandom", chance)
    environment = SystemEnvironment()
    made = [*environment.new_ids(count), environment.new_id(), *environment.new_ids(2)]
    assert made == sorted(set(made))
    assert len(made) == count + 3


def test_two_processes_do_not_make_the_same_ids() -> None:
    one, other = SystemEnvironment(), SystemEnvironment()
    assert set(one.new_ids(1000)).isdisjoint(other.new_ids(1000))
