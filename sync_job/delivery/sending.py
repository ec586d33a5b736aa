"""One row, from its first attempt until it settles: attempts, waits, what is known of it meanwhile, and its outcome."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from sync_job.config import DeliverySettings
from sync_job.consent.channels import LOW_BITS
from sync_job.consent.fold import DOUBT_DENIALS, DOUBT_WHOLE, Outcome
from sync_job.delivery import retry
from sync_job.delivery.limiter import Limiter, Sign, Ticket
from sync_job.delivery.verdict import Answer, Codes, Failure, Kind, Verdict, judge, pause_s

HOPELESS = 5  # rows out of attempts before any good answer: it is not the rows
MOST_BUSY = 10  # then others go first, lest rows that alone are turned away keep all workers
BUSY_AT_ONCE = 3  # a row that is turned away goes back to the gate; later it waits besides, lest it alone is the cause


class Endpoint(Protocol):
    """What changes are sent to."""

    async def attempt(self, client: int, sent: int) -> Answer:
        """Send one request and return what came of it."""
        ...


@dataclass(slots=True)
class Sending:
    """What is known of one row so far; times in epoch seconds."""

    row: int
    attempts: int = 0
    doubt: int = 0
    doubt_at: float = 0.0
    status: int | None = None
    code: int | None = None
    message: str = ""
    first_sent: float | None = None


@dataclass(frozen=True)
class World:
    """What time and chance are, and who is told: epoch seconds for what is written down, a monotonic clock for waiting.

    *tell* takes the events of a delivery: a name and fields.
    """

    now: Callable[[], float]
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)
    tell: Callable[..., None] = lambda event, **fields: None


class Reason(Enum):
    """Why a pool stopped before its plan was done."""

    ASKED = "asked to stop"
    DEADLINE = "the time is up"
    LIST = "a list came in"
    STALE = "the export became too old"
    ENDPOINT = "the endpoint"
    HOPELESS = "no good answer"
    OUTAGE = "no good answer for too long"
    CANARY = "the canary rows"
    HANDOVER = "another run takes over"


class Stop:
    """Asks a pool to stop: no new row is taken, waits are dropped, what is in flight settles."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._then: list[Callable[[], None]] = []
        self.reason: Reason | None = None
        self.why = ""

    def ask(self, reason: Reason, why: str) -> None:
        """Stop, for this reason; the first one stays."""
        if self.reason is None:
            self.reason, self.why = reason, why
            self._event.set()
            for call in self._then:
                call()

    def __bool__(self) -> bool:
        return self.reason is not None

    def then(self, call: Callable[[], None]) -> None:
        """Call when it is asked, or now if it was."""
        self._then.append(call)
        if self:
            call()

    async def wait(self) -> None:
        """Return when it was asked."""
        await self._event.wait()


_GRANTS = int(LOW_BITS) << 1  # the bits of a byte that say *allowed*
_DELIVERED = (Outcome.DELIVERED, Outcome.OPEN)


class StoppedError(Exception):
    """The row is left to the next run: the pool stops, or this row was turned away so often that others go first."""


