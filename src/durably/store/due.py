"""What there is to do, in one look; runs whose start time has come, and what users did in transactions of their own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from durably.model import Due, Outlook
from durably.store.operation import Operation, Rows, Statement, Wake


def look(jobs: Sequence[str], *, max_crashes: int) -> Operation[Outlook]:
    """What there is to do for a worker of these jobs. Writes nothing, whatever it finds."""

    def decode(results: Sequence[Rows]) -> Outlook:
        row: Any = results[0][0]
        return Outlook(
            claimable=bool(row["claimable"]),
            expired=bool(row["expired"]),
            crashed=bool(row["crashed"]),
            due=bool(row["due"]),
            next_due=None if row["wait_us"] is None else timedelta(microseconds=int(row["wait_us"])),
        )

    return Operation(
        statements=(Statement("look", {"jobs": tuple(jobs), "max_crashes": max_crashes}),),
        decode=decode,
        readonly=True,
    )


def release_due(limit: int) -> Operation[Due]:
    """Make due runs claimable. Those whose key comes first are only reported: `admit_due` takes their keys.

    So are the keys of runs that were triggered, or cancelled in their slot, in transactions of users.
    """

    def decode(results: Sequence[Rows]) -> Due:
        released, *several = results
        return Due(released=len(released), keys=tuple(sorted({str(key["key"]) for keys in several for key in keys})))

    names = ("release_due", "due_keys", "keys_of_inside")
    return Operation(statements=tuple(Statement(name, {"limit": limit}) for name in names), decode=decode)


def admit_due(keys: Sequence[str]) -> Operation[None]:
    """Put due runs of these keys into the queue of their key, and hand out what is free.

    The same for what users did in transactions of their own: their runs, and the slots that they gave up.
    """
    names = ("hold_due", "admit_inside", "free_inside")
    return Operation(
        statements=tuple(Statement(name, {"keys": tuple(keys)}) for name in names),
        decode=lambda _: None,
        keys=tuple(sorted(keys)),
        wakes=Wake.WORK,
    )
