"""The gate, in virtual time: room, pace, rate and pauses; what a round holds; the breaker; and that no turn is lost."""

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise, repeat
from statistics import fmean
from typing import Any

import pytest

from sync_job.delivery.breaker import GOOD_TO_CLOSE, LEAST_BAD
from sync_job.delivery.limit import Fixed, Law, Limit, Round
from sync_job.delivery.limiter import DELIVERED_OVER, LATE, LONGEST_WORTH_S, LOSS, Limiter, Sign, Ticket
from tests import virtual


@dataclass(frozen=True)
class Taught:
    """A law that remembers what it is told, and follows the values of a script; the last one stays."""

    value: float
    paced: bool = False
    met: bool = False
    script: tuple[float, ...] = ()
    rounds: list[Round] = field(default_factory=list)
    outages: list[tuple[float, int]] = field(default_factory=list)

    def after(self, round_: Round) -> "Taught":
        """Return the next one."""
        self.rounds.append(round_)
        return replace(self, value=self.script[0], script=self.script[1:]) if self.script else self

    def after_outage(self, throttled: float, rests: int) -> "Taught":
        """Return half of it."""
        self.outages.append((throttled, rests))
        return replace(self, value=self.value / 2)


def gate(law: Law | int, max_rps: float = 0.0, *, guarded: bool = False, told: list[str] | None = None) -> Limiter:
    """Return a limiter on the virtual time of the loop that runs, without jitter."""
    return Limiter(
        Fixed(law) if isinstance(law, int) else law,
        max_rps=max_rps,
        clock=virtual.now,
        later=asyncio.get_running_loop().call_later,
        draw=lambda: 0.5,
        tell=lambda event, **_: told.append(event) if told is not None else None,
        guarded=guarded,
    )


async def turn(limiter: Limiter, *, again: bool = False) -> Ticket:
    """Return a ticket; there has to be one."""
    ticket = await limiter.acquire(again=again)
    assert ticket is not None
    return ticket


