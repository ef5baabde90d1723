"""The demo as its users start it: it proves what it promises, or says what is wrong, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.bench import eventually

ROOT = Path(__file__).parents[1]
ROWS = 150
PROOF = [
    "ok 150 rows in the table, 150 in the CSV",
    "ok 150 different row numbers among 150 rows",
    "ok SHA-256: (?P<digest>[0-9a-f]{16}) in the table, (?P=digest) in the CSV",
    "ok the job returned 150 rows",
    "ok 100 of 100 batches committed",
    r"ok \d+ steps were finished when the worker died, 0 of them started again",
    r"ok insert\[\d+\] was started twice: it died between commit and checkpoint",
    r"ok \d+ events of the run, numbered without a gap",
    "ok 100 of 100 batches have exactly one step:complete",
]
CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    lines = [f'{number},"Person ""{number}""",{number % 7}' for number in range(ROWS)]
    path.write_text("\n".join(["id,Full name,team", *lines]))
    return path


def command(*arguments: str | Path) -> Sequence[str]:
    return [sys.executable, "-m", "demo", *map(str, arguments)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder for temporary files, open to the user that PostgreSQL runs as."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def run_demo(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TMPDIR": str(folder)}
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


def left_behind(folder: Path, output: str) -> list[object]:
    """Return what is left of the demo: its files, and the processes that its output names."""
    return [*folder.iterdir(), *filter(is_running, workers_of(output))]


def workers_of(output: str) -> list[int]:
    workers = [int(process) for process in re.findall(r"process (\d+)", output)]
    assert len(workers) == 2
    return workers


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()  # a zombie has ended
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return sys.platform != "linux"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_demo_proves_that_nothing_is_lost_or_done_twice(folder: Path, csv_file: Path, database: str) -> None:
    done = run_demo(folder, "--db", database, "--csv", csv_file)
    assert (done.returncode, done.stderr) == (0, "")
    words = " ".join(done.stdout.split())
    assert [line for line in PROOF if not re.search(line, words)] == []
    assert "FAILED" not in words
    assert re.search(r"recovered worker 2 has the run, \d+\.\d s after the kill", words)
    assert CONTROL_CHARACTERS.findall(done.stdout) == []
    assert left_behind(folder, done.stdout) == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "demo: there is no file"),
        (b"", "is empty"),
        (b"id,name\n1,\xe9\n", "is not UTF-8 (byte 0xe9): save it as UTF-8"),
    ],
    ids=["missing", "empty", "latin1"],
)
def test_a_bad_file_is_explained(folder: Path, tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_bytes(content)
    done = run_demo(folder, "--csv", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def start_demo(folder: Path, *arguments: str | Path) -> tuple[subprocess.Popen[str], str]:
    """Start the demo. Returns it, and what it said so far, when its first worker is dead and its second one waits."""
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    demo = subprocess.Popen(command(*arguments), cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)
    lines: list[str] = []
    assert demo.stdout is not None
    for line in demo.stdout:
        lines.append(line)
        if line.startswith("worker 2"):
            break
    return demo, "".join(lines)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_can_be_interrupted(folder: Path, csv_file: Path, stop: signal.Signals) -> None:
    demo, output = start_demo(folder, "--csv", csv_file)
    with demo:
        demo.send_signal(stop)
        _, complaint = demo.communicate(timeout=20)
    assert demo.returncode == 130
    assert complaint.strip() == "interrupted; the workers are stopped"
    assert left_behind(folder, output) == []


async def test_no_worker_outlives_the_demo(folder: Path, csv_file: Path) -> None:
    demo, output = start_demo(folder, "--csv", csv_file)
    with demo:
        demo.kill()
        demo.communicate(timeout=20)
    await eventually(lambda: not any(map(is_running, workers_of(output))))
