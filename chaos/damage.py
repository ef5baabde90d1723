"""What is done to files and disks, and to a pooler."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import asyncpg

from chaos.arena import JOBS, Arena
from chaos.blows import TERMINATE
from chaos.disks import family
from chaos.jobs import Work, chain
from chaos.load import Order
from chaos.pgbouncer import PgBouncer
from chaos.story import limit_keys, until_over
from tests.support.processes import READY, WorkerProcess, until
from tools.postgres_process import ServerProcess
from tools.postgres_server import database_name

UNUSABLE = "is not a usable SQLite database"
STALLED_SECONDS = 1.0
PAGE_BYTES = 4096
MAX_COMPLAINTS = 10
"""What a worker may say in a second when the file is corrupted."""


async def disk_full(arena: Arena) -> None:
    """The disk is full for longer than a lease, again and again."""
    disk, place = arena.disk(), arena.place
    disk.writers = lambda: family(place.running().pid or 0) if place.server else [one.pid for one in arena.living]
    await limit_keys(arena)
    await arena.start_workers(2, slots=8)
    arena.load.start(36)
    arena.note = disk.kind

    async def fill() -> None:
        await arena.busy(30)
        async with arena.fault("a full disk") as fault:
            await stalled(arena, disk.fill)
            await arena.pause(arena.rules.lease)
            await asyncio.to_thread(disk.free)
            if place.server is not None:
                await revive(place.running(), arena)
        await arena.recovered(fault)

    try:
        await until_over(arena, fill)
    finally:
        disk.free()


async def stalled(arena: Arena, act: Callable[[], None]) -> None:
    """Act again and again, until no step has been stored for a while."""

    async def is_still() -> bool:
        await asyncio.to_thread(act)
        before = sum(deed.kind == "got" for deed in arena.witness.deeds)
        await arena.pause(STALLED_SECONDS)
        return before == sum(deed.kind == "got" for deed in arena.witness.deeds)

    await until(is_still, "the disk to be full", arena.rules.patience)


async def revive(process: ServerProcess, arena: Arena) -> None:
    """Return when the server answers; one that gave itself up is started again."""

    async def answers() -> bool:
        if process.pid is None:
            await asyncio.to_thread(process.stop, "immediate")
            await asyncio.to_thread(process.start)
        try:
            connection = await asyncpg.connect(arena.place.url, timeout=5)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False
        await connection.close()
        return True

    await until(answers, "the server", arena.rules.patience)


async def standby(arena: Arena) -> None:
    """The server takes no writes for longer than a lease, as one that has become a standby, again and again."""
    await limit_keys(arena)
    await arena.start_workers(2, slots=8)
    arena.load.start(36)
    admin = await asyncpg.connect(arena.place.running().url)

    async def set_back() -> None:
        await arena.busy(30)
        async with arena.fault("a server that takes no writes") as fault:
            await _take_writes(admin, "off")
            await stalled(arena, lambda: None)
            await arena.pause(arena.rules.lease)
            await _take_writes(admin, "on")
        await arena.recovered(fault)

    try:
        await until_over(arena, set_back)
    finally:
        await _take_writes(admin, "on")
        await admin.close()


async def _take_writes(admin: asyncpg.Connection[asyncpg.Record], what: Literal["on", "off"]) -> None:
    """On, or off for every session from its next transaction on."""
    await admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'off' if what == 'on' else 'on'}")
    await admin.execute("SELECT pg_reload_conf()")


async def read_only(arena: Arena) -> None:
    """Workers start on a file that they may not write to; they say so, and serve when they may."""
    path = arena.place.path()

    retired: list[WorkerProcess] = []

    async def forbid() -> None:
        for worker in retired:
            await arena.kill(worker)
        retired.clear()
        arena.load.start(4)
        await until(lambda: arena.pending(4), "waiting runs", arena.rules.patience)
        async with arena.fault("a read-only file") as fault:
            allow(path, writing=False)
            worker = await arena.workers.launch(jobs=JOBS, concurrency=8, **arena.settings())
            await worker.says("attempt to write a readonly database")
            allow(path, writing=True)
        await worker.says(READY)
        arena.living.append(worker)
        await arena.recovered(fault)
        await arena.busy(10)
        retired.append(worker)

    await until_over(arena, forbid)


def allow(path: Path, *, writing: bool) -> None:
    """Permit or forbid to write to a database and its folder; whoever has them open may go on."""
    for suffix in ("", "-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.chmod(0o644 if writing else 0o444)
    path.parent.chmod(0o755 if writing else 0o555)


async def corrupted(arena: Arena) -> None:
    """The file is damaged in several ways: workers say so and do not spin; with its copy all goes on."""
    path = arena.place.path()
    await arena.start_workers(1)
    for place in range(12):
        await arena.load.trigger(Order(chain, Work(steps=5, pause=0.2)), f"run {place}")
    await arena.busy(12)
    await arena.kill(arena.living[0])
    await arena.disconnect()
    await arena.place.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = shutil.copy2(path, path.with_suffix(".copy"))
    for harm in (behead, halve, scatter):
        async with arena.fault(harm.__doc__ or "") as fault:
            fault.is_measured = False  # nobody is there to go on
            harm(path)
            await complains(arena)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            shutil.copy2(copy, path)
    arena.connect()
    await arena.start_workers(1)
    fault = arena.faults[-1]
    fault.over, fault.is_measured = time.time(), True  # it was over when there was somebody to go on
    await arena.recovered(fault)


async def complains(arena: Arena) -> None:
    """A worker on a damaged file ends with an error that says so, or goes on and says so; neither in a hot loop."""
    worker = await arena.workers.launch(jobs=JOBS, concurrency=8, **arena.settings())
    await worker.says(UNUSABLE)
    await arena.pause(1.0)
    said = len(worker.said(UNUSABLE))
    if said > MAX_COMPLAINTS:
        arena.troubles.append(f"end: a worker complained {said} times in a second")
    if not worker.is_alive and await worker.ended() == 0:
        arena.troubles.append("end: a worker on a damaged file ended as if all were well")
    await worker.kill()


def behead(path: Path) -> None:
    """Overwrite the first page."""
    with path.open("r+b") as file:
        file.write(random.randbytes(PAGE_BYTES))


def halve(path: Path) -> None:
    """Cut the file in half."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 // PAGE_BYTES * PAGE_BYTES)


