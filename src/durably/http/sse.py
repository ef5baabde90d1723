"""An event stream as an HTTP response: headers at once, frames as they come, an end when it is due."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing, suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from durably.http.frames import ENDS, KEEP_ALIVE, Frame, Throttle
from durably.http.line import ClientStalled, Line
from durably.http.streams import Stream

_logger = logging.getLogger("durably.http")

FAREWELL_SECONDS = 5.0
"""How long the last words may take to a client that reads slowly, or not at all."""


async def open_stream(stream: Stream, *, throttle: float, keep_alive: float) -> EventStreamResponse:
    """Return the response that sends a stream: nothing that happens from now on is missed. Times are in seconds.

    Raises DatabaseUnavailable.
    """
    async with AsyncExitStack() as joined:
        await joined.enter_async_context(stream.joined())
        return EventStreamResponse(stream, joined.pop_all(), throttle=throttle, keep_alive=keep_alive)


class EventStreamResponse(Response):
    """Sends a stream until it is over, the client leaves or the server stops."""

    media_type = "text/event-stream"

    def __init__(self, stream: Stream, joined: AsyncExitStack, *, throttle: float, keep_alive: float) -> None:
        """Make one with `open_stream`."""
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.headers["Content-Type"] = self.media_type
        self._stream = stream
        self._joined = joined
        self._throttle = Throttle(throttle)
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if scope.get("http_version", "1.1").startswith("1"):  # later versions know no such header
            self.headers["Connection"] = "keep-alive"
        line = Line(receive, send)
        with suppress(ClientStalled):
            async with self._joined:
                await line.send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                # A server may hold the headers back until there is a body.
                await line.send({"type": "http.response.body", "body": b"", "more_body": True})
                is_over = await self._serve(receive, line)
            if is_over:
                within = FAREWELL_SECONDS if self._stream.subscriber.is_over else None
                await line.send({"type": "http.response.body", "body": b"", "more_body": False}, within=within)

    async def _serve(self, receive: Receive, line: Line) -> bool:
        """Send what there is to send. Returns whether the client is still there, and reads."""
        writing = asyncio.create_task(self._write(line), name="durably-stream")
        leaving = asyncio.create_task(_gone(receive), name="durably-stream-client")
        loop = asyncio.get_running_loop()
        self._stream.subscriber.on_over = lambda: loop.call_later(FAREWELL_SECONDS, writing.cancel)
        if self._stream.subscriber.is_over:
            self._stream.subscriber.on_over()
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            has_left = leaving.done()
            for task in (writing, leaving):
                task.cancel()
            await asyncio.wait({writing, leaving})
        if has_left:
            return False
        if writing.cancelled():
            line.abort()
            return False
        if (error := writing.exception()) is not None:
            if isinstance(error, ClientStalled):
                _logger.info("a stream is closed: its client does not read, and may resume after its last id")
            else:
                _logger.error("an event stream was broken off", exc_info=error)
            return False
        return True

    async def _write(self, line: Line) -> None:
        stream, loop = self._stream, asyncio.get_running_loop()
        sent_at = loop.time()
        async with aclosing(stream.beginning()) as beginning:
            async for frames in beginning:
                sent_at = await self._send(line, frames, sent_at)
        while not stream.is_finished:
            due = self._throttle.next_due
            until = sent_at + self._keep_alive
            taken = await stream.subscriber.take(until if due is None else min(due, until))
            if not taken and stream.subscriber.is_over:
                return
            sent_at = await self._send(line, self._until_end(taken), sent_at)

    def _until_end(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Drop what comes after the end of the run, if the stream ends with it."""
        if self._stream.ends_with_run:
            for place, frame in enumerate(frames):
                if frame.type in ENDS:
                    self._stream.is_finished = True
                    return frames[: place + 1]
        return frames

    async def _send(self, line: Line, frames: Sequence[Frame], sent_at: float) -> float:
        """Send what is to be sent now. Returns when something was sent last."""
        now = asyncio.get_running_loop().time()
        data = b"".join([*self._throttle.take_all(frames, now), *self._throttle.due(now)])
        if not data and now >= sent_at + self._keep_alive:
            data = KEEP_ALIVE
        if not data:
            return sent_at
        await line.send({"type": "http.response.body", "body": data, "more_body": True})
        return now


async def _gone(receive: Receive) -> None:
    """Return when the client has left."""
    with suppress(OSError):
        while (await receive())["type"] != "http.disconnect":
            pass
