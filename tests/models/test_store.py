"""The store against the model, on both databases; and proof that the machine sees: each broken store is found out.

`HYPOTHESIS_PROFILE=long` plays for long and never the same; without it every run plays the same games.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import durably.store
from durably.store import events, leases, runs, steps
from durably.store.operation import Operation, Write, combine
from tests.models.bench import Bench, Mutant
from tests.models.machine import StoreMachine
from tests.models.mutants import POSTGRES, QUICK, SQLITE
from tests.models.whole import WholeMachine
from tests.support.store import StoreKind

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
CHECKS = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
PLAY = settings(
    max_examples=5000 if IS_LONG else 100,
    stateful_step_count=60 if IS_LONG else 30,
    derandomize=not IS_LONG,
    database=None,
    deadline=None,
    suppress_health_check=CHECKS,
    print_blob=True,
    report_multiple_bugs=False,
)
HUNT = settings(PLAY, max_examples=1000, derandomize=True, phases=(Phase.generate,), print_blob=False)
"""The first failure is enough, however long it is."""


MachineT = TypeVar("MachineT", bound=StoreMachine)


def machine(bench: Bench, kind: type[MachineT]) -> type[MachineT]:
    made: Any = type("Machine", (kind,), {"bench": bench, "exercised": set[object]()})
    played: type[MachineT] = made
    return played


@pytest.mark.timeout(0 if IS_LONG else 900)
@pytest.mark.parametrize("store_kind", ["sqlite-memory", "postgres"])
def test_the_store_does_what_the_model_does(store_kind: StoreKind, store_url: str) -> None:
    with Bench(store_url) as bench:
        played = machine(bench, WholeMachine)
        played().examine()
        run_state_machine_as_test(played, settings=PLAY)
    assert operations() - played.exercised == set()


def operations() -> set[object]:
    """Every public operation of the store: functions that make one, and plural writes."""
    found: set[object] = set()
    for info in pkgutil.iter_modules(durably.store.__path__, "durably.store."):
        module = importlib.import_module(info.name)
        members: dict[str, object] = {name: member for name, member in vars(module).items() if name[0] != "_"}
        found |= {member for member in members.values() if isinstance(member, Write)}
        functions = [member for member in members.values() if inspect.isfunction(member)]
        found |= {one for one in functions if one.__module__ == module.__name__ and makes_operation(one)}
    return found


def makes_operation(function: Callable[..., Any]) -> bool:
    """Whether it is annotated to return an operation; `combine` makes one of others."""
    return str(function.__annotations__.get("return")).startswith(Operation.__name__) and function is not combine


def test_a_new_operation_is_noticed() -> None:
    assert {leases.claim, runs.enqueue, events.feed} <= operations()
    assert not {combine, steps.store_write} & operations()


def hunted(mutants: Sequence[Mutant]) -> list[Mutant]:
    return [mutant for mutant in mutants if IS_LONG or mutant.name in QUICK]


@pytest.mark.parametrize("mutant", hunted(SQLITE), ids=lambda mutant: mutant.name)
def test_the_machine_finds_on_sqlite_that(mutant: Mutant) -> None:
    hunt("sqlite:///:memory:", mutant)


@pytest.mark.parametrize("mutant", hunted(POSTGRES), ids=lambda mutant: mutant.name)
def test_the_machine_finds_on_postgres_that(mutant: Mutant, shared_postgres_url: str) -> None:
    hunt(shared_postgres_url, mutant)


def hunt(url: str, mutant: Mutant) -> None:
    """Play until the broken store differs from the model, or says itself that it is broken."""
    kind: type[StoreMachine] = StoreMachine if mutant.name in QUICK else WholeMachine  # fewer rules, more of each
    with Bench(url, mutant) as bench:
        with pytest.raises((AssertionError, IndexError, KeyError, sqlite3.Error, asyncpg.PostgresError)):
            run_state_machine_as_test(machine(bench, kind), settings=HUNT)
