"""Steps that belong to no run, for plain unit tests: `await import_csv.fn(FakeStep(deps=fake), input)`.

They call the functions, or do what the script says, and note it. There is no database; but values go through JSON to
the type that a real step gives back, and two steps of one name are an error, as in a real run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from inspect import isawaitable
from typing import Any, NoReturn

from typing_extensions import TypeVar

from durably.codec import codec_for
from durably.errors import DuplicateStep, UsageError
from durably.jobs import Target, TriggerOptions, build_run
from durably.model import Labels, LogEntry, Progress
from durably.rules.step_names import step_name
from durably.runtime.context import Step, SyncStep
from durably.runtime.log import StepLog
from durably.runtime.returns import check_function, is_async, return_type
from durably.testing.report import StepCall
from durably.testing.script import REAL, Script, perform, perform_blocking

DepsT_co = TypeVar("DepsT_co", covariant=True, default=object)
InputT = TypeVar("InputT")

RUN_ID = "00000000-0000-7000-8000-000000000000"

_inside: ContextVar[str | None] = ContextVar("durably_fake_step", default=None)


class _NoRun:
    """Stands where a real step has its run."""

    def __init__(self, owner: str) -> None:
        self._owner = owner

    def __getattr__(self, name: str) -> NoReturn:
        raise UsageError(f"a {self._owner} belongs to no run and cannot do this: use durably.testing.harness")


class _Notes:
    """What a fake step was asked to do."""

    def __init__(
        self,
        *,
        deps: Any = None,  # noqa: ANN401 - typed by the classes below
        steps: Mapping[str, object] | None = None,
        run_id: str = RUN_ID,
        attempt: int = 1,
        labels: Labels | None = None,
        aborted: bool = False,
    ) -> None:
        """`steps` is a script as in `harness`. The rest is what the job reads from its step."""
        self.calls: list[StepCall] = []
        """Each call of a step's function, in the order in which they ended."""
        self.progresses: list[Progress] = []
        self.logs: list[LogEntry] = []
        self.triggered: list[tuple[str, object, Mapping[str, object]]] = []
        """Job, input and options of each `trigger`. Nothing is triggered, and the ids that it returned are made up."""
        self._given: dict[str, Any] = {"deps": deps, "run_id": run_id, "attempt": attempt, "aborted": aborted}
        self._given["labels"] = dict(labels or {})
        vars(self).update(dict.fromkeys(("_steps", "_run", "_children"), _NoRun(type(self).__name__)))
        self._script = Script(steps)
        self._used: set[str] = set()
        self._adapter = StepLog(self.logs.append, lambda: {"run_id": run_id, "job": "", "step": _inside.get()})

    @property
    def executed(self) -> list[str]:
        """The names of the steps whose function returned or raised, in that order."""
        return [call.step for call in self.calls]

    def check_script(self) -> None:
        """Raise ScriptError if the script names a step that was never executed."""
        self._script.check(self.executed)

    # --- what the job reads -----------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """See `Step.run_id`."""
        run_id: str = self._given["run_id"]
        return run_id

    @property
    def attempt(self) -> int:
        """See `Step.attempt`."""
        attempt: int = self._given["attempt"]
        return attempt

    @property
    def labels(self) -> Labels:
        """See `Step.labels`."""
        labels: Labels = self._given["labels"]
        return labels

    @property
    def deps(self) -> Any:  # noqa: ANN401 - typed by the classes below
        """See `Step.deps`."""
        return self._given["deps"]

    @property
    def idempotency_key(self) -> str:
        """See `Step.idempotency_key`."""
        name = _inside.get()
        return self.run_id if name is None else f"{self.run_id}:{name}"

    @property
    def aborted(self) -> bool:
        """See `Step.aborted`."""
        aborted: bool = self._given["aborted"]
        return aborted

    @property
    def log(self) -> StepLog:
        """See `Step.log`. The lines are kept in `logs`."""
        return self._adapter

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """See `Step.progress`. Kept in `progresses`."""
        self.progresses.append(Progress(current=current, total=total, message=message))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.run_id!r})"

    # --- steps ------------------------------------------------------------------------------------------

    def _name(self, name: str, key: str | int | None, fn: object) -> str:
        full = step_name(name, key)
        check_function(name, fn)
        if full in self._used:
            raise DuplicateStep(full)
        self._used.add(full)
        return full

    @contextmanager
    def _noted(self, step: str, args: tuple[object, ...]) -> Generator[list[object]]:
        """Note what becomes of a call; its result is what the block appends."""
        results: list[object] = []
        token = _inside.set(step)
        try:
            yield results
        except BaseException as error:
            self._used.discard(step)
            self.calls.append(StepCall(step=step, args=args, error=error))
            raise
        else:
            self.calls.append(StepCall(step=step, args=args, result=results[0]))
        finally:
            _inside.reset(token)

    def _note_trigger(self, job: Target[Any, Any] | str, input: object, options: TriggerOptions) -> str:
        run_id = f"{RUN_ID[:-4]}{len(self.triggered) + 1:04d}"
        new = build_run(job, input, id=run_id, options=options)  # as strict as a real step, it stores nothing
        given = {name: value for name, value in asdict(options).items() if value is not None}
        self.triggered.append((new.job, input, given))
        return run_id


def _as_stored(step: str, fn: Callable[..., Any], returns: object, value: object) -> object:
    """What a real step would return: the value through JSON, as the type that it has."""
    codec = codec_for(return_type(fn) if returns is None else returns)
    return codec.round_trip(value, where=f"step {step!r}")[1]


class FakeStep(_Notes, Step[DepsT_co]):
    """A `Step` without a run. It calls the steps' functions, or does what `steps` says, and notes it in `calls`."""

    async def run(self, name: str, fn: Any, *args: Any, key: Any = None, returns: Any = None, **_: Any) -> Any:  # type: ignore[override] # noqa: ANN401 - its callers see `Step`
        """See `Step.run`."""
        step = self._name(name, key, fn)
        with self._noted(step, args) as results:
            outcome = self._script.outcome(step)
            if outcome is REAL and not is_async(fn):
                value = await asyncio.to_thread(fn, *args)
            else:
                value = perform(outcome, fn, args)
            value = await value if isawaitable(value) else value
            results.append(_as_stored(step, fn, returns, value))
        return results[0]

    async def _enqueue(self, job: Target[InputT, Any] | str, input: InputT, options: TriggerOptions) -> str:
        return self._note_trigger(job, input, options)


class FakeSyncStep(_Notes, SyncStep[DepsT_co]):
    """A `SyncStep` without a run: `report.fn(FakeSyncStep(), rows)`. See `FakeStep`."""

    def run(self, name: str, fn: Any, *args: Any, key: Any = None, returns: Any = None, **_: Any) -> Any:  # type: ignore[override] # noqa: ANN401 - its callers see `SyncStep`
        """See `SyncStep.run`."""
        step = self._name(name, key, fn)
        if is_async(fn):
            raise UsageError(f"step {name!r}: a def job cannot run an async function; make the job an async def")
        with self._noted(step, args) as results:
            value = perform_blocking(self._script.outcome(step), fn, args)
            results.append(_as_stored(step, fn, returns, value))
        return results[0]

    def _enqueue_blocking(self, job: Target[InputT, Any] | str, input: InputT, options: TriggerOptions) -> str:
        return self._note_trigger(job, input, options)
