"""The shop's worker, a process of its own: it works until SIGINT."""

from __future__ import annotations

from contextlib import suppress

from examples.flask_shop.app import durably, send_receipt

if __name__ == "__main__":
    with suppress(KeyboardInterrupt), durably, durably.worker([send_receipt]) as worker:
        worker.ended()