async def started(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Return the task of *coroutine*, which has come as far as it can without time passing."""
    task = asyncio.create_task(coroutine)
    await settled()
    return task


async def settled() -> None:
    """Let every task go as far as it can without time passing."""
    for _ in range(10):
        await asyncio.sleep(0)


Script = Iterator[tuple[float, Sign]]


async def works(limiter: Limiter, script: Script, times: list[float], ends: list[float]) -> None:
    """Send as a worker does: one after the other, each as the script says, until it is over."""
    for takes_s, sign in script:
        ticket = await limiter.acquire()
        if ticket is None:
            return
        times.append(virtual.now())
        await virtual.sleep(takes_s)
        limiter.release(ticket, sign, takes_s)
        ends.append(virtual.now())
    limiter.pass_on()


async def sends(limiter: Limiter, script: Script, workers: int = 8) -> tuple[list[float], list[float]]:
    """Return when each attempt of a script was let through, and when each had ended."""
    times: list[float] = []
    ends: list[float] = []
    await asyncio.gather(*(works(limiter, script, times, ends) for _ in range(workers)))
    return times, ends


def good(count: int, takes_s: float = 0.1) -> Script:
    """Return so many that are answered well."""
    return repeat((takes_s, Sign.GOOD), count)


async def starts(limiter: Limiter, takes_s: Sequence[float]) -> list[float]:
    """Return when each of so many attempts, all there from now on, was let through; each takes its time."""
    times: list[float] = []

    async def one(take_s: float) -> None:
        ticket = await turn(limiter)
        times.append(virtual.now())
        await asyncio.sleep(take_s)
        limiter.release(ticket, Sign.GOOD, take_s)
        limiter.pass_on()

    await asyncio.gather(*map(one, takes_s))
    return times


async def starts_at(limit: int, max_rps: float, takes_s: Sequence[float], idle_s: float = 0.0) -> list[float]:
    """Return the `starts` through a new limiter that nobody asked for *idle_s*."""
    limiter = gate(limit, max_rps)
    await asyncio.sleep(idle_s)
    return await starts(limiter, takes_s)


# ---- room ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_never_more_in_flight_than_the_room(limit: int) -> None:
    """Whatever each attempt takes, the limit is reached and never passed, and nothing is left in flight."""

    async def main() -> None:
        limiter, rng, most = gate(limit), random.Random(limit), 0

        async def one() -> None:
            nonlocal most
            ticket = await turn(limiter)
            most = max(most, limiter.in_flight)
            takes_s = rng.uniform(0.5, 1)
            await asyncio.sleep(takes_s)
            limiter.release(ticket, Sign.GOOD, takes_s)
            limiter.pass_on()

        await asyncio.gather(*(one() for _ in range(300)))
        assert most == limit == limiter.seen.most_in_flight
        assert limiter.in_flight == 0

    virtual.run(main())


@pytest.mark.parametrize(
    ("value", "paced", "room"), [(1.0, False, 1), (2.9, False, 2), (3.0, False, 3), (0.3, False, 1), (2.1, True, 3)]
)
def test_room_is_what_fits_whole(value: float, paced: bool, room: int) -> None:
    """A part of a place is none; at a pace it is, since the pace holds it back; and one may always be in flight."""

    async def main() -> None:
        limiter = gate(Taught(value, paced=paced))
        taken = 0
        while limiter.enter() is not None:
            taken += 1
        assert taken == limiter.in_flight == room

    virtual.run(main())


def test_waiters_come_through_in_order_as_soon_as_there_is_room() -> None:
    """Two at a time, each of a second: a pair a second."""
    assert virtual.run(starts_at(2, 0, [1.0] * 7)) == [0, 0, 1, 1, 2, 2, 3]


def test_repeated_attempts_go_before_first_ones() -> None:
    """However long those have waited: a row that was begun is ended first."""

    async def main() -> None:
        limiter, came = gate(1), list[str]()

        async def one(name: str, *, again: bool) -> None:
            ticket = await turn(limiter, again=again)
            came.append(name)
            await asyncio.sleep(1)
            limiter.release(ticket, Sign.GOOD, 1.0)
            limiter.pass_on()

        waiting = [await started(one("running", again=False))]
        waiting += [await started(one(name, again="again" in name)) for name in ("new 1", "new 2", "again 1")]
        assert limiter.enter() is None
        waiting.append(await started(one("again 2", again=True)))
        await asyncio.gather(*waiting)
        assert came == ["running", "again 1", "again 2", "new 1", "new 2"]

    virtual.run(main())


def test_who_is_there_goes_before_those_that_have_no_row_yet_but_not_before_repeated_attempts() -> None:
    """A worker that has just sent goes on at once; that saves a turn of the loop for each request."""

    async def main() -> None:
        limiter = gate(1)
        ticket = await turn(limiter)
        new = await started(limiter.acquire())
        limiter.release(ticket, Sign.GOOD, 0.1)
        ticket = limiter.enter() or pytest.fail("the place was its own")
        again = await started(limiter.acquire(again=True))
        limiter.release(ticket, Sign.GOOD, 0.1)
        assert limiter.enter() is None
        limiter.pass_on()
        limiter.release(await again, Sign.GOOD, 0.1)
        limiter.pass_on()
        assert await new is not None

    virtual.run(main())


def test_a_limit_that_grows_lets_those_through_that_wait() -> None:
    """Nobody has to end first: the place that is free beside the releaser's is given away."""

    async def main() -> None:
        limiter = gate(Taught(1, script=(4,)))
        ticket = await turn(limiter)
        waiting = [await started(limiter.acquire()) for _ in range(5)]
        await asyncio.sleep(1)
        limiter.release(ticket, Sign.GOOD, 1.0)
        await settled()
        assert [task.done() for task in waiting] == [True, True, True, False, False]
        limiter.pass_on()
        await settled()
        assert [task.done() for task in waiting] == [True, True, True, True, False]
        limiter.close()

    virtual.run(main())


def test_a_limit_that_shrinks_is_kept_as_soon_as_enough_have_ended() -> None:
    """Those in flight settle; nobody comes through until there are fewer than the limit."""

    async def main() -> None:
        limiter = gate(Taught(4, script=(2,)))
        tickets = [await turn(limiter) for _ in range(4)]
        await asyncio.sleep(0.1)
        for ticket in tickets[:2]:
            limiter.release(ticket, Sign.GOOD, 0.1)
        waiting = await started(limiter.acquire())
        assert (limiter.law.value, limiter.in_flight, waiting.done()) == (2, 2, False)
        limiter.release(tickets[2], Sign.GOOD, 0.1)
        limiter.pass_on()
        await settled()
        assert (limiter.in_flight, waiting.done()) == (2, True)

    virtual.run(main())


# ---- rate ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle_s", [0.0, 60.0])
@pytest.mark.parametrize("max_rps", [0.5, 3, 10, 25, 100, 1000])
def test_max_rps_is_kept_over_every_window(max_rps: float, idle_s: float) -> None:
    """No window holds more than its share and a tenth of a second's; and the rate is reached, not just kept."""
    times = virtual.run(starts_at(1000, max_rps, [0.01] * 80, idle_s))
    burst = max(1.0, max_rps * 0.1)
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= (times[last] - begin) * max_rps + burst + 1e-4
    assert times[-1] - idle_s <= 79 / max_rps + 0.001


def test_rate_after_a_pause_is_not_caught_up() -> None:
    """Time in which nobody sent is not saved for a burst of more than a tenth of a second."""
    times = virtual.run(starts_at(1000, 100, [0.0] * 30, idle_s=3600.0))
    assert sum(time < 3600.001 for time in times) <= 10


def test_rate_and_limit_hold_together() -> None:
    """The narrower of both decides."""
    times = virtual.run(starts_at(2, 100, [1.0] * 6))
    assert times == pytest.approx([0, 0, 1, 1, 2, 2], abs=0.02)
    assert virtual.run(starts_at(100, 10, [1.0] * 6)) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-5)


# ---- pace ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "paced", "every_s"), [(4.0, True, 0.025), (2.5, True, 0.04), (0.5, False, 0.2), (0.05, True, 2.0)]
)
def test_a_pace_is_even(value: float, paced: bool, every_s: float) -> None:
    """Once the round trip is known, requests are limit / round trip apart, below 1 always; nothing is caught up."""

    async def main() -> None:
        times, _ = await sends(gate(Taught(value, paced=paced)), good(40))
        gaps = [after - before for before, after in pairwise(times[8:])]
        assert gaps == pytest.approx([every_s] * 31, abs=0.0051)
        assert fmean(gaps) == pytest.approx(every_s, abs=2e-4)

    virtual.run(main())


def test_a_pace_does_not_hold_before_the_round_trip_is_known() -> None:
    """There is nothing to pace by; the room alone counts."""
    times, _ = virtual.run(_sends(Taught(4, paced=True), good(5)))
    assert times[:4] == [0] * 4
    assert times[4] >= 0.1


