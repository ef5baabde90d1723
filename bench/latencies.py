"""W3's arithmetic, shared by durably and a peer. Standard library only."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from pathlib import Path

from bench.task import Answer

PAUSE = (0.02, 0.05)
"""Seconds between two triggers, so that the worker is idle when the next one comes."""


async def pause() -> None:
    """Wait between two triggers."""
    await asyncio.sleep(random.uniform(*PAUSE))


def compared(committed: Mapping[str, float], report: Path, *, warm_up: int) -> Answer:
    """The quantiles in milliseconds, from what the trigger's side noted and what the worker's side wrote down."""
    started: dict[str, float] = json.loads(report.read_text(encoding="utf-8"))
    late = [(at - committed[number]) * 1000 for number, at in started.items() if int(number) >= warm_up]
    values = sorted(max(value, 0.0) for value in late)  # a job may start before the trigger's side knows of the commit
    return {"p50": quantile(values, 0.5), "p99": quantile(values, 0.99), "jobs": len(values)}


def quantile(sorted_values: list[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    return sorted_values[min(int(len(sorted_values) * share), len(sorted_values) - 1)]
