"""The connection to one client of a stream: who does not read is given up, and what waits for it is freed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.types import Message, Receive, Send

SILENT_SECONDS = 30.0
"""How long a client may leave unread what is sent to it, or be gone without a word."""


class ClientStalled(Exception):
    """The client did not read in time. Its connection is aborted."""


class Line:
    """Sends to one client, each message within a time."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._send = send
        self._transport = _transport_of(receive)
        _watch(self._transport)

    async def send(self, message: Message, *, within: float | None = None) -> None:
        """Send a message. Raises ClientStalled when the client does not take it in so many seconds (None: 30)."""
        try:
            async with asyncio.timeout(SILENT_SECONDS if within is None else within):
                await self._send(message)
        except TimeoutError as error:
            self.abort()
            raise ClientStalled from error

    def abort(self) -> None:
        """Drop the connection with what was not sent yet: closing it would wait until the client reads that."""
        abort: Callable[[], object] | None = getattr(self._transport, "abort", None)
        if abort is not None:
            abort()


def _transport_of(receive: Receive) -> Any:  # noqa: ANN401 - a server's own
    """The transport, of a server like uvicorn that has one for each request; ASGI itself knows none."""
    return getattr(getattr(receive, "__self__", None), "transport", None)


def _watch(transport: Any) -> None:  # noqa: ANN401 - as above
    """Let the system end the connection when the client has vanished, or leaves unread what is with the system."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    find: Callable[[str], Any] | None = getattr(transport, "get_extra_info", None)
    if option is None or find is None or (found := find("socket")) is None:
        return
    with suppress(OSError):  # of another family than TCP, or closed already
        found.setsockopt(socket.IPPROTO_TCP, option, round(SILENT_SECONDS * 1000))
