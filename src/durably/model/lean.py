"""Values that are made by the thousand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def lean(cls: type[T]) -> type[T]:
    """A dataclass whose fields the type checkers protect; making a frozen one would take three times as long.

    They also ask for names. By position, which takes a third of the time of twenty names, it is made where that counts.
    """
    return dataclass(slots=True)(cls)
