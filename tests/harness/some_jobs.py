"""Jobs as users write them, for the tests of the harness."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import BaseModel

from durably import Step, SyncStep, job


class Order(BaseModel):
    customer: str
    cents: int


class Receipt(BaseModel):
    order: Order
    charge: str


@dataclass
class Shop:
    """What the jobs do to the outside world."""

    charged: list[str] = field(default_factory=list[str])
    mails: list[str] = field(default_factory=list[str])
    rows: list[int] = field(default_factory=list[int])
    fails: int = 0
    cents: int = 0

    async def charge(self, order: Order, key: str) -> str:
        if self.fails:
            self.fails -= 1
            raise OSError("the bank does not answer")
        self.charged.append(key)
        self.cents += order.cents
        return f"charge {len(self.charged)}"

    def mail(self, text: str) -> None:
        self.mails.append(text)


@job("checkout")
async def checkout(step: Step[Shop], order: Order) -> Receipt:
    async def charge() -> str:
        return await step.deps.charge(order, step.idempotency_key)

    step.log.info("charging", extra={"cents": order.cents})
    charged = await step.run("charge", charge)
    step.progress(1, 2, "charged")
    await step.run("mail", step.deps.mail, f"thanks, {order.customer}")
    step.progress(2, 2)
    return Receipt(order=order, charge=charged)


@job("import", concurrency_key="import")
async def import_rows(step: Step[Shop], count: int) -> int:
    for number in range(count):
        await step.run("insert", step.deps.rows.append, number, key=number)
    return count


@job("report")
def report(step: SyncStep[Shop], rows: list[int]) -> int:
    total = step.run("sum", sum, rows, returns=int)
    step.log.info("summed")
    step.run("mail", step.deps.mail, f"total {total}")
    return total


@job("parallel")
async def parallel(step: Step[Shop]) -> list[int]:
    async def one(number: int) -> int:
        await asyncio.sleep(0)
        return number

    return await asyncio.gather(*(step.run("one", one, number, key=number) for number in range(3)))


@job("parent")
async def parent(step: Step[Shop], count: int) -> str:
    return await step.trigger(import_rows, count)


@job("when")
async def when(step: Step[Shop]) -> datetime:
    async def now() -> datetime:
        return datetime(2024, 1, 1)  # noqa: DTZ001 - any value

    return await step.run("now", now)
