"""One leg: its plan made durable, delivered, and folded into the next snapshot. A dead leg is folded the same way."""

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from sync_job.config import Settings
from sync_job.consent import guards
from sync_job.consent.channels import Mask
from sync_job.consent.dates import Seconds
from sync_job.consent.fold import Endings, Folded, Outcome, fold
from sync_job.consent.known import Holdings, Lingering
from sync_job.consent.rows import Lane, Rows, as_now, each
from sync_job.consent.settlement import OwedSince, Settlement, settle
from sync_job.delivery import canary, pool
from sync_job.delivery.limit import Limit
from sync_job.delivery.sending import Reason, Sending, Stop, World
from sync_job.delivery.turns import Turns
from sync_job.delivery.verdict import Codes
from sync_job.errors import ConsentSyncError, Exit
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
_LOOK_S = 0.2  # how often the inbox is looked at
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

    *canaries* is how many rows go one at a time first, behind what is owed and withdrawn. After *fresh_until*, in epoch
    seconds, nothing is allowed any more. A leg that *hands over* ends when a nightly run asks for it. *good*: a leg
    before had a good answer.
    """

    limit: int | None = None
    until: float = 0.0
    canaries: int = 0
    fresh_until: float = math.inf
    hands_over: bool = False
    good: bool = False


# Takes in the lists that lie in the inbox, and returns the rows that are owed by them.
ComeIn = Callable[[], Rows]


@dataclass
class _Part:
    """A leg while it is sent, and how that ended; *beside*: it was planned while another one was being sent."""

    leg: Leg
    rows: Rows
    started: float
    beside: bool = False
    stopped: Stopped | None = None
    delivery: Delivery = field(default_factory=Delivery)


def deliver(
    state: State,
    settings: Settings,
    run: str,
    number: int,
    rows: Rows,
    about: dict[str, Any],
    watch: Watch,
    manner: Manner,
    come_in: ComeIn,
) -> tuple[Stopped | None, list[Delivery]]:
    """Deliver *rows* as a leg, and commit what was acknowledged; return why it ended early, if it did, and how it went.

    *about* is kept with the plan; what the *manner* does not let through is deferred. A list that comes in ends the
    leg: no new row of it is sent. What the list owes is sent at once in a leg of its own, with the next number, beside
    the requests that are still in flight. How each leg went is returned, this one's first.

    Raises:
        ConsentSyncError: when a list could not be taken in; what was sent is committed before.
    """
    if not len(rows):
        return None, []
    if manner.canaries:
        refused = np.isin(rows.client, state.ledger.obligations.waiting().client)
        most = len(rows) if manner.limit is None else manner.limit
        rows = rows.at(canary.drawn(rows.lane, refused, manner.canaries, most))
    sending = _Sending(state, settings, run, about, watch, come_in)
    main = sending.plan(number, rows)
    watch.stage("sending", min(len(rows), manner.limit) if manner.limit is not None else len(rows))
    asyncio.run(sending.deliver(main, manner))
    watch.stage("folding")
    for part, later in zip(sending.parts, [*sending.parts[1:], None], strict=True):
        # Rows that were all refused alike tell of the configuration: once that is fixed, they need not wait.
        excused = part.stopped is not None and part.stopped.exit_code is Exit.CONFIG and not part.stopped.unknown
        tried = commit(
            state,
            settings,
            run,
            part.leg,
            part.rows,
            part.started,
            about.get("stated"),
            beside=part.beside,
            lingers_at=later.started if later else None,
            excused=excused,
        )
        delivery = part.delivery
        delivery.untried = part.rows.client[~tried]
        if not part.beside and (delivery.limit_met or delivery.limit > state.ledger.about.learned()):
            # A run that was too short to reach the limit has not shown that less is possible.
            rate = delivery.limit / delivery.round_trip_s if delivery.round_trip_s else 0.0
            state.ledger.about.learn(delivery.limit, rate)
        _log.info("leg.committed", leg=part.leg.number, rows=len(part.rows), **delivery.figures())
    if sending.error is not None:
        raise sending.error
    return main.stopped, [part.delivery for part in sending.parts]


class _Sending:
    """Sends a leg and, for each list that comes in meanwhile, one beside it, all in one event loop."""

    def __init__(
        self, state: State, settings: Settings, run: str, about: dict[str, Any], watch: Watch, come_in: ComeIn
    ) -> None:
        self.parts: list[_Part] = []
        self.error: ConsentSyncError | None = None  # of taking a list in
        self._state, self._settings, self._run, self._about, self._watch = state, settings, run, about, watch
        self._come_in = come_in
        self._asked: list[Exit] = []
        self._pools: list[tuple[pool.Pool, Stop]] = []

    def plan(self, number: int, rows: Rows, *, beside: bool = False) -> _Part:
        """Make the plan of a leg durable."""
        leg = self._state.new_leg(self._run, number)
        part = _Part(leg, rows, time.time(), beside)
        about = self._about | {"run": self._run, "leg": number, "planned": part.started, "beside": beside}
        tables.write_plan(leg.plan, rows, about)
        self.parts.append(part)
        return part

    async def deliver(self, main: _Part, manner: Manner) -> None:
        """Send a leg that was planned, and what comes in meanwhile."""
        from sync_job.delivery import endpoint  # brings aiohttp, which `plan` has no use for

        delivery, loop = self._settings.delivery, asyncio.get_running_loop()
        with _heeding(loop, self._asked, self._pools, delivery.drain_s):
            async with endpoint.connected(
                self._settings.endpoint,
                max_concurrency=delivery.max_concurrency + pool.SPARE_WORKERS,
                timeout_s=delivery.timeout_s,
            ) as platform:
                turns = Turns(platform)
                law = Limit.starting(self._state.ledger.about.learned() / 2, delivery.max_concurrency)
                stop = Stop()
                try:
                    async with asyncio.TaskGroup() as group:
                        sending = group.create_task(self._send(main, manner, turns, law, stop))
                        await self._watch_inbox(sending, manner, turns, stop, group)
                except BaseExceptionGroup as several:
                    raise _first(several) from several
        if self._asked and (main.stopped is None or main.stopped.exit_code not in (Exit.CONFIG, Exit.ENDPOINT)):
            # Not before all that was sent beside has ended: it may have been asked for meanwhile.
            name = "SIGINT" if self._asked[0] is Exit.INTERRUPTED else "SIGTERM"
            main.stopped = Stopped(self._asked[0], f"{name}: what was in flight has settled")

    async def _watch_inbox(
        self, sending: asyncio.Task[None], manner: Manner, turns: Turns, stop: Stop, group: asyncio.TaskGroup
    ) -> None:
        """Send what is owed by each list that comes in, until all that is sent has ended."""
        tasks = [sending]
        while not all(task.done() for task in tasks) and self.error is None:
            await asyncio.wait([task for task in tasks if not task.done()], timeout=_LOOK_S)
            if manner.hands_over and handover.is_asked(self._state.folder):
                stop.ask(Reason.HANDOVER, "a nightly run takes over, and carries on")
            if self._asked or not inbox.waiting(self._state.folder) or all(task.done() for task in tasks):
                continue
            stop.ask(Reason.LIST, "a list came in")
            try:
                rows = self._come_in()
                for some, law in self._apart(rows, turns):
                    part = self.plan(self.parts[-1].leg.number + 1, some, beside=True)
                    tasks.append(group.create_task(self._send(part, Manner(), turns, law, Stop())))
            except ConsentSyncError as exc:
                self.error = exc  # what is in flight settles, and is committed

    def _apart(self, rows: Rows, turns: Turns) -> Iterator[tuple[Rows, Limit]]:
        """Yield the rows that can be sent now, and those that wait for another request of their client.

        Each with the limit to begin with: who waits for somebody else holds nobody up.
        """
        most = self._settings.delivery.max_concurrency
        waits = np.isin(rows.client, np.array(turns.busy(), np.int32))
        if not waits.all():
            in_flight = sum(senders.limiter.in_flight for senders, _ in self._pools)
            yield rows.at(~waits), Limit.starting(max(1.0, float(most - in_flight)), most)
        if waits.any():
            count = int(np.count_nonzero(waits))
            yield rows.at(waits), Limit.starting(float(count), max(most, count))

    async def _send(self, part: _Part, manner: Manner, turns: Turns, law: Limit, stop: Stop) -> None:
        """Send the rows of a leg; its journal is whole when this returns."""
        settings, rows = self._settings, part.rows
        samples = Samples()
        journal = Journal(part.leg.journal, len(rows))
        codes = Codes(frozenset(settings.endpoint.retry_codes), frozenset(settings.endpoint.not_found_codes))
        world = World(now=time.time, clock=asyncio.get_running_loop().time, tell=logs.tell)
        may_grant = _Gate(self._state.folder, stop, manner.fresh_until)
        async with journal.writing():
            senders = pool.Pool(
                turns,
                JournalRecord(journal),
                settings.delivery,
                codes,
                world,
                stop,
                law=law,
                good=manner.good,
                may_grant=may_grant,
            )
            self._pools.append((senders, stop))
            if self._asked:
                stop.ask(Reason.ASKED, "asked to stop")
            async with asyncio.TaskGroup() as group:
                showing = None if part.beside else group.create_task(_show(senders, self._watch, rows, samples))
                await senders.deliver(
                    islice(each(rows), manner.limit),
                    first=int(np.count_nonzero(rows.lane <= Lane.WITHDRAWAL)) if manner.canaries else 0,
                    canaries=manner.canaries,
                    until=manner.until,
                )
                if showing is not None:
                    showing.cancel()
        if not part.beside:
            self._watch.at(senders.progress.settled)
        part.stopped = _stopped(settings, stop, senders)
        part.delivery = Delivery.of(senders, samples.points)


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that ended the others."""
    error = several.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


