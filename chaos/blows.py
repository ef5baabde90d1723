"""What is done to workers, and to servers and connections, while they work."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence

import asyncpg

from chaos.arena import Arena
from chaos.jobs import Work, chain
from chaos.load import Order
from chaos.story import limit_keys, until_over
from tests.support.processes import STOPPING, WorkerProcess
from tests.support.proxy import Proxy
from tools.postgres_server import database_name

MANY = 3
"""Workers of which one can die, and somebody is there to go on."""
SPARE = 2
"""Workers beside those, so that one can die every second although it takes longer to start another one."""
MINUTE = 60_000_000
"""What one unit of priority counts, in the unit of a run's rank: a minute of waiting."""
TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"


# --- workers ------------------------------------------------------------------------------------------------


async def workers_killed(arena: Arena) -> None:
    """A worker dies of SIGKILL every second, and another one is started meanwhile."""
    await limit_keys(arena)
    count = MANY + (SPARE if arena.rules.seconds else 0)
    await arena.start_workers(count, slots=12)
    arena.load.start(8 * count)
    await arena.busy(5)

    async def kill_one() -> None:
        await arena.stage.until(lambda: len(arena.living) >= MANY, "enough workers to kill one", arena.rules.patience)
        await arena.kill(random.choice(arena.living))
        group.create_task(arena.start_workers(1, slots=12))
        await arena.pause(1.0)

    async with asyncio.TaskGroup() as group:
        await until_over(arena, kill_one)


async def storm(arena: Arena) -> None:
    """Half of all executions fail, are resumed and triggered again, others are cancelled; workers stop and die."""
    await limit_keys(arena)
    arena.load.cancelling = 0.15
    await arena.start_workers(2, slots=16)
    arena.load.start(24)
    await arena.busy(10)

    async def replace_two() -> None:
        await arena.kill(random.choice(arena.living))
        await arena.start_workers(1, slots=16)
        await arena.busy(30)
        worker = arena.living.pop(0)
        async with arena.fault(f"two SIGTERMs of worker {worker.pid}", pid=worker.pid):
            worker.send(signal.SIGTERM)
            await worker.says(STOPPING)  # two of a kind at once would be one
            worker.send(signal.SIGTERM)
            await worker.ended(arena.rules.patience)
        await arena.start_workers(1, slots=16)
        await arena.busy(30)

    await until_over(arena, replace_two)
    arena.note = f"{arena.load.resumes} resumed, {arena.load.retriggers} again, {len(arena.load.cancelled)} cancelled"


async def hot_priority(arena: Arena) -> None:
    """There is always more work of a higher priority than the workers can do; what has none gets its turn."""
    await arena.start_workers(2, slots=1)
    arena.load.start(40)
    await arena.busy(20)

    async def sneak_in() -> None:
        cold = [await arena.load.trigger(Order(chain, Work(steps=1)), f"cold-{random.random()}") for _ in range(2)]
        ids = ", ".join(f"'{run.id}'" for run in cold)
        before = len({deed.run for deed in arena.witness.deeds})
        await arena.busy(20)
        if {deed.run for deed in arena.witness.deeds} & {run.id for run in cold}:
            arena.troubles.append("end: a priority changed nothing")
        # as if they had waited so long
        await arena.place.sql(f"UPDATE {{runs}} SET rank = rank - {MINUTE} WHERE id IN ({ids})")  # noqa: S608 - ids of ours
        async with arena.fault("overtaking by runs of a higher priority") as fault:
            pass
        for run in cold:
            async with asyncio.timeout(arena.rules.patience):
                await arena.durably.wait(run)
        fault.recovery = time.time() - fault.over
        if len({deed.run for deed in arena.witness.deeds}) <= before:
            arena.troubles.append("end: the flood had ebbed")

    await until_over(arena, sneak_in)


# --- servers and connections --------------------------------------------------------------------------------


