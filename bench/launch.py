"""Runs one measurement in a process of its own and reads its answer; a process that fails is a reason, not an error."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.settings import ROOT
from bench.systems import System
from bench.task import MARK, Answer, Task

PATIENCE_SECONDS = 60.0
"""How long a process may take beyond its own time: it starts, makes its tables and fills its queue."""
SOURCES = ROOT / "bench" / "peers" / "durably_ts"


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no answer."""

    reason: str


def is_installed(system: System) -> bool:
    """Whether the system's environment was set up."""
    return not system.environment or (ROOT / system.environment / ".packages").exists()


def launch(system: System, task: Task) -> Answer | Failed:
    """Measure, in the system's own environment."""
    if not is_installed(system):
        return Failed("not installed here")
    with tempfile.TemporaryDirectory(prefix="durably-bench-") as folder:
        report = str(Path(folder) / "started.json")
        process = subprocess.Popen(
            [*_program(system), task.to_json(), report],
            cwd=ROOT if system.module.startswith("bench.") else ROOT / system.environment,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=PATIENCE_SECONDS + 3 * task.seconds)
        except subprocess.TimeoutExpired:
            return Failed("took too long")
        finally:
            _end(process)
    return _answer(output, errors, process.returncode)


def _program(system: System) -> list[str]:
    if not system.module.endswith(".mjs"):
        python = ROOT / system.environment / "bin" / "python" if system.environment else sys.executable
        return [str(python), "-m", system.module]
    shutil.copy2(SOURCES / system.module, ROOT / system.environment)
    return ["node", system.module]


def clean_environment() -> dict[str, str]:
    """Without what steers Python, PostgreSQL's clients and the systems themselves from outside."""
    prefixes = ("PG", "PYTHON", "DURABLY_", "DBOS_", "ABSURD_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1"}


def _end(process: subprocess.Popen[str]) -> None:
    """End the process with all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _answer(output: str, errors: str, code: int) -> Answer | Failed:
    for line in reversed(output.splitlines()):
        if line.startswith(MARK):
            answer: Answer = json.loads(line.removeprefix(MARK))
            return answer
    last = (errors.strip() or output.strip() or "no output").splitlines()[-1]
    return Failed(f"exit code {code}: {_without_paths(last)}"[:200])


def _without_paths(line: str) -> str:
    """Folders of this machine are of no interest to readers."""
    return line.replace(str(ROOT), ".").replace(str(Path.home()), "~").replace(tempfile.gettempdir(), "(tmp)")
