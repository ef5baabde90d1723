"""durably in uvloop's event loop: W1 and W2."""

from __future__ import annotations

import importlib
from typing import Any

from bench.subjects.ours import repeat
from bench.task import Answer, Task, serve


def work(task: Task) -> Answer:
    """Measure as `ours` does."""
    uvloop: Any = importlib.import_module("uvloop")
    return dict(uvloop.run(repeat(task)))


if __name__ == "__main__":
    serve(work)
