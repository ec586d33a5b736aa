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
from sync_job.consent import guards
from sync_job.consent.channels import Mask
from sync_job.consent.dates import Seconds
from sync_job.consent.fold import Endings, Folded, Outcome, fold
from sync_job.consent.known import Holdings, Lingering
from sync_job.consent.rows import Lane, Rows, each
from sync_job.consent.settlement import OwedSince, Settlement, settle
from sync_job.delivery import canary, pool
from sync_job.delivery.limit import Limit
from sync_job.delivery.sending import Reason, Sending, Stop, World
from sync_job.delivery.verdict import Codes
from sync_job.errors import Exit
from sync_job.ledger import handover, inbox, tables
from sync_job.ledger.journal import Journal, Reading, Settled
from sync_job.ledger.obligations import Owed
from sync_job.ledger.state import Leg, State
from sync_job.report import counts
from sync_job.runs import anchoring, limits, logs
from sync_job.runs.delivered import Delivery
from sync_job.runs.pace import Pace
from sync_job.runs.samples import Sample, Samples
from sync_job.runs.watch import Watch

_log = structlog.get_logger()
_LOOK_S = 1.0  # how often the inbox is looked at
_SHOW_S = 0.2


@dataclass(frozen=True)
class Stopped:
    """Why a leg ended before its plan was done.

    *unknown*: the platform knows none of the canaries. That is an answer, and may be true of them; or the ids are
    others than the platform's.
    """

    exit_code: Exit
    why: str
    hopeless: bool = False  # only for want of a good answer: another leg of the run may have one
    others: bool = False  # at once, after a few rows: others of the leg may have one
    unknown: bool = False


