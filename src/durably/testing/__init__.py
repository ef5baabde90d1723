"""For tests of your own jobs, and of durably itself.

A harness runs jobs without a worker and without real time; virtual time and simulated processes try whole workers.
"""

from durably.testing.clock import ManualClock
from durably.testing.fakes import FakeStep, FakeSyncStep
from durably.testing.faults import Fate, Faults, Loss, NoFaults
from durably.testing.harness import Harness, harness
from durably.testing.memory import Memory
from durably.testing.report import ExecutionReport, RunReport, StepCall
from durably.testing.script import REAL, ScriptError, in_turn
from durably.testing.served import SimulatedDatabase
from durably.testing.simulated import SimulatedEnvironment
from durably.testing.user import SimulatedConnection, SimulatedDurably
from durably.testing.virtual_time import Deadlock, VirtualTimeLoop
from durably.testing.world import Process, World

__all__ = [
    "REAL",
    "Deadlock",
    "ExecutionReport",
    "FakeStep",
    "FakeSyncStep",
    "Fate",
    "Faults",
    "Harness",
    "Loss",
    "ManualClock",
    "Memory",
    "NoFaults",
    "Process",
    "RunReport",
    "ScriptError",
    "SimulatedConnection",
    "SimulatedDatabase",
    "SimulatedDurably",
    "SimulatedEnvironment",
    "StepCall",
    "VirtualTimeLoop",
    "World",
    "harness",
    "in_turn",
]
