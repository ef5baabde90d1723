"""The simulation of a seed, played and judged."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace

from durably.testing import Memory
from tests.simulation.check_calls import CallChecker
from tests.simulation.check_code import CodeChecker
from tests.simulation.check_rows import Ledger, unique
from tests.simulation.history import AUDIT
from tests.simulation.stage import Stage

_MEMORY = Memory(AUDIT)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one seed."""

    seed: int | str
    findings: tuple[str, ...]
    digest: str
    """Of the whole trace."""
    trace: tuple[str, ...]
    faults: dict[str, int]
    checked: dict[str, int]
    """How much there was to check."""

    def without_trace(self) -> Verdict:
        """The same, but short."""
        return replace(self, trace=())


def judge(seed: int | str, memory: Memory = _MEMORY) -> Verdict:
    """Play the simulation of a seed and check what happened. The same seed gives the same verdict and trace.

    `memory` lends the database, which has to be made with `AUDIT`; what was played on it before does not matter.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        stage = Stage(seed, memory)
        try:
            return _judge(stage)
        finally:
            stage.close()
    finally:
        logging.disable(before)


def judge_many(first: int, count: int) -> list[Verdict]:
    """The verdicts on so many seeds, without traces."""
    return [judge(seed).without_trace() for seed in range(first, first + count)]


def _judge(stage: Stage) -> Verdict:
    try:
        findings = stage.play()
    except Exception as error:  # noqa: BLE001  # a loop that spins, a fault of the database: findings too
        findings = [f"end: {type(error).__name__}: {error}"]
    findings += [f"fault: {fault}" for fault in stage.faults]
    for process in stage.world.processes:
        findings += [f"fault: in {process.name}: {failure}" for loop in process.loops for failure in loop.failures]
    ledger = Ledger(stage.history, stage.profile)
    code = CodeChecker(stage.history, ledger, stage.profile, stage.trouble)
    calls = CallChecker(stage.history, ledger)
    trace = tuple(stage.world.trace)
    return Verdict(
        seed=stage.seed,
        findings=tuple(unique([*findings, *ledger.findings, *code.findings, *calls.findings])),
        digest=hashlib.sha256("\n".join(trace).encode()).hexdigest(),
        trace=trace,
        faults=dict(stage.trouble.counts),
        checked=_counts(stage, ledger),
    )


def _counts(stage: Stage, ledger: Ledger) -> dict[str, int]:
    history = stage.history
    return {
        "runs": len(ledger.inserted),
        "steps stored": len(ledger.stored),
        "steps taken over": ledger.counts["steps taken over"],
        "steps in threads": sum(effect.kind == "start thread" for effect in history.effects),
        "leases": len(ledger.leases),
        "takeovers": len(ledger.takeovers),
        "events heard": len(history.heard),
        "transactions": stage.database.transaction,
        "transactions of users": len(history.visits),
        "runs purged": ledger.counts["runs purged"],
        "events purged": len(ledger.purged),
        "seconds of virtual time": round(stage.world.now),
    }
