"""The shop's tables."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """What somebody ordered; the receipt comes later."""

    customer: models.TextField[str, str] = models.TextField()
    cents: models.IntegerField[int, int] = models.IntegerField()
    receipt: models.TextField[str | None, str | None] = models.TextField(null=True)  # noqa: DJ001  # null: there is none yet

    def __str__(self) -> str:
        return f"order {self.pk} of {self.customer}"
