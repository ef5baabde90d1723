"""durably in uvloop's event loop: W1 and W2."""

from __future__ import annotations

from bench.subjects.ours import repeat
from bench.task import Answer, Task, serve
from durably.cli.loops import Loop, run


def work(task: Task) -> Answer:
    """Measure as `ours` does."""
    return run(repeat(task), Loop.UVLOOP)


if __name__ == "__main__":
    serve(work)