async def _sends(law: Law, script: Script) -> tuple[list[float], list[float]]:
    return await sends(gate(law), script)


def test_a_pace_may_catch_up_a_late_timer_and_no_more() -> None:
    """After a minute without a request there is no burst."""

    async def main() -> None:
        limiter = gate(Taught(4, paced=True))
        await sends(limiter, good(40))
        await asyncio.sleep(60)
        times, _ = await sends(limiter, good(8))
        assert times[-1] - times[0] > 7 * 0.025 - 0.006

    virtual.run(main())


# ---- failures that come fast ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [Sign.BUSY, Sign.FORBIDDEN, Sign.BAD])
def test_a_fast_failure_keeps_its_place_for_the_usual_round_trip(sign: Sign) -> None:
    """Otherwise failures are all there would be: the pool would spin."""

    async def main() -> None:
        limiter = gate(1)
        await sends(limiter, good(10))
        begin = virtual.now()
        times, _ = await sends(limiter, repeat((0.001, sign), 20))
        assert limiter.rtt_s == pytest.approx(0.1)
        assert [time - begin for time in times] == pytest.approx([0.1 * n for n in range(20)], abs=1e-4)
        assert limiter.in_flight == 1
        await asyncio.sleep(0.1)
        assert limiter.in_flight == 0

    virtual.run(main())


def test_a_slow_failure_and_one_that_says_nothing_make_room_at_once() -> None:
    """A failure that took its time has been waited for; a kept connection that was closed is no failure."""

    async def main() -> None:
        limiter = gate(1)
        await sends(limiter, good(10))
        for takes_s, sign in ((0.11, Sign.BUSY), (0.001, Sign.NONE)):
            begin = virtual.now()
            times, _ = await sends(limiter, repeat((takes_s, sign), 5))
            assert [time - begin for time in times] == pytest.approx([takes_s * n for n in range(5)], abs=1e-4)
        assert limiter.in_flight == 0

    virtual.run(main())


def test_before_a_round_trip_is_known_failures_make_room_at_once() -> None:
    """There is no usual round trip to wait for."""

    async def main() -> None:
        limiter = gate(1)
        times, _ = await sends(limiter, repeat((0.001, Sign.BUSY), 5))
        assert times[-1] == pytest.approx(0.004, abs=1e-4)
        assert (limiter.rtt_s, limiter.seen.turned_away) == (0.0, 5)

    virtual.run(main())


# ---- requests that are late ----------------------------------------------------------------------------------------


def test_a_late_request_gives_its_place_up_while_others_are_answered() -> None:
    """A request far later than any other is no sample and no slot any more; the rest goes on as fast as before."""

    async def main() -> None:
        law = Taught(4)
        limiter = gate(law)
        await sends(limiter, good(40))
        lost = await turn(limiter)
        at = virtual.now()
        await sends(limiter, good(30), workers=3)
        assert virtual.now() - at > LATE * 0.1
        assert (lost.given_up, limiter.in_flight) == (True, 0)
        assert sum(round_.missing for round_ in law.rounds) == 1
        rounds, was = len(law.rounds), limiter.rtt_s
        limiter.release(lost, Sign.BAD, virtual.now() - at)
        assert limiter.in_flight == 0
        assert (len(law.rounds), limiter.rtt_s) == (rounds, was)

    virtual.run(main())


def test_nothing_is_given_up_while_nobody_is_answered() -> None:
    """An endpoint that hangs is not sent ever more requests: the limit holds."""

    async def main() -> None:
        limiter = gate(4)
        await sends(limiter, good(40))
        lost = [await turn(limiter) for _ in range(4)]
        waiting = await started(limiter.acquire())
        await asyncio.sleep(60)
        assert (limiter.in_flight, waiting.done(), [ticket.given_up for ticket in lost]) == (4, False, [False] * 4)
        limiter.release(lost[-1], Sign.BAD, 60.0)
        limiter.pass_on()
        await settled()
        assert (limiter.in_flight, waiting.done()) == (4, True)
        assert not any(ticket.given_up for ticket in lost)

    virtual.run(main())


def test_nothing_is_given_up_when_an_older_one_is_answered() -> None:
    """A queue that stood still and goes on: those behind come next, and their places are not given away twice."""

    async def main() -> None:
        limiter = gate(4)
        await sends(limiter, good(40))
        tickets = []
        for _ in range(4):
            tickets.append(await turn(limiter))
            await asyncio.sleep(0.01)
        await asyncio.sleep(2)
        limiter.release(tickets[0], Sign.GOOD, virtual.now() - tickets[0].sent)
        assert [ticket.given_up for ticket in tickets] == [False] * 4
        assert limiter.in_flight == 3

    virtual.run(main())


# ---- rounds --------------------------------------------------------------------------------------------------------


def test_a_round_holds_its_answers_their_mean_and_their_spread() -> None:
    """Of the logarithms of the round trips of those that were sent in it, and of nobody else."""
    rng = random.Random(3)
    takes = [0.1 * 1.5 ** rng.uniform(-1, 1) for _ in range(60)]

    async def main() -> list[Round]:
        law = Taught(1)
        await sends(gate(law), ((take, Sign.GOOD) for take in takes), workers=1)
        return law.rounds

    rounds = virtual.run(main())
    at = 0
    for round_ in rounds:
        logs = [math.log(take) for take in takes[at : at + round_.answers]]
        at += round_.answers
        assert round_.mean == pytest.approx(fmean(logs))
        assert round_.spread == pytest.approx(sum((y - fmean(logs)) ** 2 for y in logs))
        assert (round_.limit, round_.missing, round_.busy, round_.rests) == (1, 0, 0, 0)
        assert round_.reached
    assert at == len(takes)


