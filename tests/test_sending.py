"""One row on its way: what an answer says to the gate, when it is sent again, and how waits end when the pool stops."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from sync_job.config import DeliverySettings
from sync_job.consent.channels import parse_letters
from sync_job.consent.fold import DOUBT_WHOLE, Outcome
from sync_job.delivery.limit import Fixed, Round
from sync_job.delivery.limiter import Limiter
from sync_job.delivery.sending import BUSY_AT_ONCE, MOST_BUSY, Reason, Sender, Sending, Stop, StoppedError, World
from sync_job.delivery.verdict import Answer, Codes, Failure
from sync_job.delivery.wire import Reply
from tests import virtual

GRANTS, DENIALS = map(parse_letters, ("TT--", "FF--"))
GOOD, NO = Answer(200, Reply(0, "")), Answer(200, Reply(1, "нет"))
EPOCH_S = 1_700_000_000.0


@dataclass(frozen=True)
class Told(Fixed):
    """A fixed limit that remembers the rounds."""

    rounds: list[Round] = field(default_factory=list)

    def after(self, round_: Round) -> "Told":
        """Return the same."""
        self.rounds.append(round_)
        return self


@dataclass
class Desk:
    """A sender with all that it needs; its endpoint answers as the script says, a tenth of a second each."""

    answers: Sequence[Answer]
    attempts: int = 5
    at: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stop = Stop()
        self.law = Told(1)
        self.limiter = Limiter(
            self.law,
            max_rps=0,
            clock=virtual.now,
            later=asyncio.get_running_loop().call_later,
            draw=lambda: 0.5,
            guarded=False,
        )
        self.stop.then(self.limiter.close)
        settings = DeliverySettings.model_validate({"attempts": self.attempts})
        world = World(lambda: EPOCH_S + virtual.now(), virtual.now, virtual.sleep, random.Random(1))
        self.sender = Sender(self, self.limiter, settings, Codes(), world, self.stop)

    async def attempt(self, client: int, sent: int) -> Answer:
        """Answer as the script says; the last answer repeats."""
        self.at.append(virtual.now())
        await asyncio.sleep(0.1)
        return self.answers[min(len(self.at), len(self.answers)) - 1]

    async def send(self, sending: Sending | None = None, sent: int = GRANTS) -> tuple[Outcome, Outcome]:
        """Return how a row ended."""
        ticket = await self.limiter.acquire()
        assert ticket is not None
        return await self.sender.send(sending or Sending(0), 7, sent, ticket)


@pytest.mark.parametrize(
    ("answer", "turned_away", "busy"),
    [
        (GOOD, 0, 0),
        (NO, 0, 0),
        (Answer(429), 1, 1),
        (Answer(503), 1, 1),
        (Answer(failure=Failure.TIMEOUT), 1, 1),
        (Answer(403), 1, 0),
        (Answer(400), 0, 0),
        (Answer(500), 0, 0),
        (Answer(200), 0, 0),
        (Answer(failure=Failure.NOT_CONNECTED), 0, 0),
        (Answer(failure=Failure.RESET), 0, 0),
        (Answer(failure=Failure.RESET, reused=True), 0, 0),
    ],
)
def test_what_is_overload_and_what_is_not(answer: Answer, turned_away: int, busy: int) -> None:
    """429, 503 and timeouts cut the limit; a 403 is for the breaker; nothing else is about load."""

    async def main() -> None:
        desk = Desk([GOOD, answer, GOOD])
        await desk.send()
        await desk.send()
        assert desk.limiter.seen.turned_away == turned_away
        assert sum(round_.busy for round_ in desk.law.rounds) == busy

    virtual.run(main())


@pytest.mark.parametrize(
    ("answer", "requests", "samples"),
    [(GOOD, 2, 2), (NO, 2, 2), (Answer(404), 2, 1), (Answer(500), 3, 2), (Answer(503), 3, 2), (Answer(200), 3, 2)],
)
def test_samples_are_the_answers_of_the_platform_itself(answer: Answer, requests: int, samples: int) -> None:
    """An ErrorCode took its way through the platform; a status may come from a proxy in front of it."""

    async def main() -> None:
        desk = Desk([GOOD, answer, GOOD])
        await desk.send()
        await desk.send()
        assert len(desk.at) == requests
        assert sum(round_.answers for round_ in desk.law.rounds) == samples

    virtual.run(main())


def test_what_is_known_of_the_endpoint_holds_for_all_rows() -> None:
    """A good answer, and since when there was none, with what was said last."""

    async def main() -> None:
        desk = Desk([Answer(500), NO, Answer(503), Answer(502), GOOD])
        sender = desk.sender
        assert (sender.good, sender.bad_since, sender.requests) == (False, None, 0)
        await desk.send()
        assert (sender.good, sender.bad_since, sender.requests) == (True, None, 2)
        sending = asyncio.create_task(desk.send())
        await asyncio.sleep(0.15)
        assert sender.bad_since == pytest.approx(desk.at[2] + 0.1)
        assert sender.last_bad == "HTTP 503: busy"
        await sending
        assert (sender.bad_since, sender.last_bad) == (None, "HTTP 502")

    virtual.run(main())


def test_a_busy_row_goes_back_to_the_gate_at_once_and_later_waits_besides() -> None:
    """The gate holds back; only where it alone is the cause does the row itself."""

    async def main() -> None:
        desk = Desk([Answer(503)] * MOST_BUSY + [GOOD])
        assert await desk.send() == (Outcome.DELIVERED, Outcome.OPEN)
        gaps = [after - before - 0.1 for before, after in pairwise(desk.at)]
        assert gaps[:BUSY_AT_ONCE] == pytest.approx([0] * BUSY_AT_ONCE, abs=1e-4)
        waits = gaps[BUSY_AT_ONCE:]
        assert all(0 < wait <= min(30, 0.5 * 2**n) + 1e-4 for n, wait in enumerate(waits))
        assert sum(waits) > 5

    virtual.run(main())


def test_a_busy_row_leaves_its_place_to_others_while_it_waits() -> None:
    """Nobody is held up by a row that sleeps."""

    async def main() -> None:
        desk = Desk([Answer(503)] * (BUSY_AT_ONCE + 1) + [GOOD])
        sending = asyncio.create_task(desk.send())
        await asyncio.sleep(0.1 * (BUSY_AT_ONCE + 1) - 0.05)
        other = asyncio.create_task(desk.limiter.acquire())
        await asyncio.sleep(0.06)
        assert other.done()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    virtual.run(main())


def test_a_row_that_was_never_sent_knows_nothing() -> None:
    """First dispatch and attempts are counted when a request is made, and not before."""

    async def main() -> None:
        desk, sending = Desk([Answer(failure=Failure.TIMEOUT), GOOD]), Sending(3)
        assert (sending.attempts, sending.first_sent, sending.doubt) == (0, None, 0)
        await asyncio.sleep(5)
        await desk.send(sending)
        assert (sending.row, sending.attempts, sending.first_sent) == (3, 2, EPOCH_S + 5)
        assert sending.doubt == DOUBT_WHOLE
        assert sending.doubt_at == pytest.approx(EPOCH_S + 5.1)

    virtual.run(main())


def test_a_bug_releases_its_place_and_comes_out() -> None:
    """No error of ours is taken for an answer."""

    class Broken(Desk):
        async def attempt(self, client: int, sent: int) -> Answer:
            raise ZeroDivisionError

    async def main() -> None:
        desk = Broken([GOOD])
        with pytest.raises(ZeroDivisionError):
            await desk.send()
        assert desk.limiter.in_flight == 0

    virtual.run(main())


def test_a_cancel_that_is_no_cut_goes_through() -> None:
    """Whoever ends the program is not held up, and the row is not said to be in doubt by us."""

    async def main() -> None:
        desk, sending = Desk([GOOD]), Sending(0)
        task = asyncio.create_task(desk.send(sending))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (sending.doubt, desk.limiter.in_flight) == (0, 0)

    virtual.run(main())


def test_a_cut_leaves_the_row_in_doubt_and_goes_on() -> None:
    """The task that is cancelled then ends as if the pool had stopped."""

    async def main() -> None:
        desk, sending = Desk([GOOD]), Sending(0)
        task = asyncio.create_task(desk.send(sending))
        await asyncio.sleep(0.05)
        desk.sender.cut = True
        task.cancel()
        assert await task == (Outcome.DEFERRED, Outcome.OPEN)
        assert (task.cancelling(), sending.doubt, sending.attempts) == (0, DOUBT_WHOLE, 1)
        assert desk.limiter.in_flight == 0

    virtual.run(main())


# ---- stop ----------------------------------------------------------------------------------------------------------


def test_a_sleep_ends_when_the_pool_stops() -> None:
    """At once, with an error that says so; and none begins afterwards, however short."""

    async def main() -> None:
        desk = Desk([GOOD])
        await desk.sender.sleep(2.0)
        assert virtual.now() == pytest.approx(2.0)
        asyncio.get_running_loop().call_later(3.0, desk.stop.ask, Reason.ASKED, "enough")
        with pytest.raises(StoppedError):
            await desk.sender.sleep(1000.0)
        assert virtual.now() == pytest.approx(5.0)
        with pytest.raises(StoppedError):
            await desk.sender.sleep(0.0)
        await asyncio.sleep(1)
        assert len(asyncio.all_tasks()) == 1, "what slept and what waited is cleared away"

    virtual.run(main())


def test_first_reason_to_stop_stays() -> None:
    """What comes later is a consequence."""

    async def main() -> None:
        stop = Stop()
        assert not stop
        assert (stop.reason, stop.why) == (None, "")
        stop.ask(Reason.ENDPOINT, "first")
        stop.ask(Reason.ASKED, "second")
        await stop.wait()
        assert stop
        assert (stop.reason, stop.why) == (Reason.ENDPOINT, "first")

    virtual.run(main())


def test_whoever_wants_to_know_of_a_stop_is_called_once() -> None:
    """When it is asked, or at once where it was asked before."""

    async def main() -> None:
        stop, calls = Stop(), list[str]()
        stop.then(lambda: calls.append("before"))
        assert calls == []
        stop.ask(Reason.ASKED, "enough")
        stop.ask(Reason.ASKED, "again")
        assert calls == ["before"]
        stop.then(lambda: calls.append("after"))
        assert calls == ["before", "after"]

    virtual.run(main())
