"""Any CSV file is read, or says what is wrong with it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.source import BadCsv, column_names, make_plan, read_all, read_batch


def write(folder: Path, content: str | bytes) -> str:
    path = folder / "people.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "people.csv is empty"),
        ("\n\n", "people.csv is empty"),
        ("\ufeff", "people.csv is empty"),
        ("id,name\n", "has a header, but no rows below it"),
        ("id,name\n1,Zoë\n".encode("latin-1"), "line 2, is not UTF-8 (byte 0xeb): save it as UTF-8"),
        ("id,name\n1,Zoe\n".encode("utf-16"), "has NUL bytes: is it UTF-16"),
        (b"id,name\n1,\0\n", "line 2, has NUL bytes"),
        ("id,name\n1," + "x" * 200_000, "line 2: field larger than field limit"),
        (",".join(["c"] * 401) + "\n1\n", "has 401 columns; this demo takes at most 400"),
    ],
)
def test_a_bad_file_is_explained(tmp_path: Path, content: str | bytes, complaint: str) -> None:
    with pytest.raises(BadCsv) as caught:
        make_plan(write(tmp_path, content))
    assert complaint in str(caught.value)


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BadCsv, match=r"there is no file .*nowhere\.csv"):
        make_plan(str(tmp_path / "nowhere.csv"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadCsv, match="cannot be read: Is a directory"):
        make_plan(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "columns", "rows"),
    [
        ("id,name\n1,Ada\n", ("id", "name"), [("1", "Ada")]),
        ("\ufeffid;name\r\n1;Ada, Lovelace\r\n", ("id", "name"), [("1", "Ada, Lovelace")]),
        ("id\tname\n1\tAda", ("id", "name"), [("1", "Ada")]),
        ('id,"a;b;c"\n1,"two\nlines"\n\n2,\n', ("id", "a_b_c"), [("1", "two\nlines"), ("2", "")]),
        ("id\n1\n2,more\n", ("id", "column_2"), [("1", None), ("2", "more")]),
    ],
)
def test_a_file_is_read(tmp_path: Path, content: str, columns: tuple[str, ...], rows: list[tuple[str | None]]) -> None:
    plan = make_plan(write(tmp_path, content))
    assert plan.columns == columns
    assert [row for batch in plan.batches for row in read_batch(plan, batch)] == rows
    assert list(read_all(plan)) == rows


def test_columns_get_names_of_their_own() -> None:
    header = ["Full name", "full-name", "row_number", "", "2nd", "Straße", "x" * 99]
    names = ("full_name", "full_name_2", "row_number_2", "column_4", "column_2nd", "stra_e", "x" * 40, "column_8")
    assert column_names(header, 8) == names


def test_a_file_that_became_shorter_is_noticed(tmp_path: Path) -> None:
    plan = make_plan(write(tmp_path, "id\n1\n2\n"))
    write(tmp_path, "id\n1\n")
    with pytest.raises(BadCsv, match="has become shorter"):
        read_batch(plan, plan.batches[1])


@pytest.mark.parametrize(("rows", "batches"), [(1, 1), (99, 99), (100, 100), (250, 100)])
def test_rows_are_divided_evenly(tmp_path: Path, rows: int, batches: int) -> None:
    plan = make_plan(write(tmp_path, "id\n" + "1\n" * rows))
    sizes = {batch.rows for batch in plan.batches}
    assert len(plan.batches) == batches
    assert sum(batch.rows for batch in plan.batches) == rows
    assert max(sizes) - min(sizes) <= 1


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.lists(cells, min_size=2, max_size=3), min_size=1, max_size=30))
def test_batches_hold_what_the_file_holds(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "any.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *rows])
    plan = make_plan(str(path))
    read = [row for batch in plan.batches for row in read_batch(plan, batch)]
    assert read == list(read_all(plan)) == [(*row, *[None] * (3 - len(row))) for row in rows]