@pytest.mark.parametrize(("limit", "takes_s", "members"), [(1, 0.1, 1), (10, 0.1, 5), (7, 0.1, 4), (10, 0.004, 50)])
def test_a_round_is_half_the_limit_or_a_fiftieth_of_a_second(limit: int, takes_s: float, members: int) -> None:
    """Enough of those in flight to tell, and not so few that the clock's coarseness is all that shows."""

    async def main() -> list[Round]:
        law = Taught(limit)
        await sends(gate(law), good(40 * members, takes_s), workers=20)
        return law.rounds

    assert {round_.answers for round_ in virtual.run(main())[1:]} == {members}


def test_a_round_is_of_one_limit() -> None:
    """Those that were sent before it changed are not in the next round."""

    async def main() -> list[Round]:
        law = Taught(4, script=(8, 2, 6, 3))
        await sends(gate(law), good(100))
        return law.rounds

    rounds = virtual.run(main())
    assert [round_.limit for round_ in rounds[:5]] == [4, 8, 2, 6, 3]
    assert [round_.answers for round_ in rounds[:5]] == [2, 4, 1, 3, 2]
    assert all(round_.mean == pytest.approx(math.log(0.1), abs=1e-3) for round_ in rounds)


@pytest.mark.parametrize(("workers", "reached"), [(3, False), (4, True), (9, True)])
def test_a_round_says_whether_the_limit_was_reached(workers: int, reached: bool) -> None:
    """Where fewer want to send than may, it says nothing about the endpoint."""

    async def main() -> list[Round]:
        law = Taught(4)
        await sends(gate(law), good(100), workers)
        return law.rounds

    assert {round_.reached for round_ in virtual.run(main())[1:-3]} == {reached}


@pytest.mark.parametrize(("workers", "max_rps", "reached"), [(1, 0.0, False), (8, 0.0, True), (8, 5.0, False)])
def test_a_pace_is_reached_where_it_holds_somebody_back(workers: int, max_rps: float, reached: bool) -> None:
    """Those that wait show it, unless they wait for a rate that was asked for."""

    async def main() -> list[Round]:
        law = Taught(8, paced=True)
        await sends(gate(law, max_rps), good(300), workers)
        return law.rounds

    assert {round_.reached for round_ in virtual.run(main())[4:-4]} == {reached}


def test_a_pace_is_reached_by_those_that_wait_though_there_is_room() -> None:
    """When answers get quicker, fewer are in flight than may be, and it is the pace alone that holds back."""

    async def main() -> list[Round]:
        law = Taught(8, paced=True)
        limiter = gate(law)
        await sends(limiter, good(200), workers=20)
        before = len(law.rounds)
        await sends(limiter, good(120, 0.04), workers=20)
        return law.rounds[before + 1 : -3]

    rounds = virtual.run(main())
    assert len(rounds) > 2
    assert all(round_.reached for round_ in rounds)


def test_refusals_and_what_says_nothing_are_no_samples() -> None:
    """They do not move the round trip, and no round counts them as answers."""

    async def main() -> None:
        law = Taught(1)
        limiter = gate(law)
        await sends(limiter, good(10))
        before = len(law.rounds)
        await sends(limiter, chain(repeat((0.5, Sign.NONE), 10), repeat((0.5, Sign.FORBIDDEN), 10)))
        assert limiter.rtt_s == pytest.approx(0.1)
        assert {round_.answers for round_ in law.rounds[before:]} == {0}
        assert {round_.busy for round_ in law.rounds[before:]} == {0}

    virtual.run(main())


def test_a_busy_answer_ends_the_round_once_an_epoch() -> None:
    """Of many that are turned away together one is told; those sent before it say nothing more, later ones do."""

    async def main() -> None:
        law = Taught(8)
        limiter = gate(law)
        await sends(limiter, good(80))
        for _ in range(2):
            before = len(law.rounds)
            tickets = [await turn(limiter) for _ in range(8)]
            await asyncio.sleep(0.1)
            for ticket in tickets:
                limiter.release(ticket, Sign.BUSY, 0.1)
            assert [round_.busy for round_ in law.rounds[before:] if round_.busy] == [1]
        assert limiter.seen.turned_away == 16

    virtual.run(main())


def test_a_busy_round_is_told_under_the_limit_of_the_one_that_was_turned_away() -> None:
    """A trial is to blame only for what was sent during it."""

    async def main() -> None:
        law = Taught(4, script=(8,))
        limiter = gate(law)
        old = [await turn(limiter) for _ in range(4)]
        await asyncio.sleep(0.1)
        limiter.release(old[0], Sign.GOOD, 0.1)
        limiter.release(old[1], Sign.GOOD, 0.1)
        assert limiter.law.value == 8
        limiter.release(old[2], Sign.BUSY, 0.1)
        assert [(round_.limit, round_.busy) for round_ in law.rounds] == [(4, 0), (4, 1)]

    virtual.run(main())


