"""huey: W1 on SQLite with `fsync=True` (synchronous = FULL), threads, results stored. It polls every 1 to 10 ms."""

from __future__ import annotations

import importlib
import logging
import os
from functools import partial
from importlib.metadata import version
from typing import Any

from bench.task import Answer, Stopwatch, Task, drained, serve


def work(task: Task) -> Answer:
    """Enqueue everything, then start the consumer and wait until every result is stored."""
    huey: Any = importlib.import_module("huey")
    logging.disable(logging.CRITICAL)
    watch = Stopwatch(task)
    app = huey.SqliteHuey(filename=task.url, fsync=True)

    def job(number: int) -> int:
        watch.started()
        watch.finished()
        return number

    app.task()(job)
    deferred = huey.SqliteHuey(filename=task.url, fsync=False).task()(job)  # the same queue, filled without waiting
    for number in range(task.total):
        deferred(number)
    consumer = app.create_consumer(
        workers=task.concurrency, periodic=False, initial_delay=0.001, max_delay=0.01, check_worker_health=False
    )
    consumer.start()
    return drained(watch, partial(count_left, app, task)) | {"version": version("huey")}


def count_left(app: Any, task: Task) -> int:  # noqa: ANN401 - a module without types here
    """Results that are not stored yet."""
    return task.total - int(app.result_count())


if __name__ == "__main__":
    serve(work)
    os._exit(0)  # its threads would keep the process alive
