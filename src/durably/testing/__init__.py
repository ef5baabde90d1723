"""For tests of your own jobs: a harness that runs them without a worker and without real time, and fake steps."""

from durably.testing.clock import ManualClock
from durably.testing.fakes import FakeStep, FakeSyncStep
from durably.testing.harness import Harness, harness
from durably.testing.report import ExecutionReport, RunReport, StepCall
from durably.testing.script import REAL, ScriptError, in_turn

__all__ = [
    "REAL",
    "ExecutionReport",
    "FakeStep",
    "FakeSyncStep",
    "Harness",
    "ManualClock",
    "RunReport",
    "ScriptError",
    "StepCall",
    "harness",
    "in_turn",
]
