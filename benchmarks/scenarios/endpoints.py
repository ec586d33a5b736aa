"""Models of endpoints: how long an answer takes, and which requests are turned away. In virtual time."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sync_job.delivery.verdict import Answer, Failure
from sync_job.delivery.wire import Reply
from tests import virtual

Rate = Callable[[float], float]  # something a second, or seconds, at a time

GOOD = Answer(200, Reply(0, ""))
BUSY = Answer(503)
FORBIDDEN = Answer(403)
AT_ONCE_S = 0.005  # what a refusal takes that costs the endpoint nothing
BURST_S = 0.1  # of its rate, that a rate limiter lets through at once


@dataclass
class Seen:
    """What an endpoint has seen; times in virtual seconds.

    *arrivals* are times, each with how many it had to serve then. A dropped request is not among these: nobody works
    on it.
    """

    requests: int = 0
    turned_away: int = 0
    in_flight: int = 0
    dropped: int = 0
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    good_at: list[float] = field(default_factory=list)
    request_seconds: float = 0.0

    def arrive(self) -> None:
        """Count a request that came."""
        self.requests += 1
        self.in_flight += 1
        self.arrivals.append((virtual.now(), self.in_flight - self.dropped))

    def leave(self, answer: Answer, arrived: float) -> None:
        """Count its answer."""
        self.in_flight -= 1
        self.request_seconds += virtual.now() - arrived
        if answer.reply:
            self.good_at.append(virtual.now())
        else:
            self.turned_away += 1


class Model:
    """An endpoint; what it does with one request is its kind's to say."""

    def __init__(self, seed: int) -> None:
        self.seen = Seen()
        self.rng = random.Random(seed)

    async def attempt(self, client: int, sent: int) -> Answer:
        """Answer one request, and count it."""
        self.seen.arrive()
        arrived, answer = virtual.now(), BUSY
        try:
            answer = await self.serve()
        finally:
            self.seen.leave(answer, arrived)
        return answer

    async def serve(self) -> Answer:
        """Return the answer to one request, when it is time for it."""
        raise NotImplementedError


class Link(Model):
    """Takes *delay_s* (1 + jitter Exp(1) + scale (n-1) + knee_exp^(n-knee_start) - 1), n in flight.

    The last term counts above the knee alone. Above *defers_above* in flight, or *defers_rate* a second, a request is
    answered 503 after its delay; above *drops_above* there is no answer, and the sender gives up after *timeout_s*.
    """

    def __init__(
        self,
        seed: int,
        *,
        delay_s: float = 0.1,
        jitter: float = 0.0,
        scale: float = 0.0,
        knee_start: int = 0,
        knee_exp: float = 1.0,
        defers_above: float = float("inf"),
        drops_above: float = float("inf"),
        defers_rate: Rate | None = None,
        timeout_s: float = 1.0,
    ) -> None:
        super().__init__(seed)
        self.delay_s, self.jitter, self.scale = delay_s, jitter, scale
        self.knee_start, self.knee_exp = knee_start, knee_exp
        self.defers_above, self.drops_above, self.timeout_s = defers_above, drops_above, timeout_s
        self.bucket = Bucket(defers_rate) if defers_rate else None

    async def serve(self) -> Answer:
        """Answer after the delay, or not at all."""
        n = self.seen.in_flight - self.seen.dropped
        if n > self.drops_above:
            self.seen.dropped += 1
            await asyncio.sleep(self.timeout_s)
            self.seen.dropped -= 1
            return Answer(failure=Failure.TIMEOUT)
        factor = (
            self.jitter * self.rng.expovariate(1) + self.scale * (n - 1) + self.knee_exp ** max(0, n - self.knee_start)
        )
        turned_away = n > self.defers_above or not (self.bucket is None or self.bucket.take())
        await asyncio.sleep(self.delay_s * factor)
        return BUSY if turned_away else GOOD


class Bucket:
    """A rate limiter that holds `BURST_S` of its rate, at least one request; it begins with one."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.level, self.at = 1.0, 0.0

    def take(self) -> bool:
        """Return whether one more request is within the rate now."""
        now = virtual.now()
        rate = self.rate(now)
        self.level = min(max(1.0, rate * BURST_S), self.level + (now - self.at) * rate)
        self.at = now
        if self.level < 1 - 1e-9:
            return False
        self.level -= 1
        return True


class Servers(Model):
    """Requests wait for one of some *workers*; beyond *queue* waiting ones they are answered 503 at once.

    Serving takes *service_s* (1 - jitter + jitter Exp(1)); while it is *down*, every answer is 503.
    """

    def __init__(
        self,
        seed: int,
        *,
        workers: Callable[[float], int],
        service_s: Rate,
        jitter: float,
        queue: int = 1000,
        down: Callable[[float], bool] = lambda _: False,
    ) -> None:
        super().__init__(seed)
        self.workers, self.service_s, self.jitter, self.queue, self.down = workers, service_s, jitter, queue, down
        self.busy = 0
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def serve(self) -> Answer:
        """Answer when a worker has served it."""
        free = self.busy < self.workers(virtual.now())
        if self.down(virtual.now()) or (not free and len(self.waiting) >= self.queue):
            await asyncio.sleep(AT_ONCE_S)
            return BUSY
        if free:
            self.busy += 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            await turn
        await asyncio.sleep(self.service_s(virtual.now()) * (1 - self.jitter + self.jitter * self.rng.expovariate(1)))
        self.busy -= 1
        while self.waiting and self.busy < self.workers(virtual.now()):
            self.busy += 1
            self.waiting.popleft().set_result(None)
        return BUSY if self.down(virtual.now()) else GOOD


class Address(Model):
    """Answers everything within *above* requests in any second; above it, the address gets 403 for *block_s*."""

    def __init__(self, seed: int, *, delay_s: float, above: int, block_s: float) -> None:
        super().__init__(seed)
        self.delay_s, self.above, self.block_s = delay_s, above, block_s
        self.recent: deque[float] = deque()
        self.blocked_until = 0.0

    async def serve(self) -> Answer:
        """Answer after the delay, or forbid."""
        now = virtual.now()
        while self.recent and self.recent[0] <= now - 1:
            self.recent.popleft()
        if now >= self.blocked_until:
            self.recent.append(now)
            if len(self.recent) > self.above:
                self.blocked_until = now + self.block_s
        forbidden = now < self.blocked_until
        await asyncio.sleep(self.delay_s)
        return FORBIDDEN if forbidden else GOOD


class Quota(Model):
    """Answers *per_s* requests in each whole second; the others get 429 and are asked to come a second later."""

    def __init__(self, seed: int, *, delay_s: float, per_s: int) -> None:
        super().__init__(seed)
        self.delay_s, self.per_s = delay_s, per_s
        self.second, self.left = -1, 0

    async def serve(self) -> Answer:
        """Answer after the delay, or ask to come back."""
        second = int(virtual.now())
        if second != self.second:
            self.second, self.left = second, self.per_s
        self.left -= 1
        turned_away = self.left < 0
        await asyncio.sleep(self.delay_s)
        return Answer(429, retry_after="1") if turned_away else GOOD