def scatter(path: Path) -> None:
    """Overwrite all pages but the first one, which says that it is a database."""
    with path.open("r+b") as file:
        for _ in range(path.stat().st_size // PAGE_BYTES - 1):
            file.seek(PAGE_BYTES, 1)
            file.write(random.randbytes(64))
            file.seek(-64, 1)


async def pooled(arena: Arena) -> None:
    """Workers behind a pooler of fewer connections than they use; it dies, and so do the connections behind it."""
    await limit_keys(arena)
    admin = await asyncpg.connect(arena.place.running().url)
    with PgBouncer(arena.place.url) as pooler:
        await arena.start_workers(2, slots=6, url=pooler.url)
        await arena.start_workers(1, slots=6, url=pooler.url, listen_url=arena.place.url)
        arena.load.start(40)

        async def disturb() -> None:
            await arena.busy(30)
            async with arena.fault("the end of all connections behind the pooler") as fault:
                await admin.fetchval(TERMINATE, database_name(arena.place.url))
            await arena.recovered(fault)
            async with arena.fault("a crash of the pooler") as fault:
                pooler.kill()
                await arena.pause(random.choice((0.0, 1.0)))
                await asyncio.to_thread(pooler.start)
            await arena.recovered(fault)

        await until_over(arena, disturb)
        await arena.settle()
    await admin.close()