async def server_killed(arena: Arena) -> None:
    """PostgreSQL dies as in a crash, and comes back after a while, again and again."""
    await limit_keys(arena)
    await arena.start_workers(3, slots=6)
    arena.load.start(40)
    process = arena.place.running()

    async def crash() -> None:
        await arena.busy(30)
        async with arena.fault("a crash of PostgreSQL") as fault:
            await asyncio.to_thread(process.stop, "immediate")
            await arena.pause(random.choice((0.0, 1.0, arena.rules.lease + 1)))
            await asyncio.to_thread(process.start)
        await arena.recovered(fault)

    await until_over(arena, crash)


async def backends_terminated(arena: Arena) -> None:
    """All connections of the workers are ended by the server, again and again."""
    await limit_keys(arena)
    await arena.start_workers(3, slots=6)
    arena.load.start(40)
    admin = await asyncpg.connect(arena.place.running().url)

    async def terminate() -> None:
        await arena.busy(30)
        async with arena.fault("the end of all connections") as fault:
            await admin.fetchval(TERMINATE, database_name(arena.place.url))
        await arena.recovered(fault)

    await until_over(arena, terminate)
    await admin.close()


async def network(arena: Arena) -> None:
    """Two of three workers reach the database over a network that delays, cuts, and swallows everything."""
    await limit_keys(arena)
    async with Proxy(arena.place.url, arena.stage.notify) as proxy:
        await arena.start_workers(2, slots=8, url=proxy.url)
        behind = list(arena.living)
        await arena.start_workers(1, slots=8)
        arena.load.start(50)

        async def disturb() -> None:
            await arena.busy(20)
            async with arena.fault("a slow network") as fault:
                proxy.delay = 0.05
                await arena.busy(20)
                proxy.delay = 0.0
            await arena.recovered(fault)
            async with arena.fault("cut connections") as fault:
                proxy.cut()
            await arena.recovered(fault)
            async with arena.fault("lost answers") as fault:
                proxy.mute()
                await arena.stage.until(lambda: proxy.lost > 1, "lost answers")
                proxy.cut()
            await arena.recovered(fault)
            await _black_hole(arena, proxy, behind)

        await until_over(arena, disturb)
        await arena.settle()


async def _black_hole(arena: Arena, proxy: Proxy, behind: Sequence[WorkerProcess]) -> None:
    """Who is cut off keeps nothing: the worker with another way takes all over. Later the others work again."""
    async with arena.fault("a black hole") as fault:
        proxy.swallow()
        await arena.pause(arena.rules.lease + 1)
        others = [worker for worker in arena.living if worker not in behind]
        before = len(arena.witness.deeds)
        await arena.stage.until(
            lambda: {worker.pid for worker in others} <= {deed.pid for deed in arena.witness.deeds[before:]},
            "work beside the black hole",
            arena.rules.patience,
        )
        proxy.cut()
    await arena.recovered(fault)


async def connections_exhausted(arena: Arena) -> None:
    """Others take every connection that the server has, while those of the workers are ended."""
    await limit_keys(arena)
    await arena.start_workers(2, slots=8)
    arena.load.start(36)
    admin = await asyncpg.connect(arena.place.running().url)
    hogs: list[asyncpg.Connection[asyncpg.Record]] = []

    async def hog() -> None:
        await arena.busy(20)
        async with arena.fault("all connections taken") as fault:
            await admin.fetchval(TERMINATE, database_name(arena.place.url))
            refused, until = 0, time.monotonic() + arena.rules.lease + 1
            while time.monotonic() < until:
                try:
                    hogs.append(await asyncpg.connect(arena.place.running().url, timeout=5))
                except (asyncpg.TooManyConnectionsError, TimeoutError):
                    refused += 1
                    await arena.pause(0.1)
                    await admin.fetchval(TERMINATE, database_name(arena.place.url))
            for one in hogs:
                one.terminate()
            hogs.clear()
        if not refused:
            arena.troubles.append("end: there were connections left")
        await arena.recovered(fault)

    await until_over(arena, hog)
    await admin.close()