class _Gate:
    """Says at each dispatch whether anything may still be allowed, and stops the leg if not.

    From the moment that a list lies in the inbox no older decision is sent, and none by an export that is too old.
    """

    def __init__(self, folder: Path, stop: Stop, fresh_until: float) -> None:
        self._lookout = inbox.Lookout(folder)
        self._stop = stop
        self._fresh_until = fresh_until
        self._began, self._began_clock = time.time(), time.monotonic()

    def __call__(self) -> bool:
        if self._stop:
            return False
        if not self._lookout.is_empty():
            self._stop.ask(Reason.LIST, "a list came in")
            return False
        # A clock that is set back makes no export younger.
        now = max(time.time(), self._began + time.monotonic() - self._began_clock)
        if now > self._fresh_until:
            self._stop.ask(Reason.STALE, "the export became too old while it was sent: nothing more is allowed by it")
            return False
        return True


@contextlib.contextmanager
def _heeding(
    loop: asyncio.AbstractEventLoop, asked: list[Exit], pools: list[tuple[pool.Pool, Stop]], drain_s: float
) -> Iterator[None]:
    """Drain at the first SIGINT or SIGTERM, for *drain_s* at most, and end at once at the second."""

    def cut_off() -> None:
        for senders, _ in pools:
            senders.cut_off()

    def interrupt(code: Exit, name: str) -> None:
        asked.append(code)
        if len(asked) == 1:
            in_flight = sum(senders.limiter.in_flight for senders, _ in pools)
            _log.warning("run.draining", signal=name, in_flight=in_flight, seconds=drain_s)
            loop.call_later(drain_s, cut_off)
        else:
            cut_off()
        for _, stop in pools:
            stop.ask(Reason.ASKED, f"{name} came in")

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


