"""What the import takes and gives: known to those who trigger it and to those who run it."""

from __future__ import annotations

from dataclasses import dataclass

from durably import JobRef


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportInput:
    """Which file."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOutput:
    """How many rows."""

    rows: int


IMPORT_CSV = JobRef("import-csv", input=ImportInput, output=ImportOutput)
