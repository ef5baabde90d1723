"""A user's own connection in a simulated world, and the database that goes from one world to the next."""

from __future__ import annotations

import sqlite3
from asyncio import sleep
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from durably import JobRef
from durably.runtime.settings import Settings
from durably.store import catalogue
from durably.testing import (
    Memory,
    NoFaults,
    Process,
    SimulatedConnection,
    SimulatedDatabase,
    SimulatedDurably,
    SimulatedEnvironment,
    World,
)

JOB = JobRef[object, object]("any")
Act = Callable[[SimulatedConnection, SimulatedDurably], Awaitable[None]]


class Room:
    """A world with a database, and processes that have a connection of their own."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.world = World("room")
        self.database = SimulatedDatabase(self.world, NoFaults(), memory=memory)
        self.database.open()

    def start(self, name: str, act: Act) -> Process:
        process = self.world.process(name)
        environment = SimulatedEnvironment(process)
        durably = SimulatedDurably(self.database, environment, Settings(lease=timedelta(seconds=1)))
        process.start(lambda: self._main(act, SimulatedConnection(self.database, process), durably))
        return process

    async def _main(self, act: Act, connection: SimulatedConnection, durably: SimulatedDurably) -> None:
        await connection.begin()
        await durably.trigger(JOB, 1, connection=connection)
        await act(connection, durably)

    def close(self) -> int:
        """Play to the end. Returns how many runs there are."""
        self.world.run(until=lambda: False, limit=20.0)
        runs: int = self.database.raw.execute("SELECT count(*) FROM durably_runs").fetchone()[0]
        self.world.close()
        self.database.close()
        return runs


async def commit(connection: SimulatedConnection, _: SimulatedDurably) -> None:
    assert connection.in_transaction
    await connection.commit()
    assert not connection.in_transaction


async def roll_back(connection: SimulatedConnection, _: SimulatedDurably) -> None:
    await connection.rollback()
    with pytest.raises(sqlite3.OperationalError, match="no transaction"):
        await connection.commit()


async def rest(_: SimulatedConnection, __: SimulatedDurably) -> None:
    await sleep(5.0)


@pytest.mark.parametrize(("act", "runs"), [(commit, 1), (roll_back, 0)])
def test_a_run_is_there_if_and_only_if_its_transaction_is_committed(act: Act, runs: int) -> None:
    room = Room()
    room.start("user", act)
    assert room.close() == runs


def test_others_wait_for_an_open_transaction_until_its_process_is_dead() -> None:
    room = Room()
    first = room.start("first", rest)
    room.world.run(until=lambda: room.database.is_visited, limit=1.0)
    room.start("second", commit)
    room.world.call_at(3.0, first.die)
    assert room.close() == 1
    assert [round(end) for _, end in room.database.visits] == [3, 3]


def test_a_world_finds_nothing_of_the_one_before_it() -> None:
    memory = Memory("CREATE TABLE notes (n INTEGER PRIMARY KEY AUTOINCREMENT, txn INTEGER)")
    connections: list[sqlite3.Connection] = []
    for _ in range(2):
        room = Room(memory)
        raw = room.database.raw
        connections.append(raw)
        assert raw.execute("SELECT count(*) FROM durably_runs").fetchone()[0] == 0
        raw.execute("INSERT INTO notes (txn) VALUES (simulated_transaction())")
        assert tuple(raw.execute("SELECT n, txn FROM notes").fetchone()) == (1, 0)
        room.start("user", commit)
        assert room.close() == 1
    assert connections[0] is connections[1]
    memory.close()


def test_a_world_with_other_statements_gets_a_database_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    first = Room(memory)
    raw = first.database.raw
    first.close()
    known = dict(catalogue.load("sqlite", "durably_"))

    def load(_dialect: str, _prefix: str) -> catalogue.Catalogue:
        return known

    monkeypatch.setattr(catalogue, "load", load)
    other = Room(memory)
    assert other.database.raw is not raw
    other.close()
    memory.close()


def test_an_open_transaction_is_gone_with_its_world() -> None:
    memory = Memory()
    room = Room(memory)
    room.start("user", rest)
    room.world.run(until=lambda: room.database.is_visited, limit=1.0)
    room.world.close()
    room.database.close()
    assert Room(memory).close() == 0
    memory.close()
