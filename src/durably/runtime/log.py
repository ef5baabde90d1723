"""`step.log`: lines that go to standard logging and to the run's own log.

The run's log takes INFO and above, and DEBUG where the logger `durably.job` is enabled for it. Lines between steps
of a replay are not stored again. A line that cannot be formatted or stored as it is never fails the job.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from durably.codec import to_json
from durably.model import LogEntry, LogLevel
from durably.rules.outcome import capture, printable

MAX_MESSAGE_BYTES = 100_000
MAX_DATA = 100_000

_logger = logging.getLogger("durably.job")


class StepLog(logging.LoggerAdapter[logging.Logger]):
    """A LoggerAdapter; `extra={...}` becomes the line's data, `exc_info` its traceback."""

    def __init__(self, write: Callable[[LogEntry], None], describe: Callable[[], Mapping[str, object]]) -> None:
        """`describe` says which run and step is logging, for the records of standard logging."""
        super().__init__(_logger, {})
        self._write = write
        self._describe = describe

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:  # noqa: ANN401 - as the base class has it
        """Add the run and the step to the record."""
        kwargs["extra"] = {**self._describe(), **(kwargs.get("extra") or {})}
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Log one line. The methods `debug`, `info`, `warning`, `error` and `exception` come here."""
        if level >= logging.INFO or self.isEnabledFor(level):
            data = dict(kwargs.get("extra") or {})
            if trace := _traceback(kwargs.get("exc_info")):
                data["exception"] = trace
            self._write(LogEntry(level=_level(level), message=_message(msg, args), data_json=_data(data)))
        # one frame more: the record names the line of the job
        super().log(level, msg, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})


def _level(level: int) -> LogLevel:
    if level >= logging.ERROR:
        return "error"
    if level >= logging.WARNING:
        return "warning"
    return "info" if level >= logging.INFO else "debug"


def _message(msg: object, args: tuple[object, ...]) -> str:
    record = logging.LogRecord("durably.job", logging.INFO, "", 0, msg, args, None)
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):  # what does not fit its arguments; logging itself reports it
        text = f"{msg} {args}"
    return printable(text, max_bytes=MAX_MESSAGE_BYTES)


def _data(data: dict[str, object]) -> str | None:
    if not data:
        return None
    text = to_json(data, lenient=True)
    return text if len(text) <= MAX_DATA else to_json({"omitted": f"{len(text)} characters of JSON"})


def _traceback(exc_info: object) -> str | None:
    """The traceback that `exc_info` asks for: of an exception, or of the one being handled."""
    if not exc_info:
        return None
    error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
    return None if error is None else capture(error).traceback