def test_a_busy_round_says_how_many_were_delivered_in_flight() -> None:
    """Answered well a second times the round trip, over the last few round trips: here one of four is turned away."""

    async def main() -> None:
        law = Taught(4)
        limiter = gate(law)
        await sends(limiter, good(200), workers=4)
        assert DELIVERED_OVER * limiter.rtt_s < 1
        tickets = [await turn(limiter) for _ in range(4)]
        await asyncio.sleep(0.1)
        limiter.release(tickets[0], Sign.BUSY, 0.1)
        for ticket in tickets[1:]:
            limiter.release(ticket, Sign.GOOD, 0.1)
        full, *_ = [round_.delivered for round_ in law.rounds if round_.busy]
        assert full == pytest.approx(4, rel=0.25)
        answers = repeat([(0.1, Sign.BUSY), *repeat((0.1, Sign.GOOD), 3)], 40)
        await sends(limiter, chain.from_iterable(answers), workers=4)
        assert law.rounds[-1].busy or law.rounds[-2].busy
        last = [round_.delivered for round_ in law.rounds if round_.busy][-10:]
        assert fmean(last) == pytest.approx(3, rel=0.25)
        assert {round_.delivered for round_ in law.rounds if not round_.busy} == {0.0}

    virtual.run(main())


@pytest.mark.parametrize("pause_s", [1.0, 30.0])
def test_a_pause_is_worth_as_many_rounds_as_it_cost(pause_s: float) -> None:
    """At most a fiftieth of the time may be lost by finding out; but a long pause does not keep a whole night low."""

    async def main() -> None:
        law = Taught(2)
        limiter = gate(law)
        await sends(limiter, good(40))
        ticket = await turn(limiter)
        await asyncio.sleep(0.1)
        limiter.release(ticket, Sign.BUSY, 0.1, pause_s=pause_s)
        assert law.rounds[-1].busy == 1
        assert law.rounds[-1].rests == pytest.approx(min(pause_s, LONGEST_WORTH_S) / LOSS / (1.5 * 0.1), abs=1)

    virtual.run(main())


# ---- pauses --------------------------------------------------------------------------------------------------------


def asks_for(limiter: Limiter, pause_s: float) -> None:
    """Let an attempt be answered at once with so long a pause for everybody."""
    limiter.release(limiter.enter() or pytest.fail("nobody may send"), Sign.BUSY, 0.0, pause_s=pause_s)


def test_pause_holds_everybody_back() -> None:
    """Those that wait for room, and those that come new."""

    async def main() -> None:
        limiter = gate(3)
        running = await turn(limiter)
        asks_for(limiter, 5)
        times = asyncio.create_task(starts(limiter, [0.5] * 4))
        await asyncio.sleep(1)
        limiter.release(running, Sign.GOOD, 1.0)
        limiter.pass_on()
        late = asyncio.create_task(starts(limiter, [0.5]))
        assert limiter.pause_s == pytest.approx(4)
        assert await times == pytest.approx([5, 5, 5, 5.5], abs=1e-4)
        assert await late == pytest.approx([5.5], abs=1e-4)
        assert (limiter.seen.pauses, limiter.pause_s) == (1, 0)

    virtual.run(main())


def test_longer_pause_stays_and_a_further_one_prolongs() -> None:
    """Two answers that ask for a pause ask for the longer of both, and are told as one."""

    async def main() -> None:
        told: list[str] = []
        limiter = gate(4, told=told)
        tickets = [await turn(limiter) for _ in range(3)]
        limiter.release(tickets[0], Sign.BUSY, 0.0, pause_s=10)
        limiter.release(tickets[1], Sign.BUSY, 0.0, pause_s=1)
        waiting = asyncio.create_task(starts(limiter, [0]))
        await asyncio.sleep(8)
        limiter.release(tickets[2], Sign.BUSY, 8.0, pause_s=4)
        assert await waiting == pytest.approx([12], abs=1e-4)
        assert (told, limiter.seen.pauses) == (["endpoint.pause"], 1)

    virtual.run(main())


def test_pause_holds_repeated_attempts_back_as_well() -> None:
    """Whoever asks again is not exempt."""

    async def main() -> None:
        limiter = gate(1)
        asks_for(limiter, 5)
        await turn(limiter, again=True)
        assert virtual.now() == pytest.approx(5, abs=1e-4)

    virtual.run(main())


# ---- breaker -------------------------------------------------------------------------------------------------------


async def breaks(limiter: Limiter, sign: Sign = Sign.BAD) -> None:
    """Let as many attempts fail as open the breaker."""
    await sends(limiter, repeat((0.1, sign), 3 * LEAST_BAD), workers=LEAST_BAD)


async def fails_at(limiter: Limiter, until_s: float, starts_at: list[float], *, workers: int = 8) -> None:
    """Send until all is well again: fail fast before *until_s*, and answer in a tenth of a second from then on."""

    async def one() -> None:
        well = 0
        while well < 20:
            ticket = await turn(limiter)
            now = virtual.now()
            starts_at.append(now)
            takes_s, sign = (0.1, Sign.GOOD) if now >= until_s else (0.01, Sign.BAD)
            await asyncio.sleep(takes_s)
            limiter.release(ticket, sign, takes_s)
            limiter.pass_on()
            well = well + 1 if sign is Sign.GOOD else 0

    await asyncio.gather(*(one() for _ in range(workers)))


