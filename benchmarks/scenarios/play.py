"""Plays a scenario: the product's own workers, gate and law against a model of an endpoint, in virtual time."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.scenarios.catalogue import Scenario
from benchmarks.scenarios.endpoints import Model
from benchmarks.scenarios.measures import Figures, measure
from sync_job.config import DeliverySettings
from sync_job.consent.fold import Outcome
from sync_job.delivery.limit import Law, Limit
from sync_job.delivery.pool import Pool, Row
from sync_job.delivery.sending import Sending, Stop, World
from sync_job.delivery.verdict import Answer, Codes
from tests import virtual

TICK_S = 0.05
_SENT = 2  # any byte will do


@dataclass(frozen=True)
class Contender:
    """A law to compare, for a scenario; *guarded* where the breaker is part of it; it plays within *around*."""

    name: str
    law: Callable[[Scenario], Law]
    guarded: bool = True
    around: Callable[[], AbstractContextManager[None]] = nullcontext


OURS = Contender("ours", lambda scenario: Limit.starting(1.0, scenario.ceiling))


class Tick(NamedTuple):
    """A moment of a scenario; *delivered* so far."""

    at: float
    limit: float
    in_flight: int
    delivered: int


@dataclass(frozen=True)
class Played:
    """What came of one scenario with one seed, and how it went."""

    figures: Figures
    ticks: tuple[Tick, ...]


class _Record:
    """Keeps how many rows were delivered."""

    def __init__(self) -> None:
        self.delivered = 0

    async def clear(self, row: int) -> None:
        """Let every row go."""

    def settle(self, sending: Sending, outcome: Outcome, denials: Outcome, at: float) -> None:
        """Count a row that was delivered."""
        self.delivered += outcome is Outcome.DELIVERED


class _Plain:
    """Shows a 403 as 429: to a sender without a breaker it is one more request that was turned away."""

    def __init__(self, model: Model) -> None:
        self.model = model

    async def attempt(self, client: int, sent: int) -> Answer:
        """Answer as the model does, but for that."""
        answer = await self.model.attempt(client, sent)
        return Answer(429) if answer.status == 403 else answer


def play(scenario: Scenario, seed: int, contender: Contender = OURS) -> Played:
    """Return what *contender* made of *scenario*; the same for the same *seed*."""
    with contender.around():
        return virtual.run(_play(scenario, seed, contender))


async def _play(scenario: Scenario, seed: int, contender: Contender) -> Played:
    model, record = scenario.make(seed), _Record()
    pool = Pool(
        model if contender.guarded else _Plain(model),
        record,
        DeliverySettings(max_concurrency=scenario.ceiling, max_rps=scenario.per_s),
        Codes(),
        World(virtual.now, virtual.now, virtual.sleep, random.Random(seed)),
        Stop(),
        law=contender.law(scenario),
        guarded=contender.guarded,
    )
    ticks: list[Tick] = []

    async def watch() -> None:
        while True:
            seen = model.seen
            in_flight = seen.in_flight - seen.dropped
            ticks.append(Tick(virtual.now(), pool.limiter.law.value, in_flight, len(seen.good_at)))
            await asyncio.sleep(TICK_S)

    watching = asyncio.create_task(watch())
    await pool.deliver(_rows(scenario.rows))
    watching.cancel()
    return Played(measure(scenario, model.seen, record.delivered), tuple(ticks))


def _rows(count: int) -> Iterator[Row]:
    for place in range(count):
        yield place, place, _SENT
