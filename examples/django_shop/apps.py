"""The shop as Django's application: `migrate` makes durably's tables too."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class ShopConfig(AppConfig):
    """The shop."""

    name = "examples.django_shop"

    def ready(self) -> None:
        """Make durably's tables when those of the shop are made."""
        post_migrate.connect(make_tables, sender=self)


def make_tables(**_arguments: object) -> None:
    from examples.django_shop.jobs import durably  # noqa: PLC0415  # it needs the models, which are loaded by now

    with durably:
        pass
