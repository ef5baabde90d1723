"""How an execution finished becomes what the store writes: an `Ending`, or nothing.

Decided from values, outside the `try` around user code, so that an error of the database can never become the
failure of a run whose code succeeded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from traceback import TracebackException
from typing import TypeAlias, assert_never

from durably.errors import Cancelled, Interrupt, LeaseLost, Stopping
from durably.model import Ending, RunError, RunStatus

MAX_MESSAGE_BYTES = 10_000
MAX_TRACEBACK_BYTES = 30_000
_CUT = "\n[... cut ...]\n"
_PACKAGE = str(Path(__file__).parents[1])


@dataclass(frozen=True, slots=True)
class Returned:
    """The function returned; its value is encoded already."""

    output_json: str


@dataclass(frozen=True, slots=True)
class Raised:
    """The function raised, or what it returned cannot be stored."""

    error: RunError


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The function was ended from outside."""

    by: Interrupt


Finish: TypeAlias = Returned | Raised | Interrupted


def decide(finish: Finish, *, preserve_steps: bool = True) -> Ending | None:
    """What to write at the end of an execution; None for nothing.

    A cancelled run has its end already, and a lost lease allows no write. Steps are dropped only when the run
    completed: a failed or handed back run continues after them.
    """
    match finish:
        case Returned(output_json):
            return Ending(status=RunStatus.COMPLETED, output_json=output_json, keep_steps=preserve_steps)
        case Raised(error):
            return Ending(status=RunStatus.FAILED, error=error)
        case Interrupted(Cancelled() | LeaseLost()):
            return None
        case Interrupted(Stopping()):
            return Ending(status=RunStatus.PENDING)
        case Interrupted(by):
            raise TypeError(f"no rule for the interrupt {type(by).__name__}")
        case _:
            assert_never(finish)


def capture(error: BaseException, *, step: str | None = None) -> RunError:
    """An exception as a value to store; `step` is the one that it left. Frames of durably are left out."""
    trace = TracebackException.from_exception(error)
    for part in _chain(trace):
        own = [frame for frame in part.stack if not frame.filename.startswith(_PACKAGE)]
        if own or part is not trace:
            part.stack[:] = own
    return RunError(
        type=type(error).__name__,
        message=printable(str(trace), max_bytes=MAX_MESSAGE_BYTES),
        traceback=printable("".join(trace.format()), max_bytes=MAX_TRACEBACK_BYTES),
        step=step,
    )


def _chain(trace: TracebackException) -> Iterator[TracebackException]:
    """The exception, those in its group, and those that led to it."""
    waiting = [trace]
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(other for other in (part.__cause__, part.__context__) if other is not None)
        waiting.extend(part.exceptions or ())


def printable(text: str, *, max_bytes: int) -> str:
    """Text that every database can store, at most `max_bytes` of UTF-8; a longer one loses its middle.

    PostgreSQL has no NUL in text, and UTF-8 no lone surrogates: both become visible escapes.
    """
    raw = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace")
    if len(raw) <= max_bytes:
        return raw.decode()
    room = max(max_bytes - len(_CUT), 0)
    head, tail = raw[: room // 3], raw[len(raw) - (room - room // 3) :]
    return head.decode("utf-8", "ignore") + _CUT + tail.decode("utf-8", "ignore")
