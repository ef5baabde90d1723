"""The core loads with pydantic alone, and without what a browser lacks."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "durably"
EDGES = {"cli", "cli.py", "http", "dashboard", "contrib", "environment.py"}
LOADED_LATE = {"store/sqlite_wake.py"}  # with the first database in a file: a browser's is in memory
ABSENT_IN_BROWSERS = {"threading", "socket", "signal", "subprocess", "pwd", "resource"}
EXTRAS = ["asyncpg", "httpx", "starlette", "typer", "rich", "opentelemetry"]
LOAD_WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import durably
"""


def load_without(*modules: str) -> str:
    """Import durably in a new process in which `modules` are missing. Returns its complaint, "" if none."""
    command = [sys.executable, "-c", LOAD_WITHOUT, *modules]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stderr


def core_modules() -> list[Path]:
    return [
        path
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in EDGES and path.relative_to(PACKAGE).as_posix() not in LOADED_LATE
    ]


def imported_at_load(source: str) -> Iterator[str]:
    """Yield the names of the modules that a module imports as it is loaded, so not within functions."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)


def test_the_core_loads_without_any_extra() -> None:
    assert load_without(*EXTRAS) == ""


def test_a_missing_module_would_be_seen() -> None:
    assert "durably is blocked" in load_without("durably")


@pytest.mark.parametrize("path", core_modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_core_module_loads_nothing_that_browsers_lack(path: Path) -> None:
    assert not ABSENT_IN_BROWSERS & set(imported_at_load(path.read_text("utf-8")))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import socket.x, os", {"socket", "os"}),
        ("from signal import SIGTERM", {"signal"}),
        ("try:\n    import pwd\nexcept ImportError:\n    pass", {"pwd"}),
        ("class C:\n    import resource", {"resource"}),
        ("def f():\n    import threading", set[str]()),
        ("if TYPE_CHECKING:\n    import threading\nelse:\n    import os", {"os"}),
        ("from .signal import x", set[str]()),
    ],
)
def test_imports_at_load_are_found(source: str, expected: set[str]) -> None:
    assert set(imported_at_load(source)) == expected


def test_modules_that_are_loaded_late_are_not_loaded_with_the_core() -> None:
    code = "import sys, durably; print([name for name in sys.modules if name.endswith('sqlite_wake')])"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip() == "[]"
