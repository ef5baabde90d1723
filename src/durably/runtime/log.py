"""`step.log`: lines that go to standard logging and to the run's own log.

The run's log takes INFO and above, and DEBUG where the logger `durably.job` is enabled for it. Lines between steps
of a replay are not stored again. A line that cannot be formatted or stored as it is never fails the job.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Protocol

from durably.codec import to_json
from durably.model import LogEntry, LogLevel
from durably.rules.outcome import capture, printable

MAX_MESSAGE_BYTES = 100_000
MAX_DATA = 100_000

_logger = logging.getLogger("durably.job")
_TAKEN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class StepLog(logging.LoggerAdapter[logging.Logger]):
    """A LoggerAdapter; `extra={...}` becomes the line's data, `exc_info` its traceback."""

    def __init__(self, write: Callable[[LogEntry], None], describe: Callable[[], Mapping[str, object]]) -> None:
        """`describe` says which run and step is logging, for the records of standard logging."""
        super().__init__(_logger, {})
        self._write = write
        self._describe = describe

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:  # noqa: ANN401 - as the base class has it
        """Add the run and the step to the record."""
        given: Mapping[str, object] = kwargs.get("extra") or {}
        extra = {_free(name): value for name, value in given.items()}
        kwargs["extra"] = {**extra, **self._describe()}
        return msg, kwargs

    def describe(self) -> Mapping[str, object]:
        """What the code that calls this belongs to: `run_id`, `job`, `step`, `attempt`, `replay`."""
        return self._describe()

    def write(self, level: int, message: str, data: dict[str, object]) -> None:
        """Store a line of another logger in the run's log, if its time has not passed."""
        self._write(_entry(level, message, data))

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Log one line. The methods `debug`, `info`, `warning`, `error` and `exception` come here."""
        if level >= logging.INFO or self.isEnabledFor(level):
            data = dict(kwargs.get("extra") or {})
            if trace := _traceback(kwargs.get("exc_info")):
                data["exception"] = trace
            self._write(_entry(level, _message(msg, args), data))
        # one frame more: the record names the line of the job
        super().log(level, msg, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})


class HasLog(Protocol):
    """What a job gets: its log is made when it is first asked for."""

    @property
    def log(self) -> StepLog:
        """The log of the run."""
        ...


current: ContextVar[HasLog | None] = ContextVar("durably_log", default=None)
"""Whose code this is, in whatever task or thread that code started; None outside runs."""


def _entry(level: int, message: str, data: dict[str, object]) -> LogEntry:
    return LogEntry(level=_level(level), message=printable(message, max_bytes=MAX_MESSAGE_BYTES), data_json=_data(data))


def _free(name: str) -> str:
    """A name for an attribute of a record that logging does not refuse: it keeps some for itself."""
    return f"{name}_" if name in _TAKEN else name


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
    return text


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