def test_breaker_lets_one_probe_at_a_time_through() -> None:
    """Half a second after it opened, then a second apart, whoever waits."""

    async def main() -> None:
        told: list[str] = []
        limiter = gate(4, guarded=True, told=told)
        await sends(limiter, good(40))
        times: list[float] = []
        begin = virtual.now()
        sending = asyncio.create_task(fails_at(limiter, begin + 20.0, times))
        await asyncio.sleep(10)
        assert limiter.is_open
        assert 8.5 < limiter.outage_s < 10
        assert limiter.in_flight <= 1
        await sending
        probes = [time for time in times if begin + 3 < time < begin + 20]
        assert [after - before for before, after in pairwise(probes)] == pytest.approx(
            [1.01] * (len(probes) - 1), abs=1e-3
        )
        back = [time for time in times if time >= begin + 20][GOOD_TO_CLOSE]
        assert back < begin + 20 + 2
        assert not limiter.is_open
        assert (limiter.outage_s, limiter.seen.outages) == (0, 1)
        assert told == ["breaker.opened", "breaker.closed"]

    virtual.run(main())


def test_a_gate_without_a_breaker_goes_on() -> None:
    """Whatever is answered."""

    async def main() -> None:
        limiter = gate(1)
        await sends(limiter, chain(good(10), repeat((0.1, Sign.BAD), 100)))
        assert not limiter.is_open
        assert virtual.now() == pytest.approx(11, abs=0.01)

    virtual.run(main())


def test_breaker_needs_that_no_good_answer_came_for_two_round_trips() -> None:
    """A burst that is turned away beside good answers is for the law."""

    async def main() -> None:
        limiter = gate(16, guarded=True)
        await sends(limiter, good(160), workers=16)
        for _ in range(20):
            for signs in ([Sign.GOOD] + [Sign.BUSY] * 15, [Sign.BUSY] * 16):
                tickets = [await turn(limiter) for _ in range(16)]
                await asyncio.sleep(0.1)
                for ticket, sign in zip(tickets, signs, strict=True):
                    limiter.release(ticket, sign, 0.1)
                assert not limiter.is_open
        tickets = [await turn(limiter) for _ in range(16)]
        await asyncio.sleep(0.15)
        for ticket in tickets:
            limiter.release(ticket, Sign.BUSY, 0.15)
        assert limiter.is_open

    virtual.run(main())


def test_a_pause_that_is_asked_for_does_not_open_the_breaker() -> None:
    """The endpoint says when it will be back; there is nothing to probe."""

    async def main() -> None:
        limiter = gate(1, guarded=True)
        await sends(limiter, good(10))
        for _ in range(3 * LEAST_BAD):
            ticket = await turn(limiter)
            await asyncio.sleep(0.1)
            limiter.release(ticket, Sign.BUSY, 0.1, pause_s=2.0)
        assert not limiter.is_open

    virtual.run(main())


def test_what_says_nothing_neither_opens_nor_closes_the_breaker() -> None:
    """Refusals and kept connections that were closed."""

    async def main() -> None:
        limiter = gate(1, guarded=True)
        await sends(limiter, repeat((0.1, Sign.NONE), 10 * LEAST_BAD))
        assert not limiter.is_open
        await breaks(limiter)
        assert limiter.is_open
        await sends(limiter, repeat((0.1, Sign.NONE), 10 * GOOD_TO_CLOSE))
        assert limiter.is_open

    virtual.run(main())


@pytest.mark.parametrize(("sign", "shut_out"), [(Sign.BAD, False), (Sign.BUSY, False), (Sign.FORBIDDEN, True)])
def test_after_an_outage_the_law_says_where_to_begin(sign: Sign, shut_out: bool) -> None:
    """It is told what was delivered when the endpoint shut this sender out, and what the outage was worth."""

    async def main() -> None:
        law = Taught(4)
        limiter = gate(law, guarded=True)
        await sends(limiter, good(100), workers=4)
        begin = virtual.now()
        await breaks(limiter, sign)
        assert limiter.is_open
        before, rtt_s = len(law.rounds), limiter.rtt_s
        await sends(limiter, good(GOOD_TO_CLOSE - 1, 0.5), workers=1)
        assert limiter.rtt_s == rtt_s, "nothing is learned from probes"
        await sends(limiter, good(1), workers=1)
        lost_s = virtual.now() - begin
        assert not limiter.is_open
        ((throttled, rests),) = law.outages
        assert throttled == (pytest.approx(4, rel=0.2) if shut_out else 0.0)
        assert rests == pytest.approx(min(lost_s, LONGEST_WORTH_S) / LOSS / (1.5 * 0.1), rel=0.25)
        assert limiter.law.value == 2
        assert len(law.rounds) == before, "nor is a round made of them"

    virtual.run(main())


def test_those_that_wait_for_a_probe_go_on_when_it_is_not_needed_any_more() -> None:
    """Late good answers close the breaker: from then on the rate alone decides, not the next probe's time."""

    async def main() -> None:
        room = LEAST_BAD + GOOD_TO_CLOSE
        limiter = gate(room, max_rps=4, guarded=True)
        late = [await turn(limiter) for _ in range(GOOD_TO_CLOSE)]
        for _ in range(room):
            limiter.release(await turn(limiter), Sign.BAD, 1.0)
        assert limiter.is_open
        begin = virtual.now()
        coming = asyncio.create_task(starts(limiter, [0.0] * 3))
        await asyncio.sleep(0.01)
        for ticket in late:
            limiter.release(ticket, Sign.GOOD, 1.0)
        limiter.pass_on()
        assert not limiter.is_open
        times = await coming
        assert times[0] < begin + 0.3
        assert [after - before for before, after in pairwise(times)] == pytest.approx([0.25] * 2, abs=1e-3)

    virtual.run(main())


