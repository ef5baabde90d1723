"""A worker process: `durably worker demo.app:durably demo.jobs`, and it ends when the demo that started it is gone."""

from __future__ import annotations

import os
import sys
import threading

from durably.cli import main

ARGUMENTS = ("worker", "demo.app:durably", "demo.jobs")


def end_with_starter() -> None:
    """Wait until the pipe from the starter closes; the kernel does that, whatever the starter died of."""
    os.read(sys.stdin.fileno(), 1)  # `sys.stdin.read` would hold a lock that the interpreter wants at its end
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_starter, daemon=True).start()
    sys.argv = ["durably", *ARGUMENTS]
    main()
