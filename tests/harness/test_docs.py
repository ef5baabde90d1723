"""The examples of docs/testing.md are tests that pass; the fixtures come by themselves and cost nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ASYNCIO = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
DOCS = Path(__file__).parents[2] / "docs" / "testing.md"
FAILING = """
import pytest
from shop import Order, checkout
from test_checkout import FakeShop

async def test_it(durably_harness):
    async with durably_harness([checkout], deps=FakeShop()) as h:
        done = await h.run(
            checkout, Order(["pen"], 1), crash_after="charge", steps={"charge": "paid", "ship[pen]": OSError("rain")}
        )
        assert done.output == "paid"
"""
FIXTURE = """
import pytest_asyncio
from shop import Order, checkout
from test_checkout import FakeShop

@pytest_asyncio.fixture
async def shop(durably_harness):
    async with durably_harness([checkout], deps=FakeShop(), steps={"chrge": 1}) as h:
        yield h

async def test_it(shop):
    assert (await shop.run(checkout, Order(["pen"], 1))).output == "paid 1"
"""
ANYIO = """
import pytest
from shop import Order, checkout
from test_checkout import FakeShop

pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"

async def test_it(durably_harness):
    async with durably_harness([checkout], deps=FakeShop()) as h:
        assert (await h.run(checkout, Order(["pen"], 1))).output == "paid 1"
"""
UNUSED = """
import sys

def test_it():
    assert "durably_pytest" in sys.modules
    assert not [name for name in sys.modules if name in {"durably", "pydantic", "sqlite3"}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with the files of the docs."""
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", DOCS.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["shop.py", "test_checkout.py", "test_function.py", "test_fixtures.py"]
    for name, code in blocks:
        (tmp_path / name).write_text(code, "utf-8")
    return tmp_path


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as a user of durably does."""
    plain = ("-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:randomly")
    command = [sys.executable, "-m", "pytest", *plain, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_examples_pass(folder: Path) -> None:
    done = run_pytest(folder, *ASYNCIO, "test_checkout.py", "test_function.py", "test_fixtures.py")
    assert (done.returncode, "8 passed" in done.stdout) == (0, True), done.stdout


def test_a_failing_test_tells_what_its_runs_did(folder: Path) -> None:
    (folder / "test_failing.py").write_text(FAILING, "utf-8")
    done = run_pytest(folder, *ASYNCIO, "test_failing.py")
    assert done.returncode == 1
    told = done.stdout[done.stdout.index("- durably runs -") :]
    assert "generation 1 at 2030-01-01 00:00:00: crashed\n    charge\n" in told
    assert "failed: OSError('rain')\n    (charge), ship[pen] raised OSError('rain')\n" in told


def test_a_fixture_whose_script_was_not_met_tells_it_too(folder: Path) -> None:
    (folder / "test_fixture.py").write_text(FIXTURE, "utf-8")
    done = run_pytest(folder, *ASYNCIO, "test_fixture.py")
    assert "1 passed, 1 error" in done.stdout
    assert "Did you mean 'charge'?" in done.stdout
    assert "completed\n    charge, ship[pen]\n" in done.stdout[done.stdout.index("- durably runs -") :]


def test_the_fixture_works_with_anyio(folder: Path) -> None:
    (folder / "test_anyio.py").write_text(ANYIO, "utf-8")
    done = run_pytest(folder, "-p", "no:asyncio", "test_anyio.py")
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout


def test_the_plugin_loads_nothing_for_those_who_do_not_use_it(folder: Path) -> None:
    (folder / "test_unused.py").write_text(UNUSED, "utf-8")
    bare = ("-p", "no:asyncio", "-p", "no:hypothesispytest", "-p", "no:xdist")
    done = run_pytest(folder, *bare, "test_unused.py")
    assert done.returncode == 0, done.stdout
