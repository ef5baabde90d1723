"""What SQLite must not bring along into a forked child: a thread that is inside it, and open files.

Its mutexes, and its notes on who holds which lock of a file, belong to the process. A child that is forked while
another thread is inside waits for ever for a mutex that nobody gives free; one that inherits open files believes in
locks that only its parent holds (https://sqlite.org/howtocorrupt.html, section 2.6). So a fork waits until no
connection is in use and closes them; the next use opens them again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from functools import cache
from typing import Protocol
from weakref import WeakSet

from durably.environment import around_forks, new_lock


class Forkable(Protocol):
    """What uses SQLite in some thread."""

    in_use: AbstractContextManager[object]
    """Held, by whatever thread, while that is inside SQLite; who holds it may take it again."""

    def let_go(self) -> None:
        """Close what is open until it is used again. Called by the thread that forks, which holds `in_use`."""
        ...


class _Forks:
    """Holds all that is known while the process is being forked."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._known = WeakSet[Forkable]()
        self._held = ExitStack()
        around_forks(self._before, self._after)

    def add(self, user: Forkable) -> None:
        with self._lock:
            self._known.add(user)

    def _before(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._lock)  # one fork at a time, and nobody new meanwhile
            for user in tuple(self._known):
                stack.enter_context(user.in_use)
                user.let_go()
            self._held = stack.pop_all()

    def _after(self) -> None:
        """In the parent and in the child, which is a copy of the thread that holds everything."""
        self._held.pop_all().close()


@cache
def _forks() -> _Forks:
    return _Forks()


def before_forks(user: Forkable) -> None:
    """Have it let go before each fork of this process, for as long as it lives."""
    _forks().add(user)
