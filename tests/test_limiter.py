"""The gate in virtual time: requests in flight, requests a second, pauses, and that no turn is lost."""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from sync_job.delivery.limit import Limit
from sync_job.delivery.limiter import Limiter
from tests import virtual


def gate(limit: int, max_rps: float = 0.0) -> Limiter:
    """Return a limiter on the virtual time of the loop that runs."""
    return Limiter(Limit(limit), max_rps=max_rps, clock=virtual.now, sleep=virtual.sleep)


async def started(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Return the task of *coroutine*, which has come as far as it can without time passing."""
    task = asyncio.create_task(coroutine)
    await settled()
    return task


async def settled() -> None:
    """Let every task go as far as it can without time passing."""
    for _ in range(10):
        await asyncio.sleep(0)


async def starts(limiter: Limiter, takes_s: Sequence[float]) -> list[float]:
    """Return when each of so many attempts, all there from now on, was let through; each takes its time."""
    times: list[float] = []

    async def one(take_s: float) -> None:
        await limiter.acquire()
        times.append(virtual.now())
        await asyncio.sleep(take_s)
        limiter.release()

    await asyncio.gather(*map(one, takes_s))
    return times


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_never_more_in_flight_than_the_limit(limit: int) -> None:
    """Whatever each attempt takes, the limit is reached and never passed, and nothing is left in flight."""

    async def main() -> None:
        limiter, rng, most = gate(limit), random.Random(limit), 0

        async def one() -> None:
            nonlocal most
            await limiter.acquire()
            most = max(most, limiter.in_flight)
            await asyncio.sleep(rng.uniform(0, 1))
            limiter.release()

        await asyncio.gather(*(one() for _ in range(300)))
        assert most == limit
        assert limiter.in_flight == 0

    virtual.run(main())


def test_waiters_come_through_in_order_as_soon_as_there_is_room() -> None:
    """Two at a time, each of a second: a pair a second."""
    assert virtual.run(starts_at(2, 0, [1.0] * 7)) == [0, 0, 1, 1, 2, 2, 3]


async def starts_at(limit: int, max_rps: float, takes_s: Sequence[float], idle_s: float = 0.0) -> list[float]:
    """Return the `starts` through a new limiter that nobody asked for *idle_s*."""
    limiter = gate(limit, max_rps)
    await asyncio.sleep(idle_s)
    return await starts(limiter, takes_s)


@pytest.mark.parametrize("idle_s", [0.0, 60.0])
@pytest.mark.parametrize("max_rps", [0.5, 3, 10, 25, 100, 1000])
def test_max_rps_is_kept_over_every_window(max_rps: float, idle_s: float) -> None:
    """No window holds more than its share and a tenth of a second's; and the rate is reached, not just kept."""
    times = virtual.run(starts_at(1000, max_rps, [0.01] * 80, idle_s))
    burst = max(1.0, max_rps * 0.1)
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= (times[last] - begin) * max_rps + burst + 1e-6
    assert times[-1] - idle_s <= 79 / max_rps + 0.001


def test_rate_after_a_pause_is_not_caught_up() -> None:
    """Time in which nobody sent is not saved for a burst of more than a tenth of a second."""
    times = virtual.run(starts_at(1000, 100, [0.0] * 30, idle_s=3600.0))
    assert sum(time < 3600.001 for time in times) <= 10


def test_rate_and_limit_hold_together() -> None:
    """The narrower of both decides."""
    times = virtual.run(starts_at(2, 100, [1.0] * 6))
    assert times == pytest.approx([0, 0.01, 1, 1.01, 2, 2.01])


def test_pause_holds_everybody_back() -> None:
    """Those that wait for room, for the rate, and those that come new."""

    async def main() -> None:
        limiter = gate(2)
        await limiter.acquire()
        limiter.pause(5)
        times = asyncio.create_task(starts(limiter, [0.5, 0.5, 0.5]))
        await asyncio.sleep(1)
        limiter.release()
        assert await times == [5, 5, 5.5]

    virtual.run(main())


def test_longer_pause_stays_and_a_further_one_prolongs() -> None:
    """Two answers that ask for a pause ask for the longer of both."""

    async def main() -> None:
        limiter = gate(1)
        limiter.pause(10)
        limiter.pause(1)
        waiting = asyncio.create_task(starts(limiter, [0]))
        await asyncio.sleep(8)
        limiter.pause(4)
        assert await waiting == [12]

    virtual.run(main())


def test_cancelled_waiter_leaves_no_slot_taken() -> None:
    """Neither one that still waits for its turn, nor one that waits out a pause."""

    async def main() -> None:
        limiter = gate(1)
        await limiter.acquire()
        waiting = [await started(limiter.acquire()) for _ in range(3)]
        waiting[0].cancel()
        waiting[1].cancel()
        await settled()
        limiter.release()
        await waiting[2]
        assert limiter.in_flight == 1
        limiter.release()
        limiter.pause(5)
        paused = await started(limiter.acquire())
        paused.cancel()
        await settled()
        assert limiter.in_flight == 0
        await limiter.acquire()
        assert (limiter.in_flight, virtual.now()) == (1, 5)

    virtual.run(main())


def test_turn_of_a_waiter_that_is_cancelled_at_that_moment_is_passed_on() -> None:
    """Woken and cancelled in one step: the next one comes through."""

    async def main() -> None:
        limiter = gate(1)
        await limiter.acquire()
        first, second = await started(limiter.acquire()), await started(limiter.acquire())
        limiter.release()
        first.cancel()
        await asyncio.wait_for(second, 1)
        assert first.cancelled()
        assert limiter.in_flight == 1

    virtual.run(main())


def test_turn_of_a_waiter_whose_sleep_ends_in_an_error_is_passed_on() -> None:
    """A pool that stops raises in the sleep: nothing is acquired, and nobody waits for ever."""

    class DroppedError(Exception):
        pass

    async def dropped(_: float) -> None:
        raise DroppedError

    async def main() -> None:
        limiter = Limiter(Limit(1), max_rps=0, clock=virtual.now, sleep=dropped)
        await limiter.acquire()
        waiting = [await started(limiter.acquire()) for _ in range(3)]
        limiter.pause(60)
        limiter.release()
        ended = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 1)
        assert [type(end) for end in ended] == [DroppedError] * 3
        assert limiter.in_flight == 0

    virtual.run(main())


def test_no_waiter_is_forgotten_in_a_storm_of_cancels_and_pauses() -> None:
    """Seeded chaos: all that were not cancelled come through, within the limit, and nothing stays taken."""

    async def main(seed: int) -> None:
        rng, limiter, through = random.Random(seed), gate(3, 200), 0

        async def one() -> None:
            nonlocal through
            await asyncio.sleep(rng.uniform(0, 1))
            await limiter.acquire()
            try:
                assert limiter.in_flight <= 3
                if rng.random() < 0.1:
                    limiter.pause(rng.uniform(0, 0.2))
                await asyncio.sleep(rng.uniform(0, 0.05))
            finally:
                limiter.release()
            through += 1

        tasks = [asyncio.create_task(one()) for _ in range(120)]
        for task in rng.sample(tasks, 40):
            await asyncio.sleep(rng.uniform(0, 0.05))
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert through == ended.count(None)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ended)
        assert limiter.in_flight == 0

    for seed in range(10):
        virtual.run(main(seed))
