"""What steps are to do in a test instead of what they are written to do, and where the process is to die.

A script names steps: `charge`, or with a key `insert[3]`; `insert` alone means every key of it. A name that no step
ever had is an error at the end, because a test that scripts nothing tests nothing.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from inspect import isawaitable
from typing import Any

from durably.errors import UsageError, ValidationError


class ScriptError(UsageError):
    """The test itself is wrong: a script names a step that was never met, or ended before its step did."""


class Real(Enum):
    """The type of `REAL`."""

    REAL = "REAL"


REAL = Real.REAL
"""In `in_turn(OSError(), REAL)`: call the step's own function."""


@dataclass(frozen=True, slots=True)
class InTurn:
    """Several outcomes of a step, one for each time it is executed."""

    outcomes: tuple[object, ...]


def in_turn(*outcomes: object) -> InTurn:
    """One outcome after the other, each time that the step is executed: `in_turn(OSError(), REAL)`.

    Executed more often, the step ends the test with a ScriptError.
    """
    if not outcomes:
        raise ScriptError("in_turn() needs at least one outcome")
    return InTurn(outcomes)


class Script:
    """Outcomes by step, and which of them were met."""

    def __init__(self, steps: Mapping[str, object] | None = None, *, beside: Script | None = None) -> None:
        """What `beside` says counts where this one says nothing."""
        _check_mapping(steps)
        self._steps = dict(steps or {})
        self._met: Counter[str] = Counter()
        self._beside = beside

    def outcome(self, step: str) -> object:
        """What this execution of a step comes to: a value, an exception, a function, or REAL.

        Raises ScriptError when its outcomes are used up.
        """
        name = _named(step, self._steps)
        if name is None:
            return REAL if self._beside is None else self._beside.outcome(step)
        self._met[name] += 1
        planned = self._steps[name]
        if not isinstance(planned, InTurn):
            return planned
        count = self._met[name]
        if count > len(planned.outcomes):
            raise ScriptError(
                f"step {step!r} was executed {count} times, but its script has {len(planned.outcomes)} outcomes: "
                "add more to in_turn(...), REAL for the step's own function"
            )
        return planned.outcomes[count - 1]

    def meet(self, step: str) -> None:
        """Note that a step was there, though its result was stored already."""
        for name in (step, base_name(step)):
            if name in self._steps:
                self._met[name] += 0
        if self._beside is not None:
            self._beside.meet(step)

    def check(self, seen: Iterable[str]) -> None:
        """Raise ScriptError if a scripted step was never met; `seen` are the steps that were."""
        check_met("steps", [name for name in self._steps if name not in self._met], seen)


def _check_mapping(steps: object) -> None:
    if steps is not None and not isinstance(steps, Mapping):
        raise ValidationError("steps", f'must say what each step comes to, as {{"charge": OSError()}}, not {steps!r}')


def perform(outcome: object, fn: Callable[..., Any], args: tuple[object, ...]) -> object:
    """Do what a script says of a step: return, raise, or call."""
    if outcome is REAL:
        return fn(*args)
    if isinstance(outcome, BaseException):
        raise outcome
    if not callable(outcome):
        return outcome
    made: object = outcome() if _is_exception_class(outcome) else outcome(*args)
    if isinstance(made, BaseException):
        raise made
    return made


def _is_exception_class(outcome: object) -> bool:
    return isinstance(outcome, type) and issubclass(outcome, BaseException)


def perform_blocking(outcome: object, fn: Callable[..., Any], args: tuple[object, ...]) -> object:
    """The same for a step of a `def` job, which cannot await. Raises ScriptError for an async function."""
    result = perform(outcome, fn, args)
    if not isawaitable(result):
        return result
    if isinstance(result, Coroutine):
        result.close()
    raise ScriptError("a step of a def job was scripted with an async function: use a def function")


@dataclass(slots=True)
class Crashes:
    """Steps in which, or after which, the process dies; each entry once."""

    after: list[str] = field(default_factory=list[str])
    during: list[str] = field(default_factory=list[str])

    def has_come(self, step: str, planned: list[str]) -> bool:
        """Whether one of these is planned for the step; it is used up then."""
        name = _named(step, planned)
        if name is not None:
            planned.remove(name)
        return name is not None

    def check(self, seen: Iterable[str]) -> None:
        """Raise ScriptError if a crash did not come."""
        seen = tuple(seen)
        check_met("crash_after", self.after, seen)
        check_met("crash_during", self.during, seen)


def names_of(steps: str | Iterable[str]) -> list[str]:
    """One name, or several."""
    return [steps] if isinstance(steps, str) else list(steps)


def _named(step: str, names: Container[str]) -> str | None:
    """How a script names this step, if it does: with its key, else without."""
    return next((name for name in (step, base_name(step)) if name in names), None)


def base_name(step: str) -> str:
    """The name without its key: `insert` of `insert[3]`."""
    return step.partition("[")[0] if step.endswith("]") else step


def check_met(field_name: str, unmet: Iterable[str], seen: Iterable[str]) -> None:
    """Raise ScriptError for names that no step had, with those that there were."""
    missing = list(dict.fromkeys(unmet))
    if not missing:
        return
    known = list(dict.fromkeys(seen))
    executed = f"(steps executed: {_listed(known) or 'none'})"
    names = {*known, *map(base_name, known)}
    strange = [name for name in missing if name not in names]
    if not strange:
        why = "it returned less often"
        if field_name == "steps":
            why = "it was executed before this, or each time there was an entry with its key"
        raise ScriptError(f"{field_name}: {_listed(missing)} was executed, but this did not come: {why} {executed}")
    close = difflib.get_close_matches(strange[0], sorted(names), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ScriptError(f"{field_name}: {_listed(strange)} was never executed {executed}.{hint}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
