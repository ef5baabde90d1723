"""Reading what a diagnosis needs to know. It writes nothing, and no statement of it takes long."""

from __future__ import annotations

from collections.abc import Collection

from durably.environment import Environment
from durably.model import Condition
from durably.store import care, keys
from durably.store.database import Database


async def read_condition(database: Database, environment: Environment, *, served: Collection[str] | None) -> Condition:
    """Everything that is known of the database. Raises DatabaseUnavailable."""
    before = environment.now()
    clock = await database.read(care.read_clock())
    after = environment.now()
    return Condition(
        is_server=database.is_parallel,
        now=clock,
        skew=before + (after - before) / 2 - clock,
        uncertainty=(after - before) / 2,
        migrations=tuple(await database.read(care.read_schema())),
        newest=database.newest_schema,
        connections=await database.probe(),
        drifted_keys=tuple(await database.read(keys.find_drift())),
        expired=tuple(await database.read(care.read_expired())),
        waiting=tuple(await database.read(care.read_waiting())),
        served=None if served is None else frozenset(served),
        tables=tuple(await database.read(care.read_tables())),
        indexes=tuple(await database.read(care.read_indexes())),
        server=await database.read(care.read_server()),
    )
