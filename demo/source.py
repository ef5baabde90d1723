"""The CSV file: what is in it, and where its batches begin. Nothing here knows a database.

A file is read from front to back once, to check it and to note at which byte each batch starts; after that a batch
is read alone, however large the file is.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import IO

Row = tuple[str | None, ...]

MAX_BATCHES = 100
MAX_COLUMNS = 400  # PostgreSQL keeps a row on one page
MAX_NAME = 40
DELIMITERS = ",;\t|"
UTF8_MARK = b"\xef\xbb\xbf"
ROW_NUMBER = "row_number"


class BadCsv(Exception):
    """The file cannot be imported; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some rows that stand together in the file."""

    index: int
    first_row: int
    """The number of its first row; rows are counted from 1."""
    rows: int
    offset: int
    """The byte at which it starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a file is imported."""

    path: str
    delimiter: str
    columns: tuple[str, ...]
    """Names that every database takes without quotes."""
    rows: int
    batches: tuple[Batch, ...]


def make_plan(path: str) -> Plan:
    """Check the whole file and divide it into batches. Raises BadCsv."""
    delimiter = find_delimiter(path)
    offsets, width, header = array("q"), 0, None
    for offset, record in _records(path, delimiter, 0):
        width = max(width, len(record))
        if header is None:
            header = record
        else:
            offsets.append(offset)
    if header is None:
        raise BadCsv(f"{path} is empty")
    if not offsets:
        raise BadCsv(f"{path} has a header, but no rows below it")
    if width > MAX_COLUMNS:
        raise BadCsv(f"{path} has {width} columns; this demo takes at most {MAX_COLUMNS}")
    return Plan(
        path=path,
        delimiter=delimiter,
        columns=column_names(header, width),
        rows=len(offsets),
        batches=divide(offsets),
    )


def divide(offsets: Sequence[int]) -> tuple[Batch, ...]:
    """Make up to MAX_BATCHES batches of nearly equal size."""
    count = min(len(offsets), MAX_BATCHES)
    bounds = [index * len(offsets) // count for index in range(count + 1)]
    return tuple(
        Batch(index=index, first_row=start + 1, rows=end - start, offset=offsets[start])
        for index, (start, end) in enumerate(pairwise(bounds))
    )


def read_batch(plan: Plan, batch: Batch) -> list[Row]:
    """Return the rows of one batch, each as wide as the table. Raises BadCsv when the file is gone or changed."""
    records = islice(_records(plan.path, plan.delimiter, batch.offset), batch.rows)
    rows = [fill(record, len(plan.columns)) for _, record in records]
    if len(rows) < batch.rows:
        raise BadCsv(f"{plan.path} has become shorter since the import began")
    return rows


def read_all(plan: Plan) -> Iterator[Row]:
    """Yield all rows, read in the plainest way: the import is measured against this."""
    with Path(plan.path).open(encoding="utf-8-sig", newline="") as lines:
        records = (record for record in csv.reader(lines, delimiter=plan.delimiter) if record)
        next(records)  # the header
        for record in records:
            yield fill(record, len(plan.columns))


def fill(record: Sequence[str], width: int) -> Row:
    """Let a row that is shorter than others end in None."""
    return (*record, *[None] * (width - len(record)))


def column_names(header: Sequence[str], width: int) -> tuple[str, ...]:
    """Make a name for every column: `Full name` becomes full_name, `` column_3, a second full_name full_name_2."""
    names: list[str] = []
    taken = {ROW_NUMBER}
    for number in range(1, width + 1):
        title = header[number - 1] if number <= len(header) else ""
        plain = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:MAX_NAME]
        base = plain if plain[:1].isalpha() else f"column_{plain or number}"
        name, copy = base, 1
        while name in taken:
            copy += 1
            name = f"{base}_{copy}"
        taken.add(name)
        names.append(name)
    return tuple(names)


def find_delimiter(path: str) -> str:
    """Return what separates the fields of the first line that is not empty. Raises BadCsv."""
    with _open(path) as file:
        first = next((line for line in _lines(path, file) if line.strip()), "")
    outside_quotes = re.sub(r'"[^"]*"', "", first)
    return max(DELIMITERS, key=outside_quotes.count)


def _records(path: str, delimiter: str, offset: int) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not empty, with the byte at which it starts."""
    with _open(path) as file:
        file.seek(offset)
        reader = csv.reader(_lines(path, file), delimiter=delimiter)
        while True:
            start = file.tell()
            try:
                record = next(reader, None)
            except csv.Error as error:
                raise BadCsv(f"{path}, line {reader.line_num}{_after(offset)}: {error}") from error
            if record is None:
                return
            if record:
                yield start, record


def _after(offset: int) -> str:
    return f" after byte {offset}" if offset else ""


def _lines(path: str, file: IO[bytes]) -> Iterator[str]:
    # `readline`, for iterating over a file reads ahead, and `tell` would not say where a record starts
    for number, line in enumerate(iter(file.readline, b""), start=1):
        if b"\0" in line:
            raise BadCsv(f"{path}, line {number}, has NUL bytes: is it UTF-16, or no text at all? Save it as UTF-8")
        try:
            yield line.removeprefix(UTF8_MARK).decode() if number == 1 else line.decode()
        except UnicodeDecodeError as error:
            byte = line[error.start]
            raise BadCsv(
                f"{path}, line {number}, is not UTF-8 (byte 0x{byte:02x}): save it as UTF-8, "
                f"for example with: iconv -f latin1 -t utf-8"
            ) from error


def _open(path: str) -> IO[bytes]:
    try:
        return Path(path).open("rb")
    except FileNotFoundError as error:
        raise BadCsv(f"there is no file {path}") from error
    except OSError as error:
        raise BadCsv(f"{path} cannot be read: {error.strerror}") from error
