"""What a scenario is, and what several of them do."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from chaos.arena import Arena

THREE = 3


async def until_over(arena: Arena, act: Callable[[], Awaitable[None]]) -> None:
    """Do it again and again while the scenario has time, and once at least."""
    deadline = time.monotonic() + arena.rules.seconds
    while True:
        await act()
        if time.monotonic() >= deadline:
            return


async def limit_keys(arena: Arena) -> None:
    """Three runs of the key `three` may be executed at once."""
    arena.limits["three"] = THREE
    await arena.durably.set_limit("three", THREE)
