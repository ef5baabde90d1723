"""Standard logging and runs: any logger's lines in the run's log, and the run in any logger's lines.

handler = logging.StreamHandler()
handler.addFilter(RunContextFilter())
handler.setFormatter(logging.Formatter("%(levelname)s %(run_id)s %(step)s %(message)s"))
logging.basicConfig(level=logging.INFO, handlers=[handler, RunLogHandler()])
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from durably.rules.outcome import capture
from durably.runtime import log

__all__ = ["RunContextFilter", "RunLogHandler"]

_OURS = "durably"
_OUTSIDE: Final[Mapping[str, object]] = {"run_id": None, "job": None, "step": None, "attempt": None, "replay": False}


class RunLogHandler(logging.Handler):
    """Puts what is logged inside a run, by whatever logger, into the log of that run; the rest it ignores.

    Put it on the root logger, or on those that matter. A line belongs to the step in which it was logged, also in
    threads that `asyncio.to_thread` starts and in tasks. Between steps it is stored by the first execution that comes
    there, not by replays. Lines of `step.log` are stored already, and those of durably itself are not the run's.
    It takes INFO and above unless it is given another `level`, and never raises.
    """

    def __init__(self, level: int | str = logging.INFO) -> None:
        super().__init__(level)

    def emit(self, record: logging.LogRecord) -> None:
        """Store one line. Called by logging."""
        inside = log.current.get()
        if inside is None or record.name == _OURS or record.name.startswith(f"{_OURS}."):
            return
        try:
            data: dict[str, object] = {"logger": record.name}
            error = record.exc_info[1] if record.exc_info else None
            if error is not None and (trace := capture(error).traceback):
                data["exception"] = trace
            inside.log.write(record.levelno, record.getMessage(), data)
        except Exception:  # noqa: BLE001  # as all handlers of the standard library do
            self.handleError(record)


class RunContextFilter(logging.Filter):
    """Adds `run_id`, `job`, `step`, `attempt` and `replay` to every record, so that formats may name them.

    Put it on a handler: the filters of a logger see only what is logged to that very logger. Outside runs they are
    None, and `replay` is False; what is set already stays. `replay` is True between steps of an execution that has not
    yet come as far as an earlier one.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, with its run."""
        inside = log.current.get()
        for name, value in (_OUTSIDE if inside is None else inside.log.describe()).items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True