class Sender:
    """Sends rows; what it has learned of the endpoint holds for all of them."""

    def __init__(
        self,
        endpoint: Endpoint,
        limiter: Limiter,
        settings: DeliverySettings,
        codes: Codes,
        world: World,
        stop: Stop,
        may_grant: Callable[[], bool] = lambda: True,
        *,
        good: bool = False,
    ) -> None:
        self.requests = 0
        self.good = good
        self.last = False  # nothing is tried once more any longer
        self.hopeless = 0
        self.bad_since: float | None = None
        self.last_bad = ""
        self._endpoint = endpoint
        self._limiter = limiter
        self._settings = settings
        self._codes = codes
        self._world = world
        self._stop = stop
        self._may_grant = may_grant
        self._budget = retry.Budget(world.clock)
        self._policy = retry.policy(settings.attempts, world.rng, self.sleep, self._budget)
        self.cut = False  # whoever is cancelled from now on leaves its row in doubt, and goes on

    async def send(self, sending: Sending, client: int, sent: int, ticket: Ticket) -> tuple[Outcome, Outcome]:
        """Return the outcome of a row and, where its denials were repeated without its grants, theirs (else OPEN).

        *ticket* is for its first attempt.
        """
        try:
            met = await self._attempt(sending, client, sent, DOUBT_WHOLE, ticket)
        except StoppedError:
            return Outcome.DEFERRED, Outcome.OPEN
        if met[0].kind is Kind.DELIVERED:
            return _DELIVERED
        outcome = await self._settle(sending, client, sent, DOUBT_WHOLE, met=met)
        denial = sent & int(LOW_BITS)
        if outcome is Outcome.REFUSED and denial and denial != sent and not self._stop:
            # A refused grant never strands a denial.
            return outcome, await self.repeat(sending, client, sent, None)
        return outcome, Outcome.OPEN

    async def repeat(self, sending: Sending, client: int, sent: int, ticket: Ticket | None) -> Outcome:
        """Return the outcome of the denials of a row that was refused whole."""
        return await self._settle(sending, client, sent & int(LOW_BITS), DOUBT_DENIALS, ticket=ticket)

    async def _settle(
        self,
        sending: Sending,
        client: int,
        sent: int,
        doubt: int,
        *,
        ticket: Ticket | None = None,
        met: tuple[Verdict, Answer] | None = None,
    ) -> Outcome:
        """Send one request until it settles; tenacity comes in only after a transient failure.

        *ticket* is for the first attempt; or that was made already, and *met* this answer.
        """
        spent = retry.Spent()

        async def attempt() -> Outcome:
            nonlocal ticket, met
            while True:
                if met is None:
                    mine = ticket or await self._limiter.acquire(again=True)
                    if mine is None:
                        raise StoppedError
                    ticket, met = None, await self._attempt(sending, client, sent, doubt, mine)
                (verdict, answer), met = met, None
                if verdict.kind is Kind.DELIVERED:
                    return Outcome.DELIVERED
                if verdict.kind is Kind.REFUSED:
                    return Outcome.REFUSED
                await self._go_on(spent, verdict, answer)

        try:
            try:
                return await attempt()
            except retry.TransientError as first:
                return await self._again(first, attempt, spent)
        except StoppedError:
            return Outcome.DEFERRED
        except asyncio.CancelledError:
            self._outlive()
            return Outcome.DEFERRED
        except retry.TransientError as last:
            self.hopeless += not self.good
            if self.good or (self.hopeless < HOPELESS and not self.last):
                return Outcome.EXHAUSTED
            # Not one good answer so far: it is not the row.
            self._stop.ask(Reason.HOPELESS, f"not one good answer; the last was: {last.verdict.why}")
            return Outcome.DEFERRED

    async def _go_on(self, spent: retry.Spent, verdict: Verdict, answer: Answer) -> None:
        """Return when the row is to be sent again at once.

        Raises:
            StoppedError: when the row is left to the next run.
            TransientError: when the row has to wait, or to be given up, which is for the retry policy to say.
        """
        spent.count(verdict.kind)
        if verdict.kind is Kind.STOP:
            self._stop.ask(Reason.ENDPOINT, verdict.why)
            raise StoppedError
        if verdict.kind is Kind.BUSY:
            # The gate holds it back; where that alone would not do, because only this row is turned away, it waits.
            if spent.busy > MOST_BUSY and (self.good or not self.last):
                self._limiter.pass_on()
                raise StoppedError
            if spent.busy > BUSY_AT_ONCE:
                self._limiter.pass_on()
                await self.sleep(self._world.rng.uniform(0, retry.longest_wait_s(spent.busy - BUSY_AT_ONCE)))
            return
        if not spent.reset and answer.reused and answer.failure in (Failure.RESET, Failure.NOT_WRITTEN):
            # The server closed a kept connection: no sign of load, and no attempt of the row's.
            spent.reset = True
            spent.attempts -= 1
            return
        self._limiter.pass_on()
        raise retry.TransientError(verdict, _pause_s(answer, self._world))

    async def _again(
        self, first: retry.TransientError, attempt: Callable[[], Awaitable[Outcome]], spent: retry.Spent
    ) -> Outcome:
        """Try on; the first call raises the failure that there already was, so that waits and counts stay right."""
        stored: list[retry.TransientError] = [first]

        async def call() -> Outcome:
            if stored:
                raise stored.pop()
            return await attempt()

        outcome: Outcome = await self._policy(spent)(call)
        return outcome

    async def _attempt(
        self, sending: Sending, client: int, sent: int, doubt: int, ticket: Ticket
    ) -> tuple[Verdict, Answer]:
        # Asked at each dispatch, and nothing is awaited from here until the request is made.
        if sent & _GRANTS and not self._may_grant():
            self._limiter.release(ticket, Sign.NONE, 0.0)
            self._limiter.pass_on()
            raise StoppedError
        sign, pause_s, clock = Sign.NONE, 0.0, self._world.clock
        began = clock()
        if sending.first_sent is None:
            sending.first_sent = self._world.now()
        sending.attempts += 1
        self.requests += 1
        self._budget.request()
        try:
            answer = await self._endpoint.attempt(client, sent)
            verdict = judge(answer, self._codes, good_before=self.good)
            sign = _sign(verdict, answer)
            if answer.retry_after:
                pause_s = _pause_s(answer, self._world)
        except asyncio.CancelledError:
            self._outlive()
            sending.doubt |= doubt
            sending.doubt_at = self._world.now()
            sending.status, sending.code, sending.message = None, None, "cut off: the run was ended"
            raise StoppedError from None
        finally:
            self._limiter.release(ticket, sign, clock() - began, pause_s=pause_s)
        if verdict.doubt:
            sending.doubt |= doubt
            sending.doubt_at = self._world.now()
        reply = answer.reply
        sending.status = answer.status
        if reply is not None:
            sending.code, sending.message = reply.code, reply.message
        else:
            sending.code, sending.message = None, verdict.why
        if sign is Sign.GOOD:
            self.good, self.bad_since = True, None
        elif sign is not Sign.NONE:
            self.bad_since = clock() if self.bad_since is None else self.bad_since
            self.last_bad = verdict.why
        return verdict, answer

    def _outlive(self) -> None:
        """Go on after a cancellation, if it only cut off what was going on; the one that is being handled."""
        if not self.cut:
            raise
        if task := asyncio.current_task():
            task.uncancel()

    async def sleep(self, seconds: float) -> None:
        """Wait, unless the pool stops meanwhile.

        Raises:
            StoppedError: when it does.
        """
        if self._stop:
            raise StoppedError
        if seconds <= 0:
            return
        sleeping = asyncio.ensure_future(self._world.sleep(seconds))
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((sleeping, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            stopping.cancel()
        if self._stop:
            raise StoppedError


def _sign(verdict: Verdict, answer: Answer) -> Sign:
    """Return what an attempt says of the endpoint."""
    if answer.reply is not None and answer.status == 200:
        return Sign.GOOD
    if answer.status == 403 and verdict.kind is Kind.BUSY:
        return Sign.FORBIDDEN
    if verdict.kind is Kind.BUSY or answer.failure is Failure.TIMEOUT:
        return Sign.BUSY
    if verdict.kind is Kind.REFUSED or (answer.reused and answer.failure in (Failure.RESET, Failure.NOT_WRITTEN)):
        return Sign.NONE
    return Sign.BAD


def _pause_s(answer: Answer, world: World) -> float:
    if not answer.retry_after:
        return 0.0
    return pause_s(answer.retry_after, datetime.fromtimestamp(world.now(), UTC))
