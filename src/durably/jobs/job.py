"""`@job` makes a job of a function, with a name, types and defaults; `JobRef` names one elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Generic, Never, TypeAlias, TypeVar, get_args, overload

from durably.codec import PLAIN_JSON, Codec, PlainJson, codec_for
from durably.errors import UsageError
from durably.model import IfPending, Labels
from durably.rules.naming import (
    check_delay,
    check_if_pending,
    check_job_name,
    check_key,
    check_labels,
    check_priority,
)
from durably.rules.signature import read_signature

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")
ValueT = TypeVar("ValueT")

# Any: a decorator's arguments are checked before the function is seen, so `lambda i: i.path` cannot be typed.
Given: TypeAlias = ValueT | Callable[[Any], ValueT]
"""A value, or a function of the decoded input that returns one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a trigger uses where its caller says nothing."""

    idempotency_key: Given[str | None] = None
    concurrency_key: Given[str | None] = None
    if_pending: Given[IfPending] = "queue"
    labels: Given[Labels] = field(default_factory=dict[str, str])
    priority: Given[int] = 0
    delay: Given[timedelta | None] = None

    def __post_init__(self) -> None:
        """Check the values that are known already."""
        for name in ("idempotency_key", "concurrency_key"):
            if not callable(key := getattr(self, name)) and key is not None:
                check_key(key, field=name)
        if not callable(self.if_pending):
            check_if_pending(self.if_pending, concurrency_key="known when it is triggered")
        if not callable(self.labels):
            check_labels(self.labels)
        if not callable(self.priority):
            check_priority(self.priority)
        if not callable(self.delay) and self.delay is not None:
            check_delay(self.delay)


NO_DEFAULTS = Defaults()


class Target(ABC, Generic[InputT, OutputT]):
    """What can be triggered: a `Job`, or a `JobRef` to one whose code is elsewhere."""

    def __init__(self, name: str, *, defaults: Defaults, label_type: object = None) -> None:
        self.name = check_job_name(name)
        self.defaults = NO_DEFAULTS if defaults == NO_DEFAULTS else defaults
        self.label_codec: Codec[Any] | None = None if label_type is None else codec_for(label_type)

    @property
    @abstractmethod
    def input_codec(self) -> Codec[InputT]:
        """How its input is stored."""

    @property
    @abstractmethod
    def output_codec(self) -> Codec[OutputT]:
        """How what it returns is stored."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class Job(Target[InputT, OutputT]):
    """A function that workers run under a name. Made by `@job`; `fn` is the function as it was written."""

    def __init__(
        self,
        name: str,
        fn: Callable[..., object],
        *,
        defaults: Defaults | None = None,
        label_type: object = None,
        preserve_steps: bool = True,
    ) -> None:
        super().__init__(name, defaults=defaults or NO_DEFAULTS, label_type=label_type)
        signature = read_signature(name, fn)
        self.fn: Callable[..., Any] = fn
        self.is_async = signature.is_async
        self.takes_input = signature.takes_input
        self.preserve_steps = preserve_steps
        self.__doc__ = fn.__doc__
        try:
            self._input_codec: Codec[InputT] = codec_for(signature.input_type)
            self._output_codec: Codec[OutputT] = codec_for(signature.output_type)
        except UsageError as error:
            raise UsageError(f"job {name!r}: {error}") from error

    @property
    def input_codec(self) -> Codec[InputT]:
        """How its input is stored: by the annotation of its second parameter."""
        return self._input_codec

    @property
    def output_codec(self) -> Codec[OutputT]:
        """How what it returns is stored: by its return annotation, else as plain JSON."""
        return self._output_codec

    def call(self, step: object, input: InputT) -> Any:  # noqa: ANN401 - a coroutine or a value, as `is_async` says
        """Call the function: with the input if it takes one. An async job returns a coroutine."""
        return self.fn(step, input) if self.takes_input else self.fn(step)


class JobRef(Target[InputT, OutputT]):
    """A job whose code is elsewhere: `JobRef[TrainInput, TrainOutput]("train")`, or `input=` and `output=`.

    `JobRef[object, object]("train")` takes and gives plain JSON. Defaults of the job are not known here.
    """

    def __init__(
        self,
        name: str,
        *,
        input: type[InputT] | PlainJson = PLAIN_JSON,
        output: type[OutputT] | PlainJson = PLAIN_JSON,
    ) -> None:
        super().__init__(name, defaults=NO_DEFAULTS)
        self._types: tuple[object, object] = (input, output)

    @cached_property
    def _parameters(self) -> tuple[object, object]:
        """The types given as arguments, else those in brackets, which Python notes after `__init__`."""
        bracketed = get_args(getattr(self, "__orig_class__", None))
        known = [PLAIN_JSON if isinstance(tp, TypeVar) else tp for tp in bracketed] or [PLAIN_JSON] * 2
        given = (tp if tp is not PLAIN_JSON else other for tp, other in zip(self._types, known, strict=True))
        return (next(given), next(given))

    @property
    def input_codec(self) -> Codec[InputT]:
        """How its input is stored."""
        return codec_for(self._parameters[0])

    @property
    def output_codec(self) -> Codec[OutputT]:
        """How what it returns is stored."""
        return codec_for(self._parameters[1])


class JobDecorator:
    """What `job(...)` returns: it makes a `Job` of the function below it."""

    def __init__(self, name: str, defaults: Defaults, *, label_type: object, preserve_steps: bool) -> None:
        self._name = name
        self._defaults = defaults
        self._label_type = label_type
        self._preserve_steps = preserve_steps

    # Never: whatever class of step the function takes, the call is the kernel's.
    @overload
    def __call__(self, fn: Callable[[Never, InputT], Coroutine[Any, Any, OutputT]]) -> Job[InputT, OutputT]: ...
    @overload
    def __call__(self, fn: Callable[[Never], Coroutine[Any, Any, OutputT]]) -> Job[None, OutputT]: ...
    @overload
    def __call__(self, fn: Callable[[Never, InputT], OutputT]) -> Job[InputT, OutputT]: ...
    @overload
    def __call__(self, fn: Callable[[Never], OutputT]) -> Job[None, OutputT]: ...
    def __call__(self, fn: Callable[..., object]) -> Job[Any, Any]:
        """Make the job. Raises UsageError, naming the job and the remedy, for what cannot be one."""
        return Job(
            self._name,
            fn,
            defaults=self._defaults,
            label_type=self._label_type,
            preserve_steps=self._preserve_steps,
        )


def job(
    name: str,
    *,
    idempotency_key: Given[str | None] = None,
    concurrency_key: Given[str | None] = None,
    if_pending: Given[IfPending] = "queue",
    labels: Given[Labels] | None = None,
    label_type: object = None,
    priority: Given[int] = 0,
    delay: Given[timedelta | None] = None,
    preserve_steps: bool = True,
) -> JobDecorator:
    """Make a job of an `async def` that takes a Step, or of a `def` that takes a SyncStep.

    Each default is a value or a function of the input; a trigger that names another wins. `labels` of a
    trigger are added to the default ones; `label_type` (a pydantic model, a TypedDict) checks them. With
    `preserve_steps=False` a completed run drops its stored steps. Raises ValidationError for values that no
    run may have.
    """
    defaults = Defaults(
        idempotency_key=idempotency_key,
        concurrency_key=concurrency_key,
        if_pending=if_pending,
        labels={} if labels is None else labels,
        priority=priority,
        delay=delay,
    )
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - @job without parentheses
        raise UsageError('@job needs a name: write @job("import-csv")')
    return JobDecorator(check_job_name(name), defaults, label_type=label_type, preserve_steps=preserve_steps)