def test_what_is_learned_from_an_outage_that_begins_is_not_kept() -> None:
    """The limit with which it begins again follows from the last one under which all was well."""

    async def main() -> None:
        law = Taught(8, script=(7, 6, 5, 4, 3, 2, 1))
        limiter = gate(law, guarded=True)
        tickets = [await turn(limiter) for _ in range(4)]
        await asyncio.sleep(0.1)
        for ticket in tickets:
            limiter.release(ticket, Sign.GOOD, 0.1)
        await breaks(limiter, Sign.BUSY)
        assert limiter.is_open
        assert limiter.law.value < 7
        await sends(limiter, good(GOOD_TO_CLOSE), workers=1)
        assert limiter.law.value == 8 / 2

    virtual.run(main())


# ---- who waits, and who does not any more --------------------------------------------------------------------------


def test_cancelled_waiter_leaves_no_slot_taken() -> None:
    """Neither one that still waits for its turn, nor one that waits out a pause."""

    async def main() -> None:
        limiter = gate(1)
        ticket = await turn(limiter)
        waiting = [await started(limiter.acquire()) for _ in range(3)]
        waiting[0].cancel()
        waiting[1].cancel()
        await settled()
        limiter.release(ticket, Sign.GOOD, 0.0)
        limiter.pass_on()
        ticket = await waiting[2]
        assert limiter.in_flight == 1
        limiter.release(ticket, Sign.BUSY, 0.0, pause_s=5)
        paused = await started(limiter.acquire(again=True))
        paused.cancel()
        await settled()
        assert limiter.in_flight == 0
        await turn(limiter)
        assert limiter.in_flight == 1
        assert virtual.now() == pytest.approx(5, abs=1e-4)

    virtual.run(main())


def test_turn_of_a_waiter_that_is_cancelled_at_that_moment_is_passed_on() -> None:
    """Woken and cancelled in one step: the next one comes through."""

    async def main() -> None:
        limiter = gate(1)
        ticket = await turn(limiter)
        first, second = await started(limiter.acquire()), await started(limiter.acquire())
        limiter.release(ticket, Sign.GOOD, 0.0)
        limiter.pass_on()
        first.cancel()
        assert await asyncio.wait_for(second, 1) is not None
        assert first.cancelled()
        assert limiter.in_flight == 1

    virtual.run(main())


def test_dismissed_are_those_that_wait_for_a_first_attempt() -> None:
    """There is no row left for them; rows that were begun still get their turns, until it is reopened."""

    async def main() -> None:
        limiter = gate(1)
        ticket = await turn(limiter)
        new = [await started(limiter.acquire()) for _ in range(3)]
        again = await started(limiter.acquire(again=True))
        limiter.dismiss()
        assert await asyncio.gather(*new) == [None] * 3
        assert await limiter.acquire() is None
        assert not again.done()
        limiter.release(ticket, Sign.GOOD, 0.0)
        limiter.pass_on()
        limiter.release(await again, Sign.GOOD, 0.0)
        assert await limiter.acquire() is None
        limiter.reopen()
        assert await limiter.acquire() is not None

    virtual.run(main())


def test_a_place_that_is_left_when_there_is_no_row_goes_to_those_that_come_again() -> None:
    """Whoever released it wants another first attempt and is turned away: a row that waits is not forgotten."""

    async def main() -> None:
        for dismissed in (False, True):
            limiter = gate(1)
            ticket = await turn(limiter)
            again = await started(limiter.acquire(again=True))
            if dismissed:
                limiter.dismiss()
            limiter.release(ticket, Sign.GOOD, 0.0)
            last = await started(limiter.acquire())
            assert await asyncio.wait_for(again, 1) is not None
            limiter.dismiss()
            assert await last is None

    virtual.run(main())


@pytest.mark.parametrize("which", range(5))
def test_no_row_is_forgotten_at_the_end_of_a_plan(which: int) -> None:
    """Seeded: workers that go on at once until there are no rows, some of which come again several times."""

    async def main(seed: int) -> None:
        rng, limiter, rows, ended = random.Random(seed), _CHAOS[which](), iter(range(40)), list[int]()

        async def work() -> None:
            while (ticket := limiter.enter() or await limiter.acquire()) is not None:
                row = next(rows, None)
                if row is None:
                    limiter.release(ticket, Sign.NONE, 0.0)
                    limiter.dismiss()
                    limiter.pass_on()
                    return
                while True:
                    takes_s = rng.uniform(0.001, 0.05)
                    await asyncio.sleep(takes_s)
                    limiter.release(ticket, rng.choice([Sign.GOOD, Sign.GOOD, Sign.BUSY, Sign.BAD]), takes_s)
                    if rng.random() < 0.5:
                        break
                    if rng.random() < 0.5:
                        limiter.pass_on()
                        await asyncio.sleep(rng.uniform(0, 0.2))
                    ticket = await turn(limiter, again=True)
                ended.append(row)

        await asyncio.gather(*(work() for _ in range(20)))
        assert sorted(ended) == list(range(40))

    for seed in range(10):
        virtual.run(main(seed))


def test_closed_turns_everybody_away_and_still_takes_back() -> None:
    """From then on nobody is let through, reopened or not; those in flight are released."""

    async def main() -> None:
        limiter = gate(2)
        tickets = [await turn(limiter) for _ in range(2)]
        waiting = [await started(limiter.acquire(again=again)) for again in (False, True)]
        limiter.close()
        assert await asyncio.gather(*waiting) == [None] * 2
        for ticket, sign in zip(tickets, (Sign.GOOD, Sign.BUSY), strict=True):
            limiter.release(ticket, sign, 0.1)
        assert limiter.in_flight == 0
        limiter.reopen()
        assert limiter.enter() is None
        assert [await limiter.acquire(again=again) for again in (False, True)] == [None] * 2

    virtual.run(main())


