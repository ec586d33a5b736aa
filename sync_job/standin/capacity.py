"""How much the stand-in takes on: workers with a queue, a rate for all, and a bar to addresses that ask too often.

Each is told the time by a clock that comes in. What is answered to a request that is turned away is left to
`server.py`.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush

Clock = Callable[[], float]
_WINDOW_S = 1.0  # in which an address's requests are counted
_WHOLE = 1 - 1e-9  # a token: who keeps exactly to the rate is not refused for a rounding


@dataclass(slots=True)
class Counts:
    """What became of the requests so far. In flight is what has arrived and is not yet answered or given up."""

    in_flight: int = 0
    most_in_flight: int = 0
    served: int = 0  # updates that bound and whose turn came, whatever fault they met then
    queue_full: int = 0  # turned away, here and below
    over_rate: int = 0
    barred: int = 0

    @property
    def turned_away(self) -> int:
        """How many were not served for want of capacity."""
        return self.queue_full + self.over_rate + self.barred

    def enter(self) -> None:
        """Count a request that has arrived."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def leave(self) -> None:
        """Count the end of one."""
        self.in_flight -= 1


@dataclass(frozen=True, slots=True)
class Service:
    """How many requests are served at once, how long each takes, and how many more may wait. Without workers: any.

    A service takes *service_s* and an exponential jitter of the mean *jitter_s*.

    Raises:
        ValueError: when one of them is below 0.
    """

    workers: int = 0
    service_s: float = 0.0
    jitter_s: float = 0.0
    queue: int = 1000

    def __post_init__(self) -> None:
        if min(self.workers, self.service_s, self.jitter_s, self.queue) < 0:
            raise ValueError("workers, queue and the time of a service are no less than 0")


class Workers:
    """Serves first come, first served; what has been taken is served, whether or not its client still waits.

    The capacity is kept to exactly: a service that starts from the queue starts when the one before it was to end,
    however late *call_later* comes to say so. *call_later* calls a function after some seconds by *clock*.
    """

    def __init__(
        self,
        service: Service,
        *,
        clock: Clock,
        call_later: Callable[[float, Callable[[], object]], object],
        seed: int = 0,
    ) -> None:
        self._service = service
        self._clock = clock
        self._call_later = call_later
        self._random = random.Random(seed)  # noqa: S311 - no secret depends on it
        self._started = 0
        self._ends: list[tuple[float, int, Callable[[], None]]] = []  # a heap; the number keeps equal ends in order
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, done: Callable[[], None]) -> bool:
        """Return whether the request is taken; *done* is called when its service ends, at once without workers."""
        if not self._service.workers:
            done()
            return True
        now_s = self._clock()
        self._advance(now_s)
        if len(self._ends) < self._service.workers:
            self._start(now_s, now_s, done)
        elif len(self._waiting) < self._service.queue:
            self._waiting.append(done)
        else:
            return False
        return True

    def change(self, service: Service) -> None:
        """Go on like this. What is being served takes its time of before, and who waits does so in a shorter queue too.

        Workers that are taken away end what they serve. Without any left, all who wait are served at once.
        """
        now_s = self._clock()
        self._advance(now_s)
        self._service = service
        while self._waiting and not service.workers:
            self._waiting.popleft()()
        while self._waiting and len(self._ends) < service.workers:
            self._start(now_s, now_s, self._waiting.popleft())

    def _start(self, at_s: float, now_s: float, done: Callable[[], None]) -> None:
        end_s = at_s + self._service.service_s
        if self._service.jitter_s:
            end_s += self._random.expovariate(1 / self._service.jitter_s)
        self._started += 1
        heappush(self._ends, (end_s, self._started, done))
        self._call_later(max(0.0, end_s - now_s), partial(self._due, end_s))

    def _due(self, end_s: float) -> None:
        # A timer may come a hair early by the clock; what it was set for is due all the same.
        self._advance(max(end_s, self._clock()))

    def _advance(self, now_s: float) -> None:
        """End every service that is due, and start from the queue what its worker is free for."""
        while self._ends and self._ends[0][0] <= now_s:
            end_s, _, done = heappop(self._ends)
            done()
            if self._waiting and len(self._ends) < self._service.workers:
                self._start(end_s, now_s, self._waiting.popleft())


class Rate:
    """A token bucket: *max_rps* requests a second, and *burst* at once after a pause. A rate of 0 lets all pass.

    A *burst* of none is what a second lets pass.

    Raises:
        ValueError: when the rate is below 0 or the burst below 1.
    """

    def __init__(self, max_rps: float, burst: int | None = None, *, clock: Clock) -> None:
        self._clock = clock
        self._max_rps, self._burst = _checked(max_rps, burst)
        self._tokens = self._burst
        self._at_s = clock()

    def admits(self) -> bool:
        """Return whether one more request may pass now; it then counts."""
        if not self._max_rps:
            return True
        self._refill()
        if self._tokens < _WHOLE:
            return False
        self._tokens -= 1
        return True

    def change(self, max_rps: float, burst: int | None = None) -> None:
        """Go on at this rate with what is left, no more than the new burst; all of it where there was no limit.

        Raises:
            ValueError: as for a new one; then nothing has changed.
        """
        checked = _checked(max_rps, burst)
        self._refill()
        limited = self._max_rps > 0
        self._max_rps, self._burst = checked
        self._tokens = min(self._tokens, self._burst) if limited else self._burst

    def _refill(self) -> None:
        now_s = self._clock()
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._max_rps)
        self._at_s = now_s


def _checked(max_rps: float, burst: int | None) -> tuple[float, float]:
    if max_rps < 0 or (burst is not None and burst < 1):
        raise ValueError("a rate is no less than 0, and a burst no less than 1")
    return max_rps, max(1.0, max_rps) if burst is None else float(burst)


class Bar:
    """Bars an address for *block_s* with its first request above *block_above* within a second; 0 bars nobody.

    So do IIS's dynamic IP restrictions. What comes from a barred address does not prolong its time, and the count
    begins anew after it.

    Raises:
        ValueError: when count or time is below 0.
    """

    def __init__(self, block_above: int, block_s: float, *, clock: Clock) -> None:
        if min(block_above, block_s) < 0:
            raise ValueError("a bar begins above no less than 0 requests, and lasts no less than 0 s")
        self._block_above = block_above
        self._block_s = block_s
        self._clock = clock
        self._times_s: dict[str, deque[float]] = {}
        self._until_s: dict[str, float] = {}

    def stops(self, address: str) -> bool:
        """Return whether a request that comes from *address* now is stopped; if not, it counts."""
        if not self._block_above:
            return False
        now_s = self._clock()
        if now_s < self._until_s.get(address, now_s):
            return True
        times_s = self._times_s.setdefault(address, deque(maxlen=self._block_above))
        if len(times_s) == self._block_above and now_s - times_s[0] < _WINDOW_S:
            times_s.clear()
            self._until_s[address] = now_s + self._block_s
            return True
        times_s.append(now_s)
        return False
