"""The code of the guide and of the pages beside it runs from top to bottom, and prints what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ["guide", "sync", "transactions"]
RUNNER = """
import ast, asyncio, inspect, sys
code = compile(open(sys.argv[1], encoding="utf-8").read(), "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
found = eval(code, globals())  # a coroutine where the page awaits something
if found is not None:
    asyncio.run(found)
"""


def code_of(text: str) -> str:
    """Return the Python blocks, with all other lines emptied, so that errors name lines of the guide."""
    is_code = False
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("```"):
            is_code = line == "```python"
        lines.append(line if is_code and not line.startswith("```") else "")
    return "\n".join(lines)


def promised(code: str) -> list[str]:
    """Return what stands behind the prints, or below them as comments of their own."""
    return re.findall(r"^(?:.*\bprint\(.*\)  )?# (.+)$", code, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_and_prints_what_it_says(page: str, tmp_path: Path) -> None:
    code = code_of((DOCS / f"{page}.md").read_text("utf-8"))
    script = tmp_path / "page.py"
    script.write_text(code, "utf-8")
    command = [sys.executable, "-c", RUNNER, str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == promised(code)


def test_a_promise_is_found() -> None:
    code = "print(f(1))  # 2\nx = 1  # a comment\nprint(2)\n    # indented\n# 2\n"
    assert promised(code) == ["2", "2"]
