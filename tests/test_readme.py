"""The README keeps its word: its script survives a crash when it is pasted, and the tests that it names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
RECIPIENTS = ["ada", "alan", "barbara", "edsger", "grace"]
SENT = [f"sending 'hello' to {recipient}" for recipient in RECIPIENTS]
RESULT = "sent to 5 people"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Save the script in an empty folder, as its readers do."""
    [code] = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    path = tmp_path / "newsletter.py"
    path.write_text(code, "utf-8")
    return path


def run(script: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, script.name], cwd=script.parent, capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_script_runs_and_a_second_time_does_nothing_again(script: Path) -> None:
    assert run(script) == [*SENT, RESULT]
    assert run(script) == [RESULT]


def test_the_script_goes_on_after_a_crash(script: Path) -> None:
    command = [sys.executable, script.name]
    with subprocess.Popen(command, cwd=script.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(3)] == SENT[:3]
        process.kill()
    assert run(script) == [*SENT[2:], RESULT]


def guarantees() -> list[tuple[str, str]]:
    """Return the rows of the table: the number, and the column of tests."""
    return re.findall(r"^\| (G\d+) .*\|([^|]*)\|$", README, re.MULTILINE)


def test_every_guarantee_is_in_the_table() -> None:
    assert [number for number, _ in guarantees()] == [f"G{number}" for number in range(1, 15)]


@pytest.mark.parametrize(("number", "tests"), guarantees())
def test_the_tests_of_a_guarantee_exist(number: str, tests: str) -> None:
    names = re.findall(r"`([^`]+)`", tests)
    assert names
    assert [name for name in names if not (ROOT / "tests" / f"{name}.py").is_file()] == [], number


def test_the_files_that_the_readme_links_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
