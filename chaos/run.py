"""Playing scenarios, one after the other, each on a database of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from chaos.arena import Arena, Rules, Verdict, arena_on, dump, verdict_of
from chaos.audit import Dialect
from chaos.disks import Disk
from chaos.places import Place, Server
from chaos.record import Record
from chaos.scenarios import Scenario

MAX_TROUBLE = 2000
"""Characters of an error that are shown."""


@dataclass(frozen=True, slots=True)
class Ground:
    """Where one scenario is played."""

    place: Place
    folder: Path
    disk: Disk | None


class Grounds:
    """Where scenarios are played: folders, and servers that are started when they are needed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._shared: Server | None = None

    @contextmanager
    def ground(self, scenario: Scenario, dialect: Dialect) -> Generator[Ground]:
        """Give an empty database, a folder, and a small disk if one is needed."""
        with tempfile.TemporaryDirectory(prefix="durably-chaos-") as name, ExitStack() as stack:
            folder = Path(name)
            folder.chmod(0o755)  # for the user that PostgreSQL runs as
            disk = Disk(folder / "disk", scenario.megabytes) if scenario.megabytes else None
            if disk is not None:
                stack.callback(disk.close)
            if dialect == "sqlite":
                (folder / "data").mkdir()
                file = (disk.folder if disk else folder / "data") / "jobs.db"
                yield Ground(Place(f"sqlite:///{file}", file=file), folder, disk)
            elif scenario.settings:
                server = Server(None if disk is None else disk.folder, **dict(scenario.settings))
                stack.callback(server.close)
                yield Ground(server.place(), folder, disk)
            else:
                yield Ground(self._server().place(), folder, disk)

    def _server(self) -> Server:
        if self._shared is None:
            self._shared = Server()
            self._stack.callback(self._shared.close)
        return self._shared

    def close(self) -> None:
        """Stop the servers."""
        self._stack.close()


@contextmanager
def grounds() -> Generator[Grounds]:
    """Give grounds, cleared at the end."""
    made = Grounds()
    try:
        yield made
    finally:
        made.close()


async def play(
    scenario: Scenario, dialect: Dialect, where: Grounds, rules: Rules, *, keep: Path | None = None
) -> Verdict:
    """Play a scenario and judge it. `keep` is a folder for the records of those that fail."""
    began = time.monotonic()
    with where.ground(scenario, dialect) as ground:
        async with arena_on(ground.place, rules, ground.folder, scenario.orders, prefix=scenario.prefix) as arena:
            arena.small_disk = ground.disk
            try:
                await scenario.play(arena)
                await arena.settle()
            except Exception as error:  # noqa: BLE001 - whatever a customer could not bear is a finding
                arena.troubles.append(f"end: {type(error).__name__}: {error}"[:MAX_TROUBLE])
            arena.troubles += [f"end: worker {one.pid} ended by itself" for one in arena.living if not one.is_alive]
            await arena.workers.close()
            record = await record_of(arena)
            verdict = verdict_of(arena, record, scenario.name, time.monotonic() - began)
            if verdict.findings and keep is not None:
                dump(record, keep / f"{scenario.name}-{dialect}.jsonl")
                (keep / f"{scenario.name}-{dialect}.log").write_text(arena.workers.story())
        return verdict


async def record_of(arena: Arena) -> Record:
    """What is known when all is over. What cannot be read any more is a finding, not the end of all scenarios."""
    try:
        return await arena.record()
    except Exception as error:  # noqa: BLE001 - see above
        trouble = f"end: what is stored cannot be read: {type(error).__name__}: {error}"[:MAX_TROUBLE]
        return Record(faults=arena.faults, lease=arena.rules.lease, troubles=[*arena.troubles, trouble])
