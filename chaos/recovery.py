"""How long the death of each worker was felt: read from what was noted, when all is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chaos.audit import Change
from chaos.record import Record


def measure_takeovers(record: Record) -> None:
    """Set the recovery of each fault of one worker: from its death until somebody else had all of its runs.

    A worker that held no run has none.
    """
    faults = {fault.pid: fault for fault in record.faults if fault.pid is not None and fault.is_measured}
    pids = {(deed.run, deed.generation): deed.pid for deed in record.deeds}
    for change, generation in _lost(record.changes):
        fault = faults.get(pids.get((change.run, generation), 0))
        if fault is not None and change.at > fault.at:
            fault.recovery = max(fault.recovery or 0.0, change.at - fault.at)


def _lost(changes: Sequence[Change]) -> Iterator[tuple[Change, int]]:
    """The changes that ended a lease, and its generation."""
    for change in changes:
        old, new = change.old, change.new
        if change.kind != "run" or old is None or new is None or old["status"] != "leased":
            continue
        if (new["status"], new["generation"]) != ("leased", old["generation"]):
            yield change, old["generation"]