def test_closed_turns_those_away_that_wait_out_a_pause() -> None:
    """At once, not when the pause is over."""

    async def main() -> None:
        limiter = gate(2)
        asks_for(limiter, 300)
        waiting = await started(limiter.acquire())
        limiter.close()
        assert await waiting is None
        assert virtual.now() < 1

    virtual.run(main())


async def chaos(seed: int, limiter: Limiter, *, signs: Sequence[Sign], cancels: int) -> None:
    """Send from many tasks that come and go at random, and check that all that were not cancelled come through.

    Whoever releases comes back at once as often as not, and else passes its place on.
    """
    rng, through, open_ = random.Random(seed), 0, 0

    async def one() -> None:
        nonlocal through, open_
        await asyncio.sleep(rng.uniform(0, 1))
        sent = 0
        while sent < 3:
            ticket = (limiter.enter() if rng.random() < 0.3 else None) or await turn(limiter, again=sent > 0)
            open_ += 1
            takes_s, sign, pause_s = rng.uniform(0.001, 0.05), rng.choice(signs), 0.0
            if sign is Sign.BUSY and rng.random() < 0.2:
                pause_s = rng.uniform(0, 0.3)
            try:
                await asyncio.sleep(takes_s)
            except asyncio.CancelledError:
                sign = Sign.NONE
                raise
            finally:
                open_ -= 1
                limiter.release(ticket, sign, takes_s, pause_s=pause_s)
                leaves = sign is Sign.NONE or rng.random() < 0.5 or sent == 2
                if leaves:
                    limiter.pass_on()
            sent += 1
            if leaves:
                await asyncio.sleep(rng.choice([0.0, rng.uniform(0, 0.2)]))
        through += 1

    tasks = [asyncio.create_task(one()) for _ in range(60)]
    for task in rng.sample(tasks, cancels):
        await asyncio.sleep(rng.uniform(0, 0.04))
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [end for end in ended if not (end is None or isinstance(end, asyncio.CancelledError))] == []
    assert through == ended.count(None) >= len(tasks) - cancels
    assert open_ == 0
    await asyncio.sleep(1)
    assert limiter.in_flight == 0


_CHAOS: list[Callable[[], Limiter]] = [
    lambda: gate(3),
    lambda: gate(1, 60),
    lambda: gate(Taught(2.5, paced=True)),
    lambda: gate(Taught(4, script=(1, 7, 0.4, 3, 0.8, 2) * 50), guarded=True),
    lambda: gate(Limit.starting(8, 16), 300, guarded=True),
]


@pytest.mark.parametrize("which", range(len(_CHAOS)))
def test_no_waiter_is_forgotten_in_a_storm(which: int) -> None:
    """Seeded chaos of cancels, pauses, failures and changing limits: all come through, and nothing stays taken.

    A waiter that were forgotten is a deadlock in virtual time, which is an error.
    """
    signs = [Sign.GOOD] * 5 + [Sign.BUSY, Sign.BAD, Sign.NONE, Sign.FORBIDDEN]

    async def main(seed: int) -> None:
        await chaos(seed, _CHAOS[which](), signs=signs, cancels=seed % 3 * 10)

    for seed in range(12):
        virtual.run(main(seed))


@pytest.mark.parametrize("which", range(len(_CHAOS)))
def test_no_waiter_is_forgotten_when_a_storm_is_dismissed_or_closed(which: int) -> None:
    """Everybody gets a ticket or is turned away, whenever it happens."""

    async def main(seed: int) -> None:
        rng, limiter = random.Random(seed), _CHAOS[which]()

        async def one() -> None:
            await asyncio.sleep(rng.uniform(0, 0.5))
            while (ticket := await limiter.acquire(again=rng.random() < 0.3)) is not None:
                takes_s = rng.uniform(0.001, 0.05)
                await asyncio.sleep(takes_s)
                limiter.release(ticket, rng.choice([Sign.GOOD, Sign.GOOD, Sign.BUSY, Sign.BAD]), takes_s)
                if rng.random() < 0.5:
                    limiter.pass_on()
                    await asyncio.sleep(rng.uniform(0, 0.1))

        tasks = [asyncio.create_task(one()) for _ in range(30)]
        for _ in range(4):
            await asyncio.sleep(rng.uniform(0, 0.5))
            limiter.dismiss()
            await asyncio.sleep(rng.uniform(0, 0.5))
            limiter.reopen()
            tasks += [asyncio.create_task(one()) for _ in range(5)]
        await asyncio.sleep(rng.uniform(0, 1))
        limiter.close()
        await asyncio.gather(*tasks)
        await asyncio.sleep(1)
        assert limiter.in_flight == 0

    for seed in range(12):
        virtual.run(main(seed))


def test_a_limiter_is_used_as_one_that_releases_without_passing_on_needs_to_come_back() -> None:
    """What the storm relies on: a place that is neither passed on nor asked for again stays with who released it."""

    async def main() -> None:
        limiter = gate(1)
        ticket = await turn(limiter)
        waiting = await started(limiter.acquire())
        limiter.release(ticket, Sign.GOOD, 0.1)
        await asyncio.sleep(60)
        assert not waiting.done()
        own = limiter.enter()
        assert own is not None
        limiter.release(own, Sign.GOOD, 0.1)
        limiter.pass_on()
        assert await waiting is not None

    virtual.run(main())
