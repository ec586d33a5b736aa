"""What the stand-in takes on: by a fake clock to the microsecond, and over real sockets as its options say."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import aiohttp
import pytest

from sync_job.standin.background import Standin, running
from sync_job.standin.capacity import Bar, Counts, Rate, Service, Workers
from sync_job.standin.faults import Fault, listed
from sync_job.standin.options import Options
from sync_job.standin.server import ENDPOINT, REQUESTS


class Clock:
    """A clock that is set by hand, with timers that come *late_s* after they should."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.now_s = 0.0
        self._late_s = late_s
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._set = 0

    def __call__(self) -> float:
        """Return the seconds since the start."""
        return self.now_s

    def later(self, delay_s: float, call: Callable[[], object]) -> None:
        """Call in *delay_s*."""
        self._set += 1
        heappush(self._timers, (self.now_s + delay_s + self._late_s, self._set, call))

    def pass_to(self, until_s: float) -> None:
        """Let the time pass, with what is due on the way."""
        while self._timers and self._timers[0][0] <= until_s:
            at_s, _, call = heappop(self._timers)
            self.now_s = max(self.now_s, at_s)
            call()
        self.now_s = until_s


class Desk:
    """Workers with a fake clock; `ends` has what was served, with the time."""

    def __init__(self, service: Service, late_s: float = 0.0, seed: int = 0) -> None:
        self.clock = Clock(late_s)
        self.workers = Workers(service, clock=self.clock, call_later=self.clock.later, seed=seed)
        self.ends: list[tuple[str, float]] = []

    def take(self, *names: str) -> list[bool]:
        """Let these arrive now."""
        return [self.workers.take(lambda name=name: self.ends.append((name, self.clock()))) for name in names]  # type: ignore[misc]

    def until(self, until_s: float) -> list[tuple[str, float]]:
        """Return what was served up to then since the last time."""
        self.clock.pass_to(until_s)
        ends, self.ends = self.ends, []
        return ends


# ---- workers -------------------------------------------------------------------------------------------------------


def test_workers_serve_first_come_first_served() -> None:
    """Two at once, the third when one is free, and one more than the queue holds is turned away at once."""
    desk = Desk(Service(workers=2, service_s=1.0, queue=2))
    assert desk.take("a", "b", "c", "d", "e") == [True, True, True, True, False]
    assert desk.until(0.5) == []
    assert desk.take("f") == [False]
    assert desk.until(1.0) == [("a", 1.0), ("b", 1.0)]
    assert desk.take("g", "h", "i") == [True, True, False]
    assert desk.until(9.0) == [("c", 2.0), ("d", 2.0), ("g", 3.0), ("h", 3.0)]


def test_a_late_timer_costs_no_capacity() -> None:
    """From a queue each service starts when the one before it was to end, not when the timer says so."""
    desk = Desk(Service(workers=1, service_s=0.01), late_s=0.004)
    desk.take(*(str(number) for number in range(100)))
    assert len(desk.until(1.005)) == 100


def test_an_idle_worker_starts_at_the_arrival() -> None:
    """Time that nobody asked for is lost, and a service never starts before its request came."""
    desk = Desk(Service(workers=1, service_s=1.0))
    desk.clock.pass_to(5.0)
    desk.take("a")
    desk.clock.pass_to(5.5)
    desk.take("b")
    assert desk.until(9.0) == [("a", 6.0), ("b", 7.0)]


def test_without_workers_all_are_served_at_once() -> None:
    """No workers means no model."""
    desk = Desk(Service(queue=0))
    assert desk.take("a", "b") == [True, True]
    assert desk.ends == [("a", 0.0), ("b", 0.0)]


def test_more_workers_start_with_those_who_wait() -> None:
    """A change holds at once, for the time of a service from the next one on."""
    desk = Desk(Service(workers=1, service_s=1.0))
    desk.take("a", "b", "c", "d")
    desk.clock.pass_to(0.25)
    desk.workers.change(Service(workers=3, service_s=0.5))
    assert desk.until(9.0) == [("b", 0.75), ("c", 0.75), ("a", 1.0), ("d", 1.25)]


