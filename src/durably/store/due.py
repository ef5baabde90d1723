"""Runs that wait for their start time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from durably.model import Due
from durably.store.operation import Operation, Rows, Statement, Wake


def release_due(limit: int) -> Operation[Due]:
    """Make due runs claimable. Those whose key comes first are only reported: `admit_due` takes their keys."""

    def decode(results: Sequence[Rows]) -> Due:
        released, keys, following = results
        row: Any = following[0] if following else None
        wait = None if row is None else timedelta(microseconds=int(row["wait_us"]))
        return Due(released=len(released), keys=tuple(str(key["key"]) for key in keys), next_in=wait)

    return Operation(
        statements=(
            Statement("release_due", {"limit": limit}),
            Statement("due_keys", {"limit": limit}),
            Statement("next_due", {}),
        ),
        decode=decode,
    )


def admit_due(keys: Sequence[str]) -> Operation[None]:
    """Put due runs of these keys into the queue of their key, and hand out what is free."""
    return Operation(
        statements=(Statement("hold_due", {"keys": tuple(keys)}),),
        decode=lambda _: None,
        keys=tuple(sorted(keys)),
        wakes=Wake.WORK,
    )
