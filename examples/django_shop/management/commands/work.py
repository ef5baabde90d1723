"""`manage.py work`: the shop's worker, a process of its own. It works until SIGINT."""

from __future__ import annotations

from contextlib import suppress

from django.core.management.base import BaseCommand

from examples.django_shop.jobs import durably, send_receipt


class Command(BaseCommand):
    """Works."""

    help = "Execute the shop's runs until SIGINT."

    def handle(self, *_arguments: object, **_options: object) -> None:
        """Work."""
        with suppress(KeyboardInterrupt), durably, durably.worker([send_receipt]) as worker:
            worker.ended()
