"""A stand-in in a thread of this process, for tests and the demo; it can be stopped and started on the same port."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeVar, Unpack

from sync_job.standin.capacity import Counts
from sync_job.standin.logins import Logins
from sync_job.standin.options import Capacity, Options
from sync_job.standin.platform import Platform
from sync_job.standin.server import Endpoint, listening, recording

_HOST = "127.0.0.1"
_PATIENCE_S = 10.0  # far more than starting or stopping takes: beyond it something is broken
_T = TypeVar("_T")


class Standin:
    """A stand-in that `running` started. Its methods are for the thread that did; what it shows, for any."""

    def __init__(self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop) -> None:
        self._endpoint = endpoint
        self._loop = loop
        self._open = AsyncExitStack()
        self._listens = False
        self.port = 0

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end; it stays the same over an outage."""
        return f"http://{_HOST}:{self.port}"

    @property
    def platform(self) -> Platform:
        """Members and log."""
        return self._endpoint.platform

    @property
    def requests(self) -> int:
        """How many updates have arrived, whatever became of them."""
        return self._endpoint.requests

    @property
    def logins(self) -> Logins:
        """Who got tokens, and how many."""
        return self._endpoint.logins

    @property
    def login_requests(self) -> int:
        """How many requests for a token have arrived, whatever became of them."""
        return self._endpoint.login_requests

    @property
    def counts(self) -> Counts:
        """A copy of what became of them so far."""
        return replace(self._endpoint.counts)

    def capacity(self, **changed: Unpack[Capacity]) -> None:
        """Go on with these options of capacity, from now on; the others stay as they are.

        Raises:
            ValueError: when one makes no sense; then nothing has changed.
        """

        async def change() -> None:
            self._endpoint.capacity(**changed)

        self._call(change())

    def start(self) -> None:
        """Take requests, on the port of before if there was one; nothing changes if it does already.

        Raises:
            OSError: when somebody else has taken the port.
        """
        if not self._listens:
            self.port = self._call(self._open.enter_async_context(listening(self._endpoint, _HOST, self.port)))
            self._listens = True

    def stop(self) -> None:
        """Refuse connections and close those there are: an outage until the next `start`.

        Members, counts and the fault schedule go on where they were; what was to be applied late still is.
        """
        if self._listens:
            self._listens = False
            self._call(self._open.aclose())

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the record that the options ask for, within the block."""
        kept = recording(self._endpoint, self._endpoint.options.record)
        self._call(kept.__aenter__())
        try:
            yield
        finally:
            self._call(kept.__aexit__(None, None, None))

    def _call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE_S)


@contextmanager
def running(options: Options | None = None) -> Iterator[Standin]:
    """Run a stand-in on a free port of the loopback until the end of the block.

    What was to be applied later than the end never is. The record of *options* is kept over outages too, and is
    complete when the block has ended.
    """
    endpoint = Endpoint(options or Options())
    with _loop_in_thread() as loop:
        standin = Standin(endpoint, loop)
        with standin.recorded():
            standin.start()
            try:
                yield standin
            finally:
                standin.stop()


@contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Give an event loop that runs in a thread of its own; at the end nothing of it is left."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="standin", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result(_PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_PATIENCE_S)
        loop.close()


async def _end_tasks() -> None:
    # Connections that were cut off end in tasks of their own; a loop closed before them warns of each.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()
