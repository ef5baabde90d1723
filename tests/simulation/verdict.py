"""The simulation of a seed, played and judged."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace

from tests.simulation.check_calls import CallChecker
from tests.simulation.check_code import CodeChecker
from tests.simulation.check_rows import Ledger, unique
from tests.simulation.stage import Stage


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one seed."""

    seed: int | str
    findings: tuple[str, ...]
    digest: str
    """Of the whole trace."""
    trace: tuple[str, ...]
    transactions: int
    seconds: float
    """Of virtual time."""
    faults: dict[str, int]

    def without_trace(self) -> Verdict:
        """The same, but short."""
        return replace(self, trace=())


def judge(seed: int | str) -> Verdict:
    """Play the simulation of a seed and check what happened. The same seed gives the same verdict and trace."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    stage = Stage(seed)
    try:
        return _judge(stage)
    finally:
        stage.close()
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
    ledger = Ledger(stage.history)
    code = CodeChecker(stage.history, ledger, stage.profile, stage.trouble.intervals)
    calls = CallChecker(stage.history, ledger)
    trace = tuple(stage.world.trace)
    return Verdict(
        seed=stage.seed,
        findings=tuple(unique([*findings, *ledger.findings, *code.findings, *calls.findings])),
        digest=hashlib.sha256("\n".join(trace).encode()).hexdigest(),
        trace=trace,
        transactions=stage.database.transaction,
        seconds=stage.world.now,
        faults=dict(stage.trouble.counts),
    )
