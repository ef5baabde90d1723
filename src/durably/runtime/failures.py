"""Which step each exception of user code left.

An exception that was caught is no failure of the run: only the one that ended it is, and it names its step.
"""

from __future__ import annotations

from collections.abc import Iterator

REMEMBERED = 100


class Failures:
    """Which step an exception left. Remembers the last hundred: a long run may catch many."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[BaseException, str]] = {}

    def add(self, error: BaseException, step: str) -> None:
        """Remember that `error` left `step`; for a step within a step the inner one counts."""
        self._steps.setdefault(id(error), (error, step))
        if len(self._steps) > REMEMBERED:
            del self._steps[next(iter(self._steps))]

    def step_of(self, error: BaseException) -> str | None:
        """The step that `error`, its cause or the first of its group left; None if there is none."""
        for candidate in _chain(error):
            known = self._steps.get(id(candidate))
            if known is not None:
                return known[1]
        return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        waiting.extend(_members(current))
        if current.__cause__ is not None:
            waiting.append(current.__cause__)


def _members(error: BaseException) -> tuple[BaseException, ...]:
    if not isinstance(error, BaseExceptionGroup):
        return ()
    members: tuple[BaseException, ...] = error.exceptions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - any group
    return members
