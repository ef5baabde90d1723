"""Where the command line is used: closed and full outputs, poor encodings, narrow terminals, other time zones."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from durably import Durably, ValidationError
from durably.cli.commands import app
from durably.cli.opening import read_json
from durably.cli.showing import fitted
from tests.support.terminal import Terminal

PATIENCE = 60
COMMANDS = [("runs",), ("runs", "--json"), ("doctor",), ("version",)]
EMOJI = "\N{GRINNING FACE}"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Give a database with a run whose label not every encoding has, and that starts at the end of time."""
    url = f"sqlite:///{tmp_path}/jobs.db"

    async def fill() -> None:
        async with Durably(url) as durably:
            await durably.set_limit(EMOJI, 2)
            await durably.trigger("far", labels={"a": EMOJI}, run_at=datetime.max.replace(tzinfo=UTC))

    asyncio.run(fill())
    return url


def shell(url: str, text: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Let bash execute a line, where `durably` is the command line."""
    line = f'durably() {{ "{sys.executable}" -m durably.cli "$@"; }}; {text}'
    given = os.environ | {"DURABLY_URL": url} | dict(env or {})
    command = ["bash", "-c", line]
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_output_that_is_closed_is_no_error(url: str, command: tuple[str, ...]) -> None:
    done = shell(url, f"durably {' '.join(command)} >&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_output_that_is_full_is_one_line(url: str, command: tuple[str, ...]) -> None:
    done = shell(url, f"durably {' '.join(command)} > /dev/full")
    assert (done.returncode, done.stderr) == (1, "durably: the output cannot be written: No space left on device\n")


def test_an_input_that_is_closed_is_empty(url: str) -> None:
    done = shell(url, "durably trigger far - <&-")
    assert done.returncode == 1
    assert done.stderr.startswith("durably: JSON: this is no JSON")
    done = shell(url, "durably purge --older-than 0s <&-")
    assert (done.returncode, done.stdout) == (0, "0\n")


def test_an_input_that_is_no_text_is_named(url: str) -> None:
    done = shell(url, r"printf '\xff' | durably trigger far -", {"PYTHONIOENCODING": "utf-8:strict"})
    assert done.returncode == 1
    assert done.stderr.startswith("durably: JSON: what comes from standard input is no text")


@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_what_the_encoding_lacks_is_escaped(url: str, env: dict[str, str]) -> None:
    done = shell(url, "durably limits", env)
    assert (done.returncode, done.stdout) == (0, "\\U0001f600\t2\t0\t0\n")
    done = shell(url, "durably runs --json", env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["labels"] == {"a": EMOJI}


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_a_time_that_a_zone_does_not_have_is_shown_in_utc(url: str, tmp_path: Path, zone: str) -> None:
    with Terminal("runs", cwd=tmp_path, env={"DURABLY_URL": url, "TZ": zone}, columns=160) as view:
        assert view.ended() == 0
        assert "waits until 9999-12-31" in view.text


@pytest.mark.parametrize("columns", [1, 40])
def test_a_terminal_may_be_narrow(url: str, tmp_path: Path, columns: int) -> None:
    for command in ("runs", "limits"):
        with Terminal(command, cwd=tmp_path, env={"DURABLY_URL": url}, columns=columns) as view:
            assert view.ended() == 0


def test_a_narrow_table_keeps_its_first_column_whole_and_drops_the_others() -> None:
    needed = {"run": 36, "job": 60, "status": 9, "progress": 8, "created": 19, "took": 6, "what": 60}
    assert list(fitted(needed, width=200)) == list(needed)
    assert list(fitted(needed, width=80)) == ["run", "job", "status", "what"]
    assert list(fitted(needed, width=60)) == ["run", "job", "status"]
    assert list(fitted(needed, width=50)) == ["run", "status"]
    assert list(fitted(needed, width=10)) == ["run"]
    for width in range(36, 250):
        made = fitted(needed, width=width)
        assert made["run"] == 36
        assert sum(made.values()) + 3 * (len(made) - 1) <= width


def test_a_question_is_asked_where_ctrl_c_ends_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop takes the first Ctrl-C for itself, and has no turn while somebody is asked."""
    asked = list[str]()

    async def end() -> None:
        async with Durably(url) as durably:
            [run] = await durably.get_runs()
            await durably.cancel(run)

    def ask(question: str) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        asked.append(question)

    asyncio.run(end())
    monkeypatch.setattr("durably.cli.acting._ask", ask)
    monkeypatch.setenv("DURABLY_URL", url)
    result = CliRunner().invoke(app, ["purge", "--older-than", "0s"])
    assert (result.exit_code, result.stdout) == (0, "1\n")
    assert asked == ["Delete 1 runs with their steps and logs?"]


READS = """
import os, signal, sys
class Keyboard:
    def read(self):
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
sys.stdin, sys.argv = Keyboard(), ["durably", "trigger", "far", "-"]
from durably.cli import main
main()
"""


def test_ctrl_c_ends_the_reading_of_an_input(url: str) -> None:
    command = [sys.executable, "-c", READS]
    done = subprocess.run(
        command, env=os.environ | {"DURABLY_URL": url}, capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr


def test_json_that_is_nested_too_deeply_is_named() -> None:
    with pytest.raises(ValidationError, match="nested too deeply"):
        read_json("[" * 100_000, field="JSON")
