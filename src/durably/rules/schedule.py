"""When to try again: pure functions of the attempt and of a random number that the caller brings."""

from __future__ import annotations

BACKOFF_BASE_SECONDS = 0.1
BACKOFF_CAP_SECONDS = 30.0
_MAX_DOUBLINGS = 64


def backoff_seconds(
    attempt: int,
    chance: float,
    *,
    base: float = BACKOFF_BASE_SECONDS,
    cap: float = BACKOFF_CAP_SECONDS,
) -> float:
    """How long to wait after failure number `attempt` (from 1); `chance` (0 to 1) decides half of it.

    With base=1 and cap=8 it waits at most 1, 2, 4, 8, 8 s, and at least 0.5, 1, 2, 4, 4 s. With the defaults
    it is at most 0.1, 0.2, 0.4, ... 25.6, 30, 30 s. The random half keeps workers from coming back in step.
    """
    doublings = min(max(attempt - 1, 0), _MAX_DOUBLINGS)
    longest = min(cap, base * 2.0**doublings)
    return longest * (0.5 + chance / 2)
