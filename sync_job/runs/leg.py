"""One leg: its plan made durable, delivered, and folded into the next snapshot. A dead leg is folded the same way."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import structlog

from sync_job.config import Settings
from sync_job.consent.channels import denied
from sync_job.consent.diff import Holdings, Lingering, Rows, each
from sync_job.consent.fold import Endings, Folded, Outcome, fold
from sync_job.consent.tables import Table, tabulate
from sync_job.delivery import pool
from sync_job.delivery.verdict import Codes
from sync_job.errors import Exit
from sync_job.ledger import inbox, tables
from sync_job.ledger.journal import Journal, Reading, Settled
from sync_job.ledger.state import Leg, State
from sync_job.runs.watch import Watch

_log = structlog.get_logger()
_LOOK_S = 1.0  # how often the inbox is looked at
_SHOW_S = 0.2


@dataclass(frozen=True)
class Stopped:
    """Why a leg ended before its plan was done."""

    exit_code: Exit
    why: str


class _Record:
    """Writes what the pool says into the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.clear = journal.clear

    def settle(self, sending: pool.Sending, outcome: Outcome, denials: Outcome, at: float) -> None:
        """Keep how a row ended."""
        self._journal.settle(
            Settled(
                sending.row,
                outcome,
                denials,
                sending.doubt,
                sending.doubt_at,
                sending.attempts,
                sending.status,
                sending.code,
                sending.message,
                sending.first_sent,
                at,
            )
        )


def deliver(
    state: State,
    settings: Settings,
    run: str,
    number: int,
    rows: Rows,
    about: dict[str, Any],
    watch: Watch,
    limit: int | None,
) -> Stopped | None:
    """Deliver *rows* as a leg, and commit what was acknowledged; return why it ended early, if it did.

    *about* is kept with the plan; with a *limit* only so many rows are taken, and the rest is deferred.
    """
    if not len(rows):
        return None
    leg = state.new_leg(run, number)
    started = time.time()
    tables.write_plan(leg.plan, rows, about | {"run": run, "leg": number, "planned": started})
    watch.stage("sending", min(len(rows), limit) if limit is not None else len(rows))
    stopped = asyncio.run(_deliver(state, settings, leg, rows, watch, limit))
    watch.stage("folding")
    commit(state, settings, run, leg, rows, started)
    _log.info("leg.committed", run=run, leg=number, rows=len(rows))
    return stopped


async def _deliver(
    state: State, settings: Settings, leg: Leg, rows: Rows, watch: Watch, limit: int | None
) -> Stopped | None:
    from sync_job.delivery import endpoint  # brings aiohttp, which `plan` has no use for

    stop = pool.Stop()
    asked: list[Exit] = []
    loop = asyncio.get_running_loop()

    def interrupt(code: Exit, name: str) -> None:
        asked.append(code)
        stop.ask(pool.Reason.ASKED, f"{name}: what was in flight has settled")

    with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: no signals to heed
        loop.add_signal_handler(signal.SIGINT, interrupt, Exit.INTERRUPTED, "SIGINT")
        loop.add_signal_handler(signal.SIGTERM, interrupt, Exit.TERMINATED, "SIGTERM")
    journal = Journal(leg.journal, len(rows))
    delivery = settings.delivery
    codes = Codes(frozenset(settings.endpoint.retry_codes), frozenset(settings.endpoint.not_found_codes))
    world = pool.World(now=time.time, clock=loop.time)
    async with (
        journal.writing(),
        endpoint.connected(
            settings.endpoint, max_concurrency=delivery.max_concurrency, timeout_s=delivery.timeout_s
        ) as platform,
    ):
        senders = pool.Pool(platform, _Record(journal), delivery, codes, world, stop)
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(_show(senders, watch)), group.create_task(_look(state, stop))]
            await senders.deliver(islice(each(rows), limit))
            for task in watching:
                task.cancel()
        watch.at(senders.progress.settled)
    if stop.reason is pool.Reason.ENDPOINT:
        _log.warning("endpoint.stopped", why=stop.why)
        return Stopped(Exit.ENDPOINT, f"{settings.endpoint.base_url}: {stop.why}")
    if asked:
        return Stopped(asked[0], stop.why)
    return None


async def _show(senders: pool.Pool, watch: Watch) -> None:
    while True:
        watch.at(senders.progress.settled)
        await asyncio.sleep(_SHOW_S)


async def _look(state: State, stop: pool.Stop) -> None:
    while True:
        if inbox.waiting(state.folder):
            stop.ask(pool.Reason.ASKED, "a list came in")
        await asyncio.sleep(_LOOK_S)


def folded(
    holdings: Holdings, lingering: Lingering, rows: Rows, endings: Endings, started: float, linger_s: float
) -> Folded:
    """Return what the snapshot becomes by a leg that was planned at *started*."""
    return fold(holdings, lingering, rows, endings, started=started, now=time.time(), linger_s=linger_s)


def commit(state: State, settings: Settings, run: str, leg: Leg, rows: Rows, started: float) -> None:
    """Fold what the leg's journal knows into the next snapshot: the commit point."""
    now = time.time()
    with Reading(leg.journal, len(rows), now) as journal:
        endings = journal.endings()
    lingering = state.ledger.lingering()
    after = folded(state.holdings(), lingering, rows, endings, started, settings.delivery.linger_s)
    closed = _closed(state.ledger.obligations(), lingering, rows, endings, started)
    state.commit_leg(run, leg.number, holdings=after.holdings, lingering=after.lingering, now=now, closed=closed)


def _closed(owed: Table, lingering: Lingering, rows: Rows, endings: Endings, started: float) -> Table:
    """Return the obligations that were acknowledged; one of a lingering client stays open."""
    final = np.where(endings.denials != Outcome.OPEN, endings.denials, endings.outcome)
    sure = (final == Outcome.DELIVERED) & (endings.doubt == 0) & ~lingering.of(rows.client, started)[0]
    ids = rows.client[sure]
    channels = denied(rows.sent[sure]) & owed.of(ids)
    order = np.argsort(ids, kind="stable")
    order = order[channels[order] != 0]
    return tabulate(ids[order], ids[order], channels[order])


def unfolded(state: State, run: str) -> Iterator[Leg]:
    """Yield the legs of a dead run that are not in the snapshot yet."""
    for leg in state.legs(run):
        if not state.ledger.is_committed(run, leg.number):
            yield leg
