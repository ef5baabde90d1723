"""Many new runs that say nothing but their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import overload

from durably.model.seen import NewRun


class PlainRuns(Sequence[NewRun]):
    """Runs of one job that say nothing but their inputs, as columns. A `NewRun` is made when it is asked for."""

    def __init__(self, job: str, ids: Sequence[str], inputs: Sequence[str]) -> None:
        self._job = job
        self._ids = ids
        self._inputs = inputs

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Id, job and input of each."""
        return zip(self._ids, repeat(self._job, len(self._ids)), self._inputs, strict=True)

    def __iter__(self) -> Iterator[NewRun]:
        for run_id, job, text in self.rows():
            yield NewRun(id=run_id, job=job, input_json=text)

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> NewRun: ...
    @overload
    def __getitem__(self, index: slice) -> PlainRuns: ...
    def __getitem__(self, index: int | slice) -> NewRun | PlainRuns:
        if isinstance(index, slice):
            return PlainRuns(self._job, self._ids[index], self._inputs[index])
        return NewRun(id=self._ids[index], job=self._job, input_json=self._inputs[index])
