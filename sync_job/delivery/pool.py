"""The workers: they take rows of the plan in order, send each until it settles, and say how it ended.

The plan, the endpoint, the record and the clock come in as arguments, so that a pool can be tested with a scripted
endpoint in virtual time. Nothing here is global: several pools can stand side by side.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from sync_job.config import DeliverySettings
from sync_job.consent.channels import LOW_BITS
from sync_job.consent.fold import DOUBT_DENIALS, DOUBT_WHOLE, Outcome
from sync_job.delivery import retry
from sync_job.delivery.limit import Limit
from sync_job.delivery.limiter import Limiter
from sync_job.delivery.verdict import Answer, Codes, Failure, Kind, Verdict, judge, pause_s


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


class Record(Protocol):
    """Where outcomes are kept."""

    async def clear(self, row: int) -> None:
        """Return when *row* may be dispatched."""
        ...

    def settle(self, sending: Sending, outcome: Outcome, denials: Outcome, at: float) -> None:
        """Keep how a row ended."""
        ...


@dataclass(frozen=True)
class World:
    """What time and chance are: epoch seconds for what is written down, a monotonic clock for waiting."""

    now: Callable[[], float]
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: random.Random = field(default_factory=random.Random)


class Reason(Enum):
    """Why a pool stopped before its plan was done."""

    ASKED = "asked to stop"
    ENDPOINT = "the endpoint"


class Stop:
    """Asks a pool to stop: no new row is taken, waits are dropped, what is in flight settles."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason: Reason | None = None
        self.why = ""

    def ask(self, reason: Reason, why: str) -> None:
        """Stop, for this reason; the first one stays."""
        if self.reason is None:
            self.reason, self.why = reason, why
            self._event.set()

    def __bool__(self) -> bool:
        return self.reason is not None

    async def wait(self) -> None:
        """Return when it was asked."""
        await self._event.wait()


class _StoppedError(Exception):
    """A wait was dropped because the pool stops."""


@dataclass
class Progress:
    """How far a pool is, for those who watch."""

    settled: int = 0
    requests: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))


