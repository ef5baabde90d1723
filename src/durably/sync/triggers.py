"""Making runs: one, many, again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar, Unpack, overload

from durably.jobs import Target
from durably.model import Run
from durably.runtime.bulk import TriggerItem
from durably.runtime.trigger import TriggerKeywords
from durably.sync.core import SyncCore

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


class SyncTriggers(SyncCore):
    """The part of `SyncDurably` that makes runs."""

    @overload
    def trigger(
        self,
        job: Target[None, OutputT],
        input: None = None,
        *,
        connection: object = None,
        **options: Unpack[TriggerKeywords],
    ) -> Run[OutputT]: ...
    @overload
    def trigger(
        self,
        job: Target[InputT, OutputT],
        input: InputT,
        *,
        connection: object = None,
        **options: Unpack[TriggerKeywords],
    ) -> Run[OutputT]: ...
    @overload
    def trigger(
        self, job: str, input: object = None, *, connection: object = None, **options: Unpack[TriggerKeywords]
    ) -> Run[object]: ...
    def trigger(
        self,
        job: Target[Any, Any] | str,
        input: object = None,
        *,
        connection: object = None,
        **options: Unpack[TriggerKeywords],
    ) -> Run[Any]:
        """See `Durably.trigger`."""
        if connection is not None:
            return self._durably.trigger_inside(connection, job, input, options)
        return self._portal.call(lambda: self._durably.trigger(job, input, **options))

    @overload
    def trigger_many(
        self, job: Target[InputT, OutputT], items: Iterable[TriggerItem[InputT]], *, connection: object = None
    ) -> list[Run[OutputT]]: ...
    @overload
    def trigger_many(
        self, job: Target[InputT, OutputT], items: Iterable[InputT], *, connection: object = None
    ) -> list[Run[OutputT]]: ...
    @overload
    def trigger_many(self, job: str, items: Iterable[object], *, connection: object = None) -> list[Run[object]]: ...
    def trigger_many(
        self, job: Target[Any, Any] | str, items: Iterable[object], *, connection: object = None
    ) -> list[Run[Any]]:
        """See `Durably.trigger_many`."""
        several = list(items)
        if connection is not None:
            return self._durably.trigger_many_inside(connection, job, several)
        many: Callable[..., Awaitable[list[Run[Any]]]] = self._durably.trigger_many
        return self._portal.call(lambda: many(job, several))

    @overload
    def trigger_and_wait(
        self,
        job: Target[None, OutputT],
        input: None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[TriggerKeywords],
    ) -> OutputT: ...
    @overload
    def trigger_and_wait(
        self,
        job: Target[InputT, OutputT],
        input: InputT,
        *,
        timeout: float | None = None,
        **options: Unpack[TriggerKeywords],
    ) -> OutputT: ...
    @overload
    def trigger_and_wait(
        self, job: str, input: object = None, *, timeout: float | None = None, **options: Unpack[TriggerKeywords]
    ) -> object: ...
    def trigger_and_wait(
        self,
        job: Target[Any, Any] | str,
        input: object = None,
        *,
        timeout: float | None = None,
        **options: Unpack[TriggerKeywords],
    ) -> object:
        """See `Durably.trigger_and_wait`."""
        return self._portal.call(lambda: self._durably.trigger_and_wait(job, input, timeout=timeout, **options))

    @overload
    def retrigger(
        self, run: Run[OutputT], *, from_step: str | None = None, connection: object = None
    ) -> Run[OutputT]: ...
    @overload
    def retrigger(
        self, run: str, *, job: Target[Any, OutputT], from_step: str | None = None, connection: object = None
    ) -> Run[OutputT]: ...
    @overload
    def retrigger(self, run: str, *, from_step: str | None = None, connection: object = None) -> Run[object]: ...
    def retrigger(
        self,
        run: Run[Any] | str,
        *,
        job: Target[Any, Any] | None = None,
        from_step: str | None = None,
        connection: object = None,
    ) -> Run[Any]:
        """See `Durably.retrigger`."""
        if connection is not None:
            return self._durably.retrigger_inside(connection, run, job, from_step)
        again: Any = self._durably.retrigger
        stored: Run[Any] = self._portal.call(lambda: again(run, job=job, from_step=from_step))
        return stored
