"""The gate that every attempt passes, first or repeated: requests in flight, requests a second, and pauses for all."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from sync_job.delivery.limit import Limit

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class Limiter:
    """Lets attempts through within *limit*, *max_rps* and the pauses that the endpoint asked for.

    The requests a second are a token bucket that holds a tenth of a second, at least one request.
    """

    def __init__(self, limit: Limit, *, max_rps: float, clock: Clock, sleep: Sleep) -> None:
        self._limit = limit
        self._interval = 1 / max_rps if max_rps else 0.0
        self._burst = max(self._interval, 0.1)
        self._next = clock()
        self._paused_until = 0.0
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._clock = clock
        self._sleep = sleep

    @property
    def in_flight(self) -> int:
        """How many attempts have been let through and not yet released."""
        return self._in_flight

    def pause(self, seconds: float) -> None:
        """Let nobody through for so long from now on; a longer pause that runs already stays."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    async def acquire(self) -> None:
        """Return when an attempt may start; the caller must `release` when it has ended.

        Raises:
            Whatever the given *sleep* raises; nothing is acquired then.
        """
        while True:
            if self._in_flight >= self._limit.value:
                turn = asyncio.get_running_loop().create_future()
                self._waiting.append(turn)
                try:
                    await turn
                except asyncio.CancelledError:
                    if not turn.cancelled():
                        self._wake()
                    raise
                continue
            wait = self._wait_s()
            if not wait:
                self._in_flight += 1
                return
            try:
                await self._sleep(wait)
            except BaseException:
                # Whoever does not take the turn that woke it passes it on; else those behind would wait for ever.
                self._wake()
                raise

    def release(self) -> None:
        """Say that an attempt ended."""
        self._in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _wait_s(self) -> float:
        """Return how long to wait; 0 takes a token."""
        now = self._clock()
        if now < self._paused_until:
            return self._paused_until - now
        if self._interval:
            at = max(self._next, now - self._burst + self._interval)
            if at > now:
                return at - now
            self._next = at + self._interval
        return 0.0