def test_fewer_workers_end_what_they_serve() -> None:
    """Nothing is broken off, and who waits stays even where the queue is shorter now."""
    desk = Desk(Service(workers=3, service_s=1.0))
    desk.take("a", "b", "c", "d", "e")
    desk.workers.change(Service(workers=1, service_s=1.0, queue=1))
    assert desk.take("f") == [False]
    assert desk.until(9.0) == [("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 2.0), ("e", 3.0)]


def test_no_workers_left_means_no_model() -> None:
    """Who waits is served at once; what is being served takes its time."""
    desk = Desk(Service(workers=1, service_s=1.0))
    desk.take("a", "b")
    desk.clock.pass_to(0.5)
    desk.workers.change(Service())
    assert desk.until(9.0) == [("b", 0.5), ("a", 1.0)]


def test_jitter_has_the_mean_that_was_asked_and_repeats() -> None:
    """A service takes its time and an exponential jitter; the same seed gives the same."""

    def ended(seed: int) -> list[tuple[str, float]]:
        desk = Desk(Service(workers=1, service_s=0.01, jitter_s=0.005, queue=4000), seed=seed)
        desk.take(*(str(number) for number in range(4000)))
        return desk.until(1e6)

    first = ended(3)
    assert first == ended(3) != ended(4)
    assert first[-1][1] / 4000 == pytest.approx(0.015, rel=0.05)


# ---- rate ----------------------------------------------------------------------------------------------------------


def passed(rate: Rate, asked: int) -> int:
    """Return how many of so many pass now."""
    return sum(rate.admits() for _ in range(asked))


def test_rate_fills_up_to_its_burst() -> None:
    """The burst passes at once, then the rate, and a pause earns no more than the burst."""
    clock = Clock()
    rate = Rate(10, 5, clock=clock)
    assert passed(rate, 9) == 5
    clock.pass_to(0.25)
    assert passed(rate, 9) == 2
    clock.pass_to(60)
    assert passed(rate, 9) == 5


def test_who_keeps_exactly_to_the_rate_passes() -> None:
    """No rounding refuses a request that is on time."""
    clock = Clock()
    rate = Rate(30, 1, clock=clock)
    for number in range(3000):
        clock.pass_to(number / 30)
        assert rate.admits()


def test_burst_is_a_seconds_worth() -> None:
    """Where no burst is given, as many pass at once as in a second; one at least."""
    assert passed(Rate(20, clock=Clock()), 50) == 20
    assert passed(Rate(0.5, clock=Clock()), 50) == 1


def test_rate_of_0_is_no_limit() -> None:
    """Everything passes."""
    assert passed(Rate(0, clock=Clock()), 1000) == 1000


def test_rate_can_change() -> None:
    """What was earned at the old rate is kept, no more than the new burst; a limit begins with its burst."""
    clock = Clock()
    rate = Rate(100, 50, clock=clock)
    assert passed(rate, 50) == 50
    clock.pass_to(0.1)
    rate.change(10, 4)
    assert passed(rate, 50) == 4
    clock.pass_to(1.1)
    rate.change(0)
    assert passed(rate, 1000) == 1000
    rate.change(10, 4)
    assert passed(rate, 50) == 4
    with pytest.raises(ValueError, match="burst"):
        rate.change(10, 0)
    clock.pass_to(1.2)
    assert passed(rate, 50) == 1


# ---- bar -----------------------------------------------------------------------------------------------------------


def test_bar_stops_an_address_for_its_time() -> None:
    """The request above the number within a second is stopped, and all that follow until the time is over."""
    clock = Clock()
    bar = Bar(3, 10.0, clock=clock)
    assert [bar.stops("a") for _ in range(4)] == [False, False, False, True]
    assert not bar.stops("b")
    clock.pass_to(9.9)
    assert bar.stops("a")
    clock.pass_to(10.0)
    assert [bar.stops("a") for _ in range(4)] == [False, False, False, True]


def test_bar_counts_within_a_sliding_second() -> None:
    """A pace of the number a second is never stopped."""
    clock = Clock()
    bar = Bar(4, 10.0, clock=clock)
    for number in range(100):
        clock.pass_to(number / 4)
        assert not bar.stops("a")
    clock.pass_to(24.8)
    assert bar.stops("a")


def test_bar_of_0_stops_nobody() -> None:
    """Without a number there is no bar."""
    bar = Bar(0, 1.0, clock=Clock())
    assert not any(bar.stops("a") for _ in range(1000))


# ---- over sockets --------------------------------------------------------------------------------------------------


async def post(session: aiohttp.ClientSession, url: str, client: int) -> tuple[int, str | None]:
    """Return the status of an update, and its Retry-After."""
    async with session.post(url + ENDPOINT, json={"Client": client, "AllowSms": True}) as response:
        await response.read()
        return response.status, response.headers.get("Retry-After")


def crowd(standin: Standin, requests: int, timeout_s: float = 10.0) -> list[tuple[int, str | None]]:
    """Return what *requests* updates that come at once are answered; 0 for one that gave up."""

    async def main() -> list[tuple[int, str | None]]:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=timeout_s)
        ) as session:
            found = await asyncio.gather(
                *(post(session, standin.url, client) for client in range(1, requests + 1)), return_exceptions=True
            )
        replies: list[tuple[int, str | None]] = []
        for one in found:
            if isinstance(one, BaseException):
                assert isinstance(one, TimeoutError)
            replies.append((0, None) if isinstance(one, BaseException) else one)
        return replies

    return asyncio.run(main())


