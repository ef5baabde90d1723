"""What no linter checks: small files, small functions, no waiting in tests, no nameless ignores."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ("src", "demo", "tools", "chaos")
ALL_CODE = (*SOURCE, "tests", "bench")
MAX_FILE = 400
MAX_FUNCTION = 50
NAMELESS_IGNORE = re.compile(r"#\s*(noqa(?!:\s*[A-Z]+\d+)|type:\s*ignore(?!\[\w)|pyright:\s*ignore(?!\[\w))")
SLEEPS = {"time.sleep", "asyncio.sleep", "anyio.sleep"}

Check = Callable[[str], Iterator[str]]


def long_file(source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > MAX_FILE:
        yield f"{lines} lines; at most {MAX_FILE}"


def long_functions(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION:
                yield f"{node.lineno}: {node.name} has {lines} lines; at most {MAX_FUNCTION}"


def sleeps(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SLEEPS:
            yields_only = [ast.unparse(argument) for argument in node.args] == ["0"]
            if not yields_only or ast.unparse(node.func) == "time.sleep":
                yield f"{node.lineno}: {ast.unparse(node)}: wait for a condition, or use virtual time"


def nameless_ignores(source: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and NAMELESS_IGNORE.search(token.string):
            yield f"{token.start[0]}: {token.string}: name the rule that is ignored"


def findings(check: Check, folders: tuple[str, ...], suffix: str = ".py") -> list[str]:
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob(f"*{suffix}"))]
    assert files
    return [f"{path.relative_to(ROOT)}:{found}" for path in files for found in check(path.read_text("utf-8"))]


@pytest.mark.parametrize(
    ("check", "folders"),
    [
        pytest.param(long_file, ALL_CODE, id="files"),
        pytest.param(long_functions, SOURCE, id="functions"),
        pytest.param(sleeps, ("tests",), id="sleeps"),
        pytest.param(nameless_ignores, ALL_CODE, id="ignores"),
    ],
)
def test_the_code_keeps_to(check: Check, folders: tuple[str, ...]) -> None:
    assert findings(check, folders) == []


def test_sql_is_kept_in_small_files() -> None:
    assert findings(long_file, ("src",), ".sql") == []


LONG_FUNCTION = "async def f():\n" + "    pass\n" * MAX_FUNCTION


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (long_file, "pass\n" * (MAX_FILE + 1), "pass\n" * MAX_FILE),
        (long_functions, LONG_FUNCTION, LONG_FUNCTION.removesuffix("    pass\n")),
        (sleeps, "time.sleep(0)", "sleep(1)"),
        (sleeps, "asyncio.sleep(0.1)", "asyncio.sleep(0)"),
        (sleeps, "asyncio.sleep(delay)", "'asyncio.sleep(delay)'"),
        (nameless_ignores, "x = 1  # noqa", "x = 1  # noqa: E501 - a reason"),
        (nameless_ignores, "x = 1  # noqa: all of it", "x = 1  # noqa:E501"),
        (nameless_ignores, "x = 1  # type: ignore", "x = 1  # type: ignore[misc]"),
        (nameless_ignores, "x = 1  # pyright: ignore", "x = 1  # pyright: ignore[reportMissing]"),
    ],
)
def test_a_check_finds_what_it_looks_for(check: Check, bad: str, good: str) -> None:
    assert list(check(bad))
    assert not list(check(good))
