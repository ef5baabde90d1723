"""The store against the model, on both databases; and proof that the machine sees: each broken store is found out.

`HYPOTHESIS_PROFILE=long` plays for long and never the same; without it every run plays the same games.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import durably.store
from durably.errors import DatabaseRefused
from durably.store import events, leases, runs, steps
from durably.store.operation import Operation, Write, combine
from tests.models.bench import Bench, Mutant
from tests.models.machine import StoreMachine
from tests.models.mutants import POSTGRES, QUICK_ON_POSTGRES, QUICK_ON_SQLITE, SQLITE
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
HUNT_SECONDS = 900 if IS_LONG else 120
FOUND = (AssertionError, IndexError, KeyError, DatabaseRefused)


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


def hunted(mutants: Sequence[Mutant], quick: frozenset[str]) -> list[Mutant]:
    assert quick <= {mutant.name for mutant in mutants}
    return [mutant for mutant in mutants if IS_LONG or mutant.name in quick]


@pytest.mark.timeout(HUNT_SECONDS)
@pytest.mark.parametrize("mutant", hunted(SQLITE, QUICK_ON_SQLITE), ids=lambda mutant: mutant.name)
def test_the_machine_finds_on_sqlite_that(mutant: Mutant) -> None:
    hunt("sqlite:///:memory:", mutant, is_quick=mutant.name in QUICK_ON_SQLITE)


@pytest.mark.timeout(HUNT_SECONDS)
@pytest.mark.parametrize("mutant", hunted(POSTGRES, QUICK_ON_POSTGRES), ids=lambda mutant: mutant.name)
def test_the_machine_finds_on_postgres_that(mutant: Mutant, shared_postgres_url: str) -> None:
    hunt(shared_postgres_url, mutant, is_quick=mutant.name in QUICK_ON_POSTGRES)


def hunt(url: str, mutant: Mutant, *, is_quick: bool) -> None:
    """Play until the broken store differs from the model, or breaks a rule of its own tables.

    Any other error would be that of a text which is no SQL any more: such a mutant is found by everybody.
    """
    kind: type[StoreMachine] = StoreMachine if is_quick else WholeMachine  # fewer rules, more of each
    with Bench(url, mutant) as bench, pytest.raises(FOUND) as caught:
        run_state_machine_as_test(machine(bench, kind), settings=HUNT)
    if isinstance(caught.value, DatabaseRefused) and not caught.value.is_constraint:
        raise caught.value


@pytest.mark.parametrize("store_kind", ["sqlite-memory", "postgres"])
def test_a_mutant_that_is_no_sql_is_not_taken_for_found(store_kind: StoreKind, store_url: str) -> None:
    nonsense = Mutant("nonsense", "claim", "ORDER BY", "ODER VON")
    with pytest.raises(DatabaseRefused, match="syntax error"):
        hunt(store_url, nonsense, is_quick=True)