def until(condition: Callable[[], bool], patience_s: float = 5.0) -> None:
    """Return once *condition* holds, looked at every few milliseconds."""
    end_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end_s, "the condition never came to hold"
        threading.Event().wait(0.002)


def test_updates_are_applied_when_their_service_ends() -> None:
    """Two workers of 20 ms take 100 ms for ten, and log each when it has been served."""
    with running(Options(workers=2, service_ms=20)) as standin:
        started_s = time.monotonic()
        assert crowd(standin, 10) == [(200, None)] * 10
        assert standin.platform.log[1].at_s >= started_s + 0.02
        assert standin.platform.log[-1].at_s >= started_s + 0.1
        assert (standin.counts.served, standin.counts.turned_away) == (10, 0)


def test_a_full_queue_answers_503() -> None:
    """One is served, two wait, and the others are turned away and leave nothing."""
    with running(Options(workers=1, service_ms=500, queue=2)) as standin:
        replies = crowd(standin, 8)
        assert sorted(status for status, _ in replies) == [200] * 3 + [503] * 5
        counts = standin.counts
        assert (counts.in_flight, counts.served, counts.queue_full, counts.turned_away) == (0, 3, 5, 5)
        assert len(standin.platform.state) == 3


def test_a_client_that_gives_up_frees_no_worker() -> None:
    """Worker and place in the queue stay taken, and who waited is served when its turn comes."""
    with running(Options(workers=1, service_ms=60_000, queue=1)) as standin:
        assert crowd(standin, 2, timeout_s=0.5) == [(0, None)] * 2
        until(lambda: standin.counts.in_flight == 0)
        assert crowd(standin, 1) == [(503, None)]
        standin.capacity(workers=2, service_ms=1)
        until(lambda: standin.counts.served == 1)
        assert standin.counts == Counts(most_in_flight=2, served=1, queue_full=1)
        assert len(standin.platform.state) == 1


