"""A shop in FastAPI: an order and the run that sends its receipt are stored in one transaction of a SQLAlchemy session.

DATABASE_URL=postgresql://me@localhost/shop uvicorn examples.fastapi_shop.app:app
curl -X POST localhost:8000/orders -H 'content-type: application/json' -d '{"customer": "ada", "cents": 4200}'
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from durably import Durably, Step, job

URL = os.environ.get("DATABASE_URL", "postgresql://localhost/shop")
MOST_CENTS = 100_000

durably = Durably(URL)
engine = create_async_engine(URL.replace("postgresql://", "postgresql+asyncpg://"))
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """The shop's tables."""


class Order(Base):
    """What somebody ordered; the receipt comes later."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    cents: Mapped[int]
    receipt: Mapped[str | None]


class NewOrder(BaseModel):
    """What the customer sends."""

    customer: str
    cents: int


async def write_receipt(order_id: int) -> str:
    receipt = f"receipt {order_id}"
    async with new_session.begin() as session:
        order = await session.get_one(Order, order_id)
        order.receipt = receipt
    return receipt


@job("send-receipt", concurrency_key=lambda order_id: f"order-{order_id}")
async def send_receipt(step: Step, order_id: int) -> str:
    """Executed by the worker, in the event loop of the application."""
    return await step.run("write", write_receipt, order_id)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    """Make the tables, and work as long as the application serves."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with durably.worker([send_receipt]):
        yield
    await engine.dispose()


async def transaction() -> AsyncGenerator[AsyncSession]:
    """A session with a transaction: committed, or rolled back if anything is raised."""
    async with new_session.begin() as session:
        yield session


app = FastAPI(lifespan=lifespan)
Transaction = Annotated[AsyncSession, Depends(transaction, scope="function")]


@app.post("/orders", status_code=201)
async def create(new: NewOrder, session: Transaction) -> dict[str, object]:
    """Store an order."""
    order = Order(customer=new.customer, cents=new.cents)
    session.add(order)
    await session.flush()
    run = await durably.trigger(send_receipt, order.id, connection=session)
    if new.cents > MOST_CENTS:
        raise HTTPException(422, "too much")  # neither the order nor the run is stored
    return {"order": order.id, "run": run.id}


@app.get("/orders/{order_id}")
async def show(order_id: int, session: Transaction) -> dict[str, object]:
    """Show an order."""
    order = await session.get(Order, order_id)
    if order is None:
        raise HTTPException(404)
    return {"customer": order.customer, "receipt": order.receipt}
