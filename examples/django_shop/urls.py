"""A shop in Django: an order and the run that sends its receipt are stored in one `transaction.atomic`.

python -m examples.django_shop.manage migrate --run-syncdb
python -m examples.django_shop.manage runserver
python -m examples.django_shop.manage work
curl -X POST localhost:8000/orders -d '{"customer": "ada", "cents": 4200}'
"""

from __future__ import annotations

import json

from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import path

from examples.django_shop.jobs import durably, send_receipt
from examples.django_shop.models import Order

MOST_CENTS = 100_000


class TooMuchError(Exception):
    """Nobody may order for so much."""


@transaction.atomic
def store(customer: str, cents: int) -> dict[str, object]:
    """Store an order, and the run that sends its receipt."""
    order = Order.objects.create(customer=customer, cents=cents)
    run = durably.trigger(send_receipt, order.pk, connection=connection)
    if cents > MOST_CENTS:
        raise TooMuchError  # neither the order nor the run is stored
    return {"order": order.pk, "run": run.id}


def create(request: HttpRequest) -> JsonResponse:
    """Take an order."""
    new = json.loads(request.body)
    try:
        return JsonResponse(store(new["customer"], new["cents"]), status=201)
    except TooMuchError:
        return JsonResponse({"error": "too much"}, status=422)


def show(_request: HttpRequest, order_id: int) -> JsonResponse:
    """Show an order."""
    order = get_object_or_404(Order, pk=order_id)
    return JsonResponse({"customer": order.customer, "receipt": order.receipt})


urlpatterns = [path("orders", create), path("orders/<int:order_id>", show)]
