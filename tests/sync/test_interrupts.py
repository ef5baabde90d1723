"""Interrupts, and the end of the interpreter, while a `SyncDurably` waits."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from durably import SyncDurably
from tests.sync.jobs import SECONDS
from tests.sync.waiting import until_waiting

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, threading, _thread
from durably import Step, SyncDurably, SyncStep, job

@job("slow")
async def slow(step: Step) -> None:
    began.set()
    await forever.wait()

@job("blocking")
def blocking(step: SyncStep) -> str:
    return "done"

import asyncio
began, forever = threading.Event(), asyncio.Event()
durably = SyncDurably(sys.argv[1])
"""

INTERRUPT = """
import datetime, os, signal
from tests.sync.waiting import until_waiting

def interrupt(thread):
    began.wait(60)
    until_waiting(thread)
    os.kill(os.getpid(), signal.SIGINT)

run = durably.trigger(slow)
with durably:
    worker = durably.worker([slow], grace=datetime.timedelta(0))
    worker.start()
    threading.Thread(target=interrupt, args=(threading.get_ident(),)).start()
    try:
        durably.result(run)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print(durably.get_run(run).status, flush=True)
"""

AT_EXIT = """
import datetime
run = durably.trigger(slow)
durably.worker([slow, blocking], grace=datetime.timedelta(0)).start()
began.wait(60)
print(durably.trigger_and_wait(blocking, timeout=60), flush=True)
"""


def execute(script: str, url: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", SCRIPT + script, url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_an_interrupt_ends_a_wait(url: str) -> None:
    assert execute(INTERRUPT, url) == ["interrupted", "pending"]


def test_at_the_end_of_the_interpreter_runs_are_handed_back(url: str) -> None:
    """Without a close: nothing hangs, nothing is said, and no lease has to expire."""
    assert execute(AT_EXIT, url) == ["done"]
    with SyncDurably(url) as durably:
        [slow] = durably.get_runs("slow")
        assert (slow.status, slow.generation) == ("pending", 1)


def test_an_interrupt_cancels_what_is_waited_for(durably: SyncDurably) -> None:
    """It ends before the call returns, and the next call works."""
    began, ended = threading.Event(), list[str]()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    def interrupt(thread: int) -> None:
        began.wait(SECONDS)
        until_waiting(thread)
        signal.pthread_kill(thread, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt, args=(threading.get_ident(),))
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        durably._portal.call(wait)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else tells when it ended
    interrupting.join()
    assert ended == ["ended"]
    assert durably.get_runs() == []
