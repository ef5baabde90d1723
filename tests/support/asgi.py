"""Streams of an application in this process, without sockets: thousands of them, each open to looks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

from starlette.types import ASGIApp, Message

BEGINNING = 2
Hook = Callable[[Message], Awaitable[None]]


class Listener:
    """A client of one stream. `on_send` is awaited before a message of the server is taken."""

    def __init__(
        self, app: ASGIApp, path: str, params: dict[str, str] | None = None, *, on_send: Hook | None = None
    ) -> None:
        self.messages: list[Message] = []
        self._on_send = on_send
        self._left = asyncio.Event()
        self._news = asyncio.Event()
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "query_string": urlencode(params or {}).encode(),
            "headers": [],
            "root_path": "",
        }
        self.task = asyncio.create_task(_call(app, scope, self._receive, self._send), name="listener")

    @property
    def body(self) -> bytes:
        """What has come so far."""
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def is_complete(self) -> bool:
        """Whether the server has ended the answer."""
        return bool(self.messages) and self.messages[-1].get("more_body") is False

    async def told(self, text: bytes) -> None:
        """Return when the newest message has this text."""
        while not (self.messages and text in self.messages[-1].get("body", b"")):
            self._news.clear()
            await self._news.wait()

    async def begun(self) -> None:
        """Return when headers and the beginning of the body are there."""
        while len(self.messages) < BEGINNING:
            self._news.clear()
            await self._news.wait()

    async def leave(self) -> None:
        """Go away; returns when the server has noticed."""
        self._left.set()
        await self.task

    async def _receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._on_send is not None:
            await self._on_send(message)
        self.messages.append(message)
        self._news.set()


async def _call(app: ASGIApp, scope: dict[str, Any], receive: Any, send: Any) -> None:
    await app(scope, receive, send)
