"""The job. This is all that a user of durably writes to make an import survive crashes."""

from __future__ import annotations

import asyncio

from demo.app import tables
from demo.inputs import ImportInput, ImportOutput
from demo.source import Batch, Plan, make_plan, read_batch
from durably import Step, job

PAUSE = 0.02
"""Seconds that each batch takes longer than it must: something to watch, and a step in whose middle one can die."""


@job("import-csv")
async def import_csv(step: Step, input: ImportInput) -> ImportOutput:
    """Import a CSV file into `imported_rows`, batch by batch."""
    plan = await step.run("plan", make_plan, input.path)
    await step.run("create-tables", tables.create, plan.columns)
    rows = 0
    for batch in plan.batches:
        rows += await step.run("insert", insert, plan, batch, step.attempt, key=batch.index)
        step.progress(rows, plan.rows)
    return ImportOutput(rows=rows)


async def insert(plan: Plan, batch: Batch, attempt: int) -> int:
    """Insert one batch. A crash before its checkpoint repeats it, so it must not mind its rows being there."""
    rows = await asyncio.to_thread(read_batch, plan, batch)
    inserted = await tables.insert(batch.first_row, rows, batch=batch.index, attempt=attempt)
    await asyncio.sleep(PAUSE)  # the rows are committed, the checkpoint is not: the worst moment to die
    return inserted
