"""Each example serves real requests: what is ordered gets its receipt, what is refused leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from durably import SyncDurably

ROOT = Path(__file__).parents[2]
SECONDS = 40.0
PAUSE = 0.05


class Shop:
    """The processes of one example."""

    def __init__(self, url: str, log: Path, **environment: str) -> None:
        self.url = url
        self._log = log
        self._environment = os.environ | environment | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self._stack = ExitStack()
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]

    def run(self, *arguments: str) -> None:
        """Execute a command to its end."""
        command = [sys.executable, "-m", *arguments]
        subprocess.run(command, env=self._environment, check=True, capture_output=True, timeout=SECONDS)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a process that is interrupted at the end, and must end well."""
        output = self._stack.enter_context(self._log.open("ab"))
        command = [sys.executable, "-m", *arguments]
        process = subprocess.Popen(command, env=self._environment, stdout=output, stderr=output)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Send a request, as soon as somebody answers. Returns the status and the JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"content-type": "application/json"}
        )
        for _ in range(round(SECONDS / PAUSE)):
            try:
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 - our own address
                    return answer.status, json.loads(answer.read())
            except urllib.error.HTTPError as error:
                return error.code, {}
            except OSError:
                threading.Event().wait(PAUSE)
        raise AssertionError(self._log.read_text("utf-8"))

    def receipt_of(self, order: int) -> str:
        """The receipt, once the worker has written it."""
        for _ in range(round(SECONDS / PAUSE)):
            _, found = self.ask(f"/orders/{order}")
            if found["receipt"] is not None:
                return str(found["receipt"])
            threading.Event().wait(PAUSE)
        raise AssertionError(self._log.read_text("utf-8"))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def flask(tmp_path: Path) -> Iterator[Shop]:
    path = f"{tmp_path}/shop.db"
    shop = Shop(f"sqlite:///{path}", tmp_path / "log", DATABASE=path)
    shop.start("flask", "--app", "examples.flask_shop.app", "run", "--port", str(shop.port))
    shop.ask("/orders/1")
    yield shop
    shop.close()


@pytest.fixture
def fastapi(tmp_path: Path, postgres_url: str) -> Iterator[Shop]:
    shop = Shop(postgres_url, tmp_path / "log", DATABASE_URL=postgres_url)
    yield shop
    shop.close()


@pytest.fixture(params=["sqlite", "postgres"])
def django(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/shop.db" if is_sqlite else request.getfixturevalue("postgres_url")
    shop = Shop(url, tmp_path / "log", DATABASE_URL=url)
    shop.run("examples.django_shop.manage", "migrate", "--run-syncdb")
    yield shop
    shop.close()


def check(shop: Shop, worker: subprocess.Popen[bytes]) -> None:
    status, made = shop.ask("/orders", {"customer": "ada", "cents": 4200})
    assert status == 201
    assert shop.ask("/orders", {"customer": "eve", "cents": 4_200_000})[0] == 422
    assert shop.receipt_of(made["order"]) == f"receipt {made['order']}"
    assert shop.ask(f"/orders/{made['order'] + 1}")[0] == 404

    with SyncDurably(shop.url) as durably:
        assert durably.result(made["run"], timeout=SECONDS) == f"receipt {made['order']}"
        assert [run.id for run in durably.get_runs()] == [made["run"]]
    worker.send_signal(signal.SIGINT)
    assert worker.wait(SECONDS) == 0


def test_flask(flask: Shop) -> None:
    check(flask, flask.start("examples.flask_shop.worker"))


def test_fastapi(fastapi: Shop) -> None:
    server = fastapi.start("uvicorn", "examples.fastapi_shop.app:app", "--port", str(fastapi.port))
    check(fastapi, server)


def test_django(django: Shop) -> None:
    worker = django.start("examples.django_shop.manage", "work")
    django.start("examples.django_shop.manage", "runserver", "--noreload", str(django.port))
    check(django, worker)
