"""G2, G3, G4, G7, G9 together: random work from several processes at once, checked by an independent audit."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.store import Store, StoreKind
from tests.support.stress import Stress, faults, prepare
from tools.postgres_server import PostgresServer

ROOT = Path(__file__).parents[2]
PROCESSES, COUNT = 3, 120
NEEDED = {
    "created",
    "idempotent",
    "conflict",
    "coalesced",
    "replaced",
    "completed stored",
    "pending stored",
    "cancelled True",
}
"""What each of these runs has to meet at least once, to be worth its time."""


@pytest.fixture
async def own_store(store_kind: StoreKind, postgres_server: PostgresServer, tmp_path: Path) -> AsyncIterator[Store]:
    """Give a store on a database of its own, since the audit adds to the schema."""
    url = {"sqlite-memory": "sqlite:///:memory:", "sqlite-file": f"sqlite:///{tmp_path / 'stress.db'}"}.get(store_kind)
    made = None if url else postgres_server.create_database()
    async with Store(store_kind, url or made or "") as store:
        await prepare(store)
        yield store
    if made:
        postgres_server.drop_database(made)


@pytest.mark.parametrize("store_kind", ["sqlite-file", "postgres"], indirect=True)
async def test_several_processes_at_once_leave_everything_sound(own_store: Store) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.stress", own_store.url, str(seed), str(COUNT), str(PROCESSES)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for seed in range(PROCESSES)
    ]
    results = await asyncio.gather(*(process.communicate() for process in processes))
    assert [process.returncode for process in processes] == [0] * PROCESSES, results
    became: Counter[str] = Counter()
    for output, _ in results:
        became.update(json.loads(output))
    assert set(became) >= NEEDED
    assert not [what for what in became if what.startswith("wrong")]
    assert await faults(own_store) == {}


async def test_several_databases_of_one_process_leave_everything_sound(own_store: Store) -> None:
    databases = await own_store.others(PROCESSES)
    shares = [
        Stress(database, seed=10 + place, count=COUNT, processes=PROCESSES) for place, database in enumerate(databases)
    ]
    results = await asyncio.gather(*(share.run() for share in shares))
    became = sum((Counter(result) for result in results), Counter[str]())
    assert set(became) >= NEEDED
    assert await faults(own_store) == {}
