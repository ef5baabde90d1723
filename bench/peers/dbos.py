"""dbos: W1 and W2, plain functions as workflows and steps, drained from one queue.

The queue is polled every 10 ms in place of every second, the pool of the system database is as large as the concurrency
asks for (at most 50), tracing is off.
"""

from __future__ import annotations

import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import Any

from bench.task import Answer, Stopwatch, Task, drained, serve

QUEUE, JOB = "bench", "job"
DONE_SQL = "SELECT count(*) FROM {table} WHERE status = 'SUCCESS'"


def work(task: Task) -> Answer:
    """Enqueue everything while no queue is listened to, then launch and wait for the end."""
    dbos: Any = importlib.import_module("dbos")
    watch = Stopwatch(task)

    def small_dict(number: int) -> dict[str, int]:
        return {"number": number}

    step: Any = dbos.DBOS.step()(small_dict)

    def job(number: int) -> int:
        watch.started()
        for place in range(task.steps):
            step(place)
        watch.finished()
        return number

    url = task.url.replace("postgresql:", "postgresql+psycopg:") if task.is_postgres else f"sqlite:///{task.url}"
    config = {
        "name": "bench",
        "system_database_url": url,
        "sys_db_pool_size": min(max(task.concurrency, 10), 50),
        "log_level": "ERROR",
        "application_version": "bench",
    }
    dbos.DBOS.workflow(name=JOB)(job)
    dbos.DBOS(config=config)
    dbos.DBOS.listen_queues([])
    dbos.DBOS.launch()
    dbos.DBOS.register_queue(QUEUE, worker_concurrency=task.concurrency, polling_interval_sec=0.01)
    dbos.DBOS.destroy()
    enqueue(dbos, task, url)
    dbos.DBOS(config=config)
    dbos.DBOS.launch()
    return drained(watch, partial(count_left, task, url)) | {"version": version("dbos")}


def enqueue(dbos: Any, task: Task, url: str) -> None:  # noqa: ANN401 - a module without types here
    """Store the workflows, from a few threads."""
    client = dbos.DBOSClient(system_database_url=url, system_database_pool_size=10, application_name="bench")
    options = {"workflow_name": JOB, "queue_name": QUEUE, "app_version": "bench"}
    threads = 8 if task.is_postgres else 1
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(partial(client.enqueue, options), range(task.total)))
    client.destroy()


def count_left(task: Task, url: str) -> int:
    """Workflows that have not succeeded yet."""
    sqlalchemy: Any = importlib.import_module("sqlalchemy")
    table = "dbos.workflow_status" if task.is_postgres else "workflow_status"
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        done: int = connection.execute(sqlalchemy.text(DONE_SQL.format(table=table))).scalar()
    engine.dispose()
    return task.total - done


if __name__ == "__main__":
    serve(work)
    os._exit(0)  # its threads would keep the process alive
