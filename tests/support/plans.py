"""PostgreSQL's plans of an operation's statements, prepared as the engine prepares them, with what they read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from durably.environment import SystemEnvironment
from durably.store.operation import Operation, Statement
from durably.store.postgres import PostgresEngine
from durably.store.url import parse_url
from tests.support.store import SCHEMA


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a plan that reads a table or an index."""

    kind: str
    of: str
    rows: int
    """Rows it read, those that it dropped included."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement that a connection has prepared."""

    name: str
    """Of the block of SQL."""
    execute: str
    """How it is executed with its parameters."""


def bound(statement: Statement) -> list[tuple[str, list[object]]]:
    """SQL and parameters, as the driver gets them."""
    engine = PostgresEngine(parse_url("postgresql://absent/x"), SystemEnvironment(), SCHEMA)
    return engine._bind(statement)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the engine's own binding


async def prepare(connection: Any, operation: Operation[Any], title: str) -> list[Prepared]:
    """Prepare an operation's statements, and have them planned for the tables as they are now."""
    made: list[Prepared] = []
    for statement in operation.plan():
        for sql, arguments in bound(statement):
            given = f"({', '.join(map(literal, arguments))})" if arguments else ""
            name = f"{title}_{len(made)}"
            await connection.execute(f"PREPARE {name} AS {sql}")
            await connection.execute(f"EXPLAIN EXECUTE {name} {given}")
            made.append(Prepared(statement.name, f"EXECUTE {name} {given}"))
    return made


async def plan_of(connection: Any, execute: str) -> dict[str, Any]:
    """The plan of a prepared statement as it was executed, with the pages that it touched."""
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {execute}")
    plan: dict[str, Any] = json.loads(text)[0]["Plan"]
    return plan


def nodes_of(plan: dict[str, Any]) -> Iterator[Node]:
    """What the plan reads."""
    of = plan.get("Relation Name") or plan.get("Index Name")
    if of and "Scan" in plan["Node Type"]:
        dropped = sum(count for key, count in plan.items() if key.startswith("Rows Removed"))
        yield Node(plan["Node Type"], of, round((plan["Actual Rows"] + dropped) * plan["Actual Loops"]))
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)


def pages_of(plan: dict[str, Any]) -> int:
    """The pages that were looked at. What writes and is not asked for anything is not counted with the plan's top."""
    own: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return max([own, *(pages_of(child) for child in plan.get("Plans", ()))])


def literal(value: object) -> str:
    """The value as SQL; its type is that of the parameter."""
    if value is None:
        return "NULL"
    if isinstance(value, list | tuple):
        return literal("{" + ",".join(map(_element, cast("Sequence[object]", value))) + "}")
    if isinstance(value, datetime):
        return literal(value.isoformat())
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def _element(value: object) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return "NULL" if value is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