class JournalRecord:
    """Writes what the pool says into the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.clear = journal.clear

    def settle(self, sending: Sending, outcome: Outcome, denials: Outcome, at: float) -> None:
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


@dataclass(frozen=True)
class Manner:
    """How a leg is sent: at most *limit* rows, the answers there *until* then (epoch seconds, 0 for no end).

    *canaries* is how many rows go one at a time first, behind what is owed and withdrawn. *hold_on_s*: a list that
    comes in ends the leg, but not before it is so old; so does a nightly run that asks for it, if it *hands over*.
    *good*: a leg before had a good answer.
    """

    limit: int | None = None
    until: float = 0.0
    canaries: int = 0
    hold_on_s: float = 0.0
    hands_over: bool = False
    good: bool = False


def deliver(
    state: State,
    settings: Settings,
    run: str,
    number: int,
    rows: Rows,
    about: dict[str, Any],
    watch: Watch,
    manner: Manner,
) -> tuple[Stopped | None, Delivery]:
    """Deliver *rows* as a leg, and commit what was acknowledged; return why it ended early, if it did, and how it went.

    *about* is kept with the plan; what the *manner* does not let through is deferred.
    """
    if not len(rows):
        return None, Delivery()
    leg = state.new_leg(run, number)
    started = time.time()
    if manner.canaries:
        refused = np.isin(rows.client, state.ledger.obligations.waiting().client)
        most = len(rows) if manner.limit is None else manner.limit
        rows = rows.at(canary.drawn(rows.lane, refused, manner.canaries, most))
    tables.write_plan(leg.plan, rows, about | {"run": run, "leg": number, "planned": started})
    watch.stage("sending", min(len(rows), manner.limit) if manner.limit is not None else len(rows))
    stopped, delivery = asyncio.run(_deliver(state, settings, leg, rows, watch, manner))
    watch.stage("folding")
    # Rows that were all refused alike tell of the configuration: once that is fixed, they need not wait.
    excused = stopped is not None and stopped.exit_code is Exit.CONFIG and not stopped.unknown
    tried = commit(state, settings, run, leg, rows, started, about.get("stated"), excused=excused)
    delivery.untried = rows.client[~tried]
    if delivery.limit_met or delivery.limit > state.ledger.about.learned():
        # A run that was too short to reach the limit has not shown that less is possible.
        rate = delivery.limit / delivery.round_trip_s if delivery.round_trip_s else 0.0
        state.ledger.about.learn(delivery.limit, rate)
    _log.info("leg.committed", leg=number, rows=len(rows), **delivery.figures())
    return stopped, delivery


async def _deliver(
    state: State, settings: Settings, leg: Leg, rows: Rows, watch: Watch, manner: Manner
) -> tuple[Stopped | None, Delivery]:
    from sync_job.delivery import endpoint  # brings aiohttp, which `plan` has no use for

    stop = Stop()
    asked: list[Exit] = []
    samples = Samples()
    loop = asyncio.get_running_loop()
    journal = Journal(leg.journal, len(rows))
    delivery = settings.delivery
    codes = Codes(frozenset(settings.endpoint.retry_codes), frozenset(settings.endpoint.not_found_codes))
    world = World(now=time.time, clock=loop.time, tell=logs.tell)
    async with (
        journal.writing(),
        endpoint.connected(
            settings.endpoint,
            max_concurrency=delivery.max_concurrency + pool.SPARE_WORKERS,
            timeout_s=delivery.timeout_s,
        ) as platform,
    ):
        law = Limit.starting(state.ledger.about.learned() / 2, delivery.max_concurrency)
        senders = pool.Pool(platform, JournalRecord(journal), delivery, codes, world, stop, law=law, good=manner.good)
        with _heeding(loop, asked, stop, senders, delivery.drain_s):
            async with asyncio.TaskGroup() as group:
                looking = _look(state, stop, manner)
                watching = [group.create_task(_show(senders, watch, rows, samples)), group.create_task(looking)]
                await senders.deliver(
                    islice(each(rows), manner.limit),
                    first=int(np.count_nonzero(rows.lane <= Lane.WITHDRAWAL)) if manner.canaries else 0,
                    canaries=manner.canaries,
                    until=manner.until,
                )
                for task in watching:
                    task.cancel()
        watch.at(senders.progress.settled)
    return _stopped(settings, stop, asked, senders), Delivery.of(senders, samples.points)


@contextlib.contextmanager
def _heeding(
    loop: asyncio.AbstractEventLoop, asked: list[Exit], stop: Stop, senders: pool.Pool, drain_s: float
) -> Iterator[None]:
    """Drain at the first SIGINT or SIGTERM, for *drain_s* at most, and end at once at the second."""

    def interrupt(code: Exit, name: str) -> None:
        asked.append(code)
        if len(asked) == 1:
            _log.warning("run.draining", signal=name, in_flight=senders.limiter.in_flight, seconds=drain_s)
            loop.call_later(drain_s, senders.cut_off)
        else:
            senders.cut_off()
        stop.ask(Reason.ASKED, f"{name}: what was in flight has settled")

    heeded: list[tuple[signal.Signals, Any]] = []
    for number, code in ((signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, Exit.TERMINATED)):
        with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: no signals to heed
            before = signal.getsignal(number)
            loop.add_signal_handler(number, interrupt, code, number.name)
            heeded.append((number, before))
    try:
        yield
    finally:
        for number, before in heeded:
            loop.remove_signal_handler(number)
            signal.signal(number, before)


def _stopped(settings: Settings, stop: Stop, asked: list[Exit], senders: pool.Pool) -> Stopped | None:
    where = settings.endpoint.base_url
    if stop.reason is Reason.CANARY and senders.refused_alike is not None:
        said = senders.refused_alike
        why = (
            f"{counts.masked(stop.why)}. {canary.likely_cause(said.status, said.code, said.message, settings.endpoint)}"
        )
        _log.warning("canary.stopped", status=said.status, code=said.code)
        unknown = said.code in settings.endpoint.not_found_codes
        rest = "No grant was sent" if unknown else "The rest was not sent"
        return Stopped(Exit.CONFIG, f"{where}: {why}. {rest}", unknown)
    if stop.reason in (Reason.ENDPOINT, Reason.HOPELESS, Reason.OUTAGE):
        _log.warning("endpoint.stopped")  # why may name what the platform says of a client: that is for the report
        few = stop.reason is Reason.HOPELESS
        hopeless = few or (stop.reason is Reason.OUTAGE and not senders.good)
        return Stopped(Exit.ENDPOINT, f"{where}: {counts.masked(stop.why)}", hopeless, few)
    if asked:
        return Stopped(asked[0], stop.why)
    if stop.reason is Reason.HANDOVER:
        _log.warning("run.handed_over", settled=senders.progress.settled)
        return Stopped(Exit.ATTENTION, stop.why)
    if stop.reason is Reason.DEADLINE:
        _log.warning("run.deadline", settled=senders.progress.settled)
        return Stopped(Exit.ATTENTION, f"{stop.why}; the next run carries on")
    return None


async def _show(senders: pool.Pool, watch: Watch, rows: Rows, samples: Samples) -> None:
    pace = Pace(time.monotonic())
    try:
        while True:
            done = senders.progress.settled
            pace.at(done, time.monotonic())
            lane = Lane(int(rows.lane[min(done, len(rows) - 1)]))
            watch.at(done, note=_note(senders, pace, lane), rate=pace.rate)
            samples.add(_sample(senders, pace))
            await asyncio.sleep(_SHOW_S)
    finally:
        pace.at(senders.progress.settled, time.monotonic())
        samples.points.append(_sample(senders, pace))


def _sample(senders: pool.Pool, pace: Pace) -> Sample:
    gate = senders.limiter
    rate, limit, trip = round(pace.lately, 1), round(gate.law.value, 2), round(gate.rtt_s, 4)
    return Sample(time.time(), senders.progress.settled, rate, limit, gate.in_flight, trip)


def _note(senders: pool.Pool, pace: Pace, lane: Lane) -> str:
    """Return how the endpoint does, in a few words for those who watch."""
    gate, progress = senders.limiter, senders.progress
    if gate.outage_s:
        return f"no good answer for {gate.outage_s:.0f} s, asked again and again"
    if gate.pause_s:
        return f"{gate.pause_s:.0f} s more of the pause that the endpoint asked for"
    said = [
        f"{lane.name.lower()}s",
        f"{pace.lately:,.0f} a second, {pace.rate:,.0f} on the whole",
        f"{gate.in_flight} in flight",
    ]
    refused, retried = progress.outcomes[Outcome.REFUSED], senders.requests - progress.settled - gate.in_flight
    said += [f"{refused:,} refused"] if refused else []
    said += [f"{retried:,} retried"] if retried > 0 else []
    return ", ".join(said)


async def _look(state: State, stop: Stop, manner: Manner) -> None:
    """End the leg when a list came in: what it withdraws goes out first, and no older decision after it."""
    await asyncio.sleep(manner.hold_on_s)
    while True:
        if manner.hands_over and handover.is_asked(state.folder):
            stop.ask(Reason.HANDOVER, "a nightly run takes over, and carries on")
        if inbox.waiting(state.folder):
            stop.ask(Reason.ASKED, "a list came in")
        await asyncio.sleep(_LOOK_S)


def folded(
    holdings: Holdings,
    lingering: Lingering,
    rows: Rows,
    endings: Endings,
    started: float,
    linger_s: float,
    stated: Seconds,
) -> Folded:
    """Return what the snapshot becomes by a leg that was planned at *started*."""
    return fold(holdings, lingering, rows, endings, started=started, now=time.time(), linger_s=linger_s, stated=stated)


def stated_at(rows: Rows, owed: Owed, stated: float | None, started: float) -> Seconds:
    """Return when the denials of each row were stated, in epoch seconds.

    What an export denies was *stated* when it was made, what is owed when the newest of it was. What else a withdrawal
    denies is dated by when the leg was planned (*started*): it is not newer than that.
    """
    found = np.full(len(rows), started if stated is None else stated)
    listed = rows.lane <= Lane.WITHDRAWAL
    found[listed] = started
    if listed.any() and len(owed.client):
        ids = rows.client[listed]
        place = np.minimum(np.searchsorted(owed.client, ids), len(owed.client) - 1)
        found[listed] = np.where(owed.client[place] == ids, owed.stated[place], started)
    return found


def commit(
    state: State,
    settings: Settings,
    run: str,
    leg: Leg,
    rows: Rows,
    started: float,
    stated: float | None = None,
    *,
    excused: bool = False,
) -> Mask:
    """Fold what the leg's journal knows into the next snapshot, the commit point; return which rows were tried.

    *stated* is when the export stated what it sends. *excused*: a row that was refused for the first time is not to
    blame, and does not wait for its next try.
    """
    now = time.time()
    with Reading(leg.journal, len(rows), now) as journal:
        endings, settled, not_found, tried = journal.ended(frozenset(settings.endpoint.not_found_codes))
    lingering = state.ledger.lingering()
    dates = stated_at(rows, state.ledger.obligations.owed(now), stated, started)
    after = folded(state.holdings(), lingering, rows, endings, started, settings.delivery.linger_s, dates)
    settlement = settle(rows, endings, settled, not_found, lingering, started, tried)
    # What is owed to who withdrew is an obligation of its own; one that a person closed is not to come back.
    settlement = settlement.less_revoked(state.ledger.withdrawals.in_force())
    state.commit_leg(
        run,
        leg.number,
        holdings=after.holdings,
        lingering=after.lingering,
        now=now,
        settlement=settlement,
        owed=_owed_since(settings, settlement, started),
        started=started,
        in_doubt=rows.client[endings.doubt != 0],
        stated=stated,
        sent=guards.sent(rows, endings, state.ledger.applied.approved(now).of(rows.client)),
        excused=excused,
    )
    anchoring.keep(state, settings)
    return tried


def _owed_since(settings: Settings, settlement: Settlement, started: float) -> OwedSince:
    """Return since when and until when the revocations that were not acknowledged are owed."""
    since = np.full(len(settlement.revoked.client), started)
    return OwedSince(since, limits.of(settings, since))


def unfolded(state: State, run: str) -> Iterator[Leg]:
    """Yield the legs of a dead run that are not in the snapshot yet."""
    for leg in state.legs(run):
        if not state.ledger.is_committed(run, leg.number):
            yield leg
