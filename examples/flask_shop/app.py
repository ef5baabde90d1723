"""A shop in Flask: an order and the run that sends its receipt are stored in one transaction of sqlite3.

DATABASE=shop.db flask --app examples.flask_shop.app run
DATABASE=shop.db python -m examples.flask_shop.worker
curl -X POST localhost:5000/orders -H 'content-type: application/json' -d '{"customer": "ada", "cents": 4200}'
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from flask import Flask, abort, request
from werkzeug.wrappers import Response

from durably import SyncDurably, SyncStep, job

DATABASE = os.environ.get("DATABASE", "shop.db")
MOST_CENTS = 100_000
TABLE = (
    "CREATE TABLE IF NOT EXISTS orders "
    "(id INTEGER PRIMARY KEY, customer TEXT NOT NULL, cents INTEGER NOT NULL, receipt TEXT)"
)

durably = SyncDurably(f"sqlite:///{DATABASE}")


def connect() -> sqlite3.Connection:
    """A connection that begins a transaction with its first write, and takes the lock at once."""
    return sqlite3.connect(DATABASE, isolation_level="IMMEDIATE")


def write_receipt(order: int) -> str:
    receipt = f"receipt {order}"
    with closing(connect()) as connection, connection:
        connection.execute("UPDATE orders SET receipt = ? WHERE id = ?", (receipt, order))
    return receipt


@job("send-receipt", concurrency_key=lambda order: f"order-{order}")
def send_receipt(step: SyncStep, order: int) -> str:
    """Executed by the worker, in a thread."""
    return step.run("write", write_receipt, order)


def create_app() -> Flask:
    """Make the tables, the shop's and durably's, and the application."""
    with closing(connect()) as connection, connection:
        connection.execute(TABLE)
    durably.open()
    app = Flask(__name__)

    @app.post("/orders")
    def order() -> tuple[dict[str, object], int]:
        customer, cents = request.json["customer"], request.json["cents"]
        with closing(connect()) as connection, connection:  # commits, or rolls back if anything is raised
            insert = "INSERT INTO orders (customer, cents) VALUES (?, ?) RETURNING id"
            [(order_id,)] = connection.execute(insert, (customer, cents)).fetchall()
            run = durably.trigger(send_receipt, order_id, connection=connection)
            if cents > MOST_CENTS:
                abort(Response("too much", 422))  # neither the order nor the run is stored
        return {"order": order_id, "run": run.id}, 201

    @app.get("/orders/<int:order_id>")
    def show(order_id: int) -> dict[str, object]:
        with closing(connect()) as connection:
            row = connection.execute("SELECT customer, receipt FROM orders WHERE id = ?", (order_id,)).fetchone()
        return {"customer": row[0], "receipt": row[1]} if row else abort(404)

    return app