class Pool:
    """Delivers the rows of one plan."""

    def __init__(
        self, endpoint: Endpoint, record: Record, settings: DeliverySettings, codes: Codes, world: World, stop: Stop
    ) -> None:
        self.progress = Progress()
        self._endpoint = endpoint
        self._record = record
        self._settings = settings
        self._codes = codes
        self._world = world
        self._stop = stop
        self._limiter = Limiter(
            Limit(settings.max_concurrency), max_rps=settings.max_rps, clock=world.clock, sleep=self._sleep
        )
        self._policy = retry.policy(settings.attempts, world.rng, self._sleep)
        self._good = False
        self._last_good = world.clock()

    async def deliver(self, rows: Iterator[tuple[int, int, int]]) -> None:
        """Send *rows* (place in the plan, client, Sent byte) and record how each ended; return when all have.

        A row that was not taken is not recorded: it was never dispatched.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.max_concurrency):
                group.create_task(self._work(rows))

    async def _work(self, rows: Iterator[tuple[int, int, int]]) -> None:
        while not self._stop:
            taken = next(rows, None)
            if taken is None:
                return
            row, client, sent = taken
            await self._record.clear(row)
            sending = Sending(row)
            outcome, denials = await self._send_row(sending, client, sent)
            self._record.settle(sending, outcome, denials, self._world.now())
            self.progress.settled += 1
            self.progress.outcomes[outcome] += 1

    async def _send_row(self, sending: Sending, client: int, sent: int) -> tuple[Outcome, Outcome]:
        """Return the outcome of the row and, where its denials were repeated without its grants, theirs (else OPEN)."""
        outcome = await self._send(sending, client, sent, DOUBT_WHOLE)
        denial = sent & int(LOW_BITS)
        if outcome is Outcome.REFUSED and denial and denial != sent and not self._stop:
            # A refused grant never strands a denial.
            return outcome, await self._send(sending, client, denial, DOUBT_DENIALS)
        return outcome, Outcome.OPEN

    async def _send(self, sending: Sending, client: int, sent: int, doubt: int) -> Outcome:
        """Send one request until it settles; tenacity comes in only after a transient failure."""
        spent = retry.Spent()
        at_once_left = 1
        refused = False

        async def attempt() -> None:
            nonlocal at_once_left, refused
            verdict, answer = await self._attempt(sending, client, sent, doubt)
            spent.count(verdict.kind)
            match verdict.kind:
                case Kind.DELIVERED:
                    return
                case Kind.REFUSED:
                    refused = True
                    return
                case Kind.STOP:
                    self._stop.ask(Reason.ENDPOINT, verdict.why)
                    raise _StoppedError
            broken = answer.reused and answer.failure in (Failure.RESET, Failure.NOT_WRITTEN)
            at_once = broken and at_once_left > 0
            if at_once:
                # The server closed a kept connection: no sign of load, and no attempt of the row's.
                at_once_left -= 1
                spent.attempts -= 1
            raise retry.TransientError(verdict, self._pause_s(answer), at_once=at_once)

        try:
            try:
                await attempt()
            except retry.TransientError as first:
                await self._again(first, attempt, spent)
        except _StoppedError:
            return Outcome.DEFERRED
        except retry.TransientError as last:
            return self._gave_up(last.verdict)
        return Outcome.REFUSED if refused else Outcome.DELIVERED

    async def _again(
        self, first: retry.TransientError, attempt: Callable[[], Awaitable[None]], spent: retry.Spent
    ) -> None:
        """Try on; the first call raises the failure that there already was, so that waits and counts stay right."""
        stored: list[retry.TransientError] = [first]

        async def call() -> None:
            if stored:
                raise stored.pop()
            await attempt()

        await self._policy(spent)(call)

    async def _attempt(self, sending: Sending, client: int, sent: int, doubt: int) -> tuple[Verdict, Answer]:
        await self._limiter.acquire()
        try:
            if self._stop:
                raise _StoppedError
            began = self._world.now()
            sending.first_sent = sending.first_sent or began
            sending.attempts += 1
            self.progress.requests += 1
            answer = await self._endpoint.attempt(client, sent)
        finally:
            self._limiter.release()
        verdict = judge(answer, self._codes, good_before=self._good)
        if verdict.doubt:
            sending.doubt |= doubt
            sending.doubt_at = self._world.now()
        sending.status = answer.status
        sending.code = answer.reply.code if answer.reply else None
        sending.message = (
            answer.reply.message if answer.reply else "" if verdict.kind is Kind.DELIVERED else verdict.why
        )
        if answer.reply is not None and answer.status == 200:
            self._good = True
            self._last_good = self._world.clock()
        elif self._world.clock() - self._last_good > self._settings.max_outage_s:
            self._stop.ask(
                Reason.ENDPOINT, f"no good answer for {self._settings.max_outage_s:g} s; the last was: {verdict.why}"
            )
        return verdict, answer

    def _pause_s(self, answer: Answer) -> float:
        pause = pause_s(answer.retry_after, datetime.fromtimestamp(self._world.now(), UTC))
        if pause:
            self._limiter.pause(pause)
        return pause

    def _gave_up(self, last: Verdict) -> Outcome:
        if not self._good:
            # Not one good answer in this run: it is not the row.
            self._stop.ask(Reason.ENDPOINT, f"not one good answer; the last was: {last.why}")
            return Outcome.DEFERRED
        return Outcome.EXHAUSTED

    async def _sleep(self, seconds: float) -> None:
        """Wait, unless the pool stops meanwhile.

        Raises:
            _StoppedError: when it does.
        """
        if self._stop:
            raise _StoppedError
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
            raise _StoppedError
