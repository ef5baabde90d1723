"""For tests: virtual time, and simulated processes on a simulated database."""

from durably.testing.faults import Fate, Faults, Loss, NoFaults
from durably.testing.simulated import SimulatedDatabase, SimulatedDurably, SimulatedEnvironment
from durably.testing.virtual_time import Deadlock, VirtualTimeLoop
from durably.testing.world import Process, World

__all__ = [
    "Deadlock",
    "Fate",
    "Faults",
    "Loss",
    "NoFaults",
    "Process",
    "SimulatedDatabase",
    "SimulatedDurably",
    "SimulatedEnvironment",
    "VirtualTimeLoop",
    "World",
]
