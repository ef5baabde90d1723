"""The shop's jobs, and the Durably that triggers them."""

from __future__ import annotations

from django.db import close_old_connections

from durably import SyncDurably, SyncStep, job
from examples.django_shop.models import Order
from examples.django_shop.settings import URL

durably = SyncDurably(URL)


def write_receipt(order_id: int) -> str:
    receipt = f"receipt {order_id}"
    close_old_connections()  # a worker's thread has connections of its own
    Order.objects.filter(id=order_id).update(receipt=receipt)
    return receipt


@job("send-receipt", concurrency_key=lambda order_id: f"order-{order_id}")
def send_receipt(step: SyncStep, order_id: int) -> str:
    """Executed by the worker, in a thread."""
    return step.run("write", write_receipt, order_id)
