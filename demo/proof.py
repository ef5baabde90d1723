"""What must hold at the end, decided from what the tables say. Pure: values in, checks out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from demo.source import Plan
from demo.tables import Contents, Execution
from durably import Event, EventType

STEP_OF_A_BATCH = "insert["
NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must hold, and whether it does."""

    holds: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What the tables said when the worker was dead."""

    finished: frozenset[int]
    """The batches whose step was stored."""
    executions: tuple[Execution, ...]

    @property
    def interrupted(self) -> frozenset[int]:
        """The batches that were started and whose step was not stored."""
        return frozenset(execution.batch for execution in self.executions) - self.finished

    @property
    def committed(self) -> frozenset[int]:
        """The interrupted batches whose rows are in the table all the same."""
        return frozenset(execution.batch for execution in self.executions if execution.committed) - self.finished


def step_of(batch: int) -> str:
    """Return the name of the step that inserts a batch."""
    return f"{STEP_OF_A_BATCH}{batch}]"


def finished_batches(steps: Iterable[str]) -> frozenset[int]:
    """Return the batches among the names of finished steps."""
    return frozenset(
        int(name.removeprefix(STEP_OF_A_BATCH).removesuffix("]")) for name in steps if name.startswith(STEP_OF_A_BATCH)
    )


def check_rows(expected: Contents, found: Contents) -> list[Check]:
    """No row is missing, doubled or changed."""
    return [
        Check(
            holds=found.rows == expected.rows,
            text=f"{found.rows:,} rows in the table, {expected.rows:,} in the CSV",
        ),
        Check(
            holds=found.distinct == found.rows == expected.distinct,
            text=f"{found.distinct:,} different row numbers among {found.rows:,} rows",
        ),
        Check(
            holds=found.digest == expected.digest,
            text=f"SHA-256: {found.digest[:16]} in the table, {expected.digest[:16]} in the CSV",
        ),
    ]


def check_executions(plan: Plan, moment: Moment, executions: Sequence[Execution]) -> list[Check]:
    """Every batch was executed, and none whose step was finished when the worker died was started again."""
    committed = {execution.batch for execution in executions if execution.committed}
    missing = [batch.index for batch in plan.batches if batch.index not in committed]
    later = executions[len(moment.executions) :]
    again = sorted({execution.batch for execution in later} & moment.finished)
    starts = Counter(execution.batch for execution in executions)
    repeated = sorted(batch for batch, count in starts.items() if count > 1)
    excused = all(batch in moment.interrupted and starts[batch] == 2 for batch in repeated)  # noqa: PLR2004  # once by each worker
    return [
        Check(
            holds=not missing,
            text=f"{len(committed)} of {len(plan.batches)} batches committed" + _among(missing, "missing"),
        ),
        Check(
            holds=not again,
            text=f"{len(moment.finished)} steps were finished when the worker died, "
            f"{len(again)} of them started again" + _among(again, "started again"),
        ),
        Check(holds=excused, text=_repeats(repeated, starts, moment.committed)),
    ]


def check_events(plan: Plan, events: Sequence[Event]) -> list[Check]:
    """The events of the run have no gap, and each batch was completed once."""
    numbers = [event.seq for event in events]
    completed = Counter(event.step for event in events if event.type is EventType.STEP_COMPLETE)
    wrong = [batch.index for batch in plan.batches if completed[step_of(batch.index)] != 1]
    return [
        Check(
            holds=numbers == list(range(1, len(events) + 1)),
            text=f"{len(events)} events of the run, numbered without a gap",
        ),
        Check(
            holds=not wrong,
            text=f"{len(plan.batches) - len(wrong)} of {len(plan.batches)} batches have exactly one step:complete",
        ),
    ]


def _repeats(repeated: Collection[int], starts: Mapping[int, int], committed: Collection[int]) -> str:
    if not repeated:
        return "no step was started twice"
    most = max(starts[batch] for batch in repeated)
    times = "twice" if most == 2 else f"up to {most} times"  # noqa: PLR2004  # the number that the word says
    why = ": it died between commit and checkpoint" if set(repeated) <= set(committed) else ""
    return f"{_names(repeated)} was started {times}{why}"


def _among(batches: Collection[int], what: str) -> str:
    return f" ({what}: {_names(batches)})" if batches else ""


def _names(batches: Collection[int]) -> str:
    shown = ", ".join(step_of(batch) for batch in sorted(batches)[:NAMES_SHOWN])
    return shown if len(batches) <= NAMES_SHOWN else f"{shown} and {len(batches) - NAMES_SHOWN} more"