def test_faults_come_when_the_request_has_been_served() -> None:
    """A fault takes a worker's time too."""
    with running(Options(workers=1, service_ms=50, script=listed([Fault.ERROR_AFTER, Fault.UNAVAILABLE]))) as standin:
        started_s = time.monotonic()
        assert sorted(status for status, _ in crowd(standin, 2)) == [500, 503]
        assert time.monotonic() - started_s >= 0.1
        assert standin.counts.served == 2
        assert len(standin.platform.state) == 1


def test_capacity_can_change_while_it_runs() -> None:
    """What waits for a slow worker is served at once when there are many; nonsense changes nothing."""
    with running(Options(workers=1, service_ms=60_000)) as standin:
        assert crowd(standin, 5, timeout_s=0.5) == [(0, None)] * 5
        standin.capacity(workers=10, service_ms=1)
        until(lambda: standin.counts.served == 4)  # the fifth is in the hands of the slow one
        with pytest.raises(ValueError, match="no less"):
            standin.capacity(workers=-1)
        assert crowd(standin, 20) == [(200, None)] * 20
        standin.capacity(max_rps=0.001, burst=2)
        assert sorted(status for status, _ in crowd(standin, 5)) == [200, 200, 429, 429, 429]
        standin.capacity(max_rps=0)
        assert crowd(standin, 5) == [(200, None)] * 5


@pytest.mark.parametrize(
    ("knobs", "refusal"),
    [
        ({}, (429, None)),
        ({"rate_status": 503}, (503, None)),
        ({"rate_retry_after_s": 7}, (429, "7")),
    ],
)
def test_requests_above_the_rate_are_refused(knobs: dict[str, Any], refusal: tuple[int, str | None]) -> None:
    """The burst passes, and the rest gets the status that was asked for, with Retry-After if it was."""
    with running(Options(max_rps=0.001, burst=3, **knobs)) as standin:
        assert sorted(crowd(standin, 5)) == sorted([(200, None)] * 3 + [refusal] * 2)
        assert (standin.counts.served, standin.counts.over_rate) == (3, 2)


def test_a_barred_address_gets_403_until_its_time_is_over() -> None:
    """Above the number within a second everything is forbidden, and then nothing."""
    with running(Options(block_above=3, block_s=0.5)) as standin:
        assert sorted(status for status, _ in crowd(standin, 6)) == [200] * 3 + [403] * 3
        assert crowd(standin, 1) == [(403, None)]
        until(lambda: crowd(standin, 1) == [(200, None)])
        assert standin.counts.served == 4
        assert standin.counts.barred == standin.requests - 4


def test_refusals_take_the_latency_too() -> None:
    """Whoever is turned away hears of it no sooner than anybody else."""
    with running(Options(latency_ms=60, max_rps=0.001, burst=1)) as standin:
        crowd(standin, 1)
        started_s = time.monotonic()
        assert crowd(standin, 1) == [(429, None)]
        assert time.monotonic() - started_s >= 0.06


def test_counts_are_shown() -> None:
    """They are part of what the stand-in says of its requests."""

    async def shown(url: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(url + REQUESTS) as response:
            return json.loads(await response.read())

    with running(Options(max_rps=0.001, burst=1)) as standin:
        for _ in range(3):
            crowd(standin, 1)
        assert asyncio.run(shown(standin.url)) == {
            "requests": 3,
            "entries": 1,
            "in_flight": 0,
            "most_in_flight": 1,
            "served": 1,
            "queue_full": 0,
            "over_rate": 2,
            "barred": 0,
            "turned_away": 2,
        }


@pytest.mark.parametrize(
    "knobs",
    [
        {"workers": -1},
        {"service_ms": -1},
        {"service_jitter_ms": -0.1},
        {"queue": -1},
        {"max_rps": -1},
        {"burst": 0},
        {"block_above": -1},
        {"block_s": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(knobs: dict[str, Any]) -> None:
    """A knob out of its range is an error at once."""
    with pytest.raises(ValueError, match="no less"):
        Options(**knobs)
