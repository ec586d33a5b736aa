"""The workers: they take rows of the plan in order, send each until it settles, and say how it ended.

The plan, the endpoint, the record and the clock come in as arguments, so that a pool can be tested with a scripted
endpoint in virtual time. Nothing here is global: several pools can stand side by side.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, Protocol

from sync_job.config import DeliverySettings
from sync_job.consent.fold import Outcome
from sync_job.delivery.limit import Law, Limit
from sync_job.delivery.limiter import LATE, Limiter, Sign, Ticket
from sync_job.delivery.sending import Endpoint, Reason, Sender, Sending, Stop, World
from sync_job.delivery.verdict import Codes

Row = tuple[int, int, int]  # place in the plan, client, Sent byte

SPARE_WORKERS = 64  # for rows that wait between two attempts
LEAST_MARGIN_S = 1.0  # between the last row taken and the end
MOST_ONCE_MORE = 10_000  # rows that are kept in memory for a last pass; an endpoint that fails more is no use to it


class Record(Protocol):
    """Where outcomes are kept."""

    async def clear(self, row: int) -> None:
        """Return when *row* may be dispatched."""
        ...

    def settle(self, sending: Sending, outcome: Outcome, denials: Outcome, at: float) -> None:
        """Keep how a row ended."""
        ...


@dataclass
class Progress:
    """How far a pool is, for those who watch."""

    settled: int = 0
    once_more: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))


class Pool:
    """Delivers the rows of one plan, beginning with *law* or, without one, with an adaptive limit of 1.

    *good*: the endpoint gave a good answer before, in the same run. *may_grant* is asked before each request that
    allows something, first or repeated. If it says no it has asked the pool to stop, and the row is deferred.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        record: Record,
        settings: DeliverySettings,
        codes: Codes,
        world: World,
        stop: Stop,
        *,
        law: Law | None = None,
        guarded: bool = True,
        good: bool = False,
        may_grant: Callable[[], bool] = lambda: True,
    ) -> None:
        self.progress = Progress()
        self.refused_alike: Sending | None = None  # the last of the canaries, where they stopped the pool
        self.limiter = Limiter(
            law or Limit.starting(1.0, settings.max_concurrency),
            max_rps=settings.max_rps,
            ceiling=settings.max_concurrency,
            clock=world.clock,
            later=asyncio.get_running_loop().call_later,
            draw=world.rng.random,
            tell=world.tell,
            guarded=guarded,
        )
        self._record = record
        self._settings = settings
        self._world = world
        self._stop = stop
        self._sender = Sender(endpoint, self.limiter, settings, codes, world, stop, may_grant, good=good)
        self._once_more: list[_Task] = []
        self._workers: Sequence[asyncio.Task[object]] = ()
        stop.then(self.limiter.close)

    @property
    def requests(self) -> int:
        """How many requests were made."""
        return self._sender.requests

    @property
    def good(self) -> bool:
        """Whether there was a good answer."""
        return self._sender.good

    async def deliver(self, rows: Iterator[Row], *, first: int = 0, canaries: int = 0, until: float = 0.0) -> None:
        """Send *rows* and record how each ended; return when all have.

        The *first* rows go like any other, then so many *canaries* one at a time, then the rest. *until*, in epoch
        seconds, is when the last answer has to be there; 0 for no end. A row that was not taken is not recorded: it
        was never dispatched.
        """
        fresh = (_Task(Sending(row), client, sent) for row, client, sent in rows)
        watching = asyncio.create_task(self._watch(until))
        try:
            if first:
                await self._pass(islice(fresh, first))
            if not canaries or await self._sung(islice(fresh, canaries), canaries):
                await self._pass(fresh)
            if self._once_more and not self._stop:
                self.progress.once_more = len(self._once_more)
                self._world.tell("changes.once_more", rows=len(self._once_more))
                again = iter(self._once_more)
                self._sender.last = True
                await self._pass(again, last=True)
                self._once_more = list(again)  # not taken any more: the pool was stopped
            for task in self._once_more:
                self._settle(task, *task.deferred())
        finally:
            watching.cancel()

    def cut_off(self) -> None:
        """End the attempts that are in flight, and leave their rows in doubt; the pool was asked to stop before."""
        self._sender.cut = True
        for worker in self._workers:
            worker.cancel()

    async def _pass(self, tasks: Iterator["_Task"], *, last: bool = False) -> None:
        self.limiter.reopen()
        async with asyncio.TaskGroup() as group:
            workers = range(self._settings.max_concurrency + SPARE_WORKERS)
            self._workers = [group.create_task(self._work(tasks, last=last)) for _ in workers]

    async def _work(self, tasks: Iterator["_Task"], *, last: bool) -> None:
        # The turn comes before the row: what waits for a turn has not been dispatched, whatever kills the run.
        while (ticket := self.limiter.enter() or await self.limiter.acquire()) is not None:
            task = next(tasks, None)
            if task is None:
                self.limiter.release(ticket, Sign.NONE, 0.0)
                self.limiter.dismiss()
                self.limiter.pass_on()
                return
            await self._carry_out(task, ticket, last=last)

    async def _carry_out(self, task: "_Task", ticket: Ticket, *, last: bool = False) -> tuple[Outcome, Outcome]:
        """Return how a row ended, which is kept, unless it is to be tried once more at the end."""
        await self._record.clear(task.sending.row)
        if self._stop:
            self.limiter.release(ticket, Sign.NONE, 0.0)  # nobody waits any more
            outcome, denials = task.deferred()
        elif task.refused:
            outcome, denials = Outcome.REFUSED, await self._sender.repeat(task.sending, task.client, task.sent, ticket)
        else:
            outcome, denials = await self._sender.send(task.sending, task.client, task.sent, ticket)
        out = Outcome.EXHAUSTED in (outcome, denials) or (Outcome.DEFERRED in (outcome, denials) and not self._stop)
        if out and not last and len(self._once_more) < MOST_ONCE_MORE:
            self._once_more.append(task._replace(refused=outcome is Outcome.REFUSED))
        else:
            self._settle(task, outcome, denials)
        return outcome, denials

    def _settle(self, task: "_Task", outcome: Outcome, denials: Outcome) -> None:
        self._record.settle(task.sending, outcome, denials, self._world.now())
        self.progress.settled += 1
        self.progress.outcomes[outcome] += 1
        if outcome is Outcome.REFUSED:
            self._world.tell("change.refused", status=task.sending.status, code=task.sending.code)
        elif outcome is Outcome.EXHAUSTED:
            self._world.tell("change.exhausted", status=task.sending.status, code=task.sending.code)

    async def _sung(self, tasks: Iterator["_Task"], number: int) -> bool:
        """Do what `_sing` does, in a task that can be cut off."""
        singing = asyncio.create_task(self._sing(tasks, number))
        self._workers = (singing,)
        try:
            return await singing
        finally:
            singing.cancel()

    async def _sing(self, tasks: Iterator["_Task"], number: int) -> bool:
        """Send rows one at a time until one is not refused, or not like the first; return whether to go on."""
        self.limiter.reopen()
        said: set[tuple[int | None, int | None]] = set()
        for count in range(1, number + 1):
            # As everywhere, the turn comes before the row.
            ticket = await self.limiter.acquire()
            if ticket is None:
                return False
            task = next(tasks, None)
            if task is None:
                self.limiter.release(ticket, Sign.NONE, 0.0)
                return False
            outcome, denials = await self._carry_out(task, ticket)
            said.add((task.sending.status, task.sending.code))
            if outcome is not Outcome.REFUSED or denials is Outcome.DELIVERED or len(said) > 1:
                return True
            if count == number:
                self.refused_alike = task.sending
                self._stop.ask(Reason.CANARY, f"the first {number} rows were all refused alike: {task.sending.message}")
        return False

    async def _watch(self, until: float) -> None:
        """Stop when the endpoint has been gone for too long, or in time for the answers to be there at *until*."""
        longest, sender = self._settings.max_outage_s, self._sender
        while not self._stop:
            wait_s = longest
            if sender.bad_since is not None:
                wait_s = sender.bad_since + longest - self._world.clock()
                if wait_s <= 0:
                    self._stop.ask(Reason.OUTAGE, f"no good answer for {longest:g} s; the last was: {sender.last_bad}")
            if until:
                margin = min(self._settings.timeout_s, max(LEAST_MARGIN_S, LATE * self.limiter.rtt_s))
                left = until - margin - self._world.now()
                wait_s = min(wait_s, left)
                if left <= 0:
                    self._stop.ask(Reason.DEADLINE, "the time is up")
            await self._world.sleep(min(max(wait_s, 0.01), 1.0))


class _Task(NamedTuple):
    """A row to carry out; *refused*: the whole was, and only its denials are left to send."""

    sending: Sending
    client: int
    sent: int
    refused: bool = False

    def deferred(self) -> tuple[Outcome, Outcome]:
        """Return how it ended when the pool stopped first."""
        return (Outcome.REFUSED, Outcome.DEFERRED) if self.refused else (Outcome.DEFERRED, Outcome.OPEN)