def _stopped(settings: Settings, stop: Stop, senders: pool.Pool) -> Stopped | None:
    where = settings.endpoint.base_url
    if stop.reason is Reason.CANARY and senders.refused_alike is not None:
        said = senders.refused_alike
        why = (
            f"{counts.masked(stop.why)}. {canary.likely_cause(said.status, said.code, said.message, settings.endpoint)}"
        )
        _log.warning("canary.stopped", status=said.status, code=said.code)
        unknown = said.code in settings.endpoint.not_found_codes
        rest = "No grant was sent" if unknown else "The rest was not sent"
        return Stopped(Exit.CONFIG, f"{where}: {why}. {rest}", unknown=unknown)
    if stop.reason in (Reason.ENDPOINT, Reason.HOPELESS, Reason.OUTAGE):
        _log.warning("endpoint.stopped")  # why may name what the platform says of a client: that is for the report
        few = stop.reason is Reason.HOPELESS
        hopeless = few or (stop.reason is Reason.OUTAGE and not senders.good)
        return Stopped(Exit.ENDPOINT, f"{where}: {counts.masked(stop.why)}", hopeless, few)
    if stop.reason is Reason.HANDOVER:
        _log.warning("run.handed_over", settled=senders.progress.settled)
        return Stopped(Exit.ATTENTION, stop.why)
    if stop.reason is Reason.STALE:
        _log.warning("run.stale", settled=senders.progress.settled)
        return Stopped(Exit.HELD, stop.why)
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


def folded(
    holdings: Holdings,
    lingering: Lingering,
    rows: Rows,
    endings: Endings,
    started: float,
    linger_s: float,
    stated: Seconds,
    now: float | None = None,
) -> Folded:
    """Return what the snapshot becomes at *now*, by default today's, by a leg that was planned at *started*."""
    now = time.time() if now is None else now
    return fold(holdings, lingering, rows, endings, started=started, now=now, linger_s=linger_s, stated=stated)


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
    beside: bool = False,
    lingers_at: float | None = None,
    excused: bool = False,
) -> Mask:
    """Fold what the leg's journal knows into the next snapshot, the commit point; return which rows were tried.

    *stated* is when the export stated what it sends. *beside*: the leg was planned while the one before it was sent,
    which has been folded since. *lingers_at*: when the next leg was planned, if that is so of it: who lingered then is
    still known to it. *excused*: a row that was refused for the first time is not to blame, and does not wait for its
    next try.
    """
    now = time.time()
    with Reading(leg.journal, len(rows), now) as journal:
        endings, settled, not_found, tried = journal.ended(frozenset(settings.endpoint.not_found_codes))
    lingering = state.ledger.lingering()
    holdings = state.holdings()
    if beside:
        rows = as_now(rows, holdings)
    dates = stated_at(rows, state.ledger.obligations.owed(now), stated, started)
    after = folded(holdings, lingering, rows, endings, started, settings.delivery.linger_s, dates, lingers_at)
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
