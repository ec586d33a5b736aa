"""The main run: recover, obligations, then the export's plan, each leg delivered and committed, then the report."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from sync_job.config import Settings
from sync_job.consent.channels import denied
from sync_job.consent.clocks import AHEAD_S
from sync_job.consent.known import Holdings
from sync_job.delivery import tls
from sync_job.errors import ConfigError, Exit, ExportError
from sync_job.exports.loader import Export
from sync_job.ledger import lock
from sync_job.ledger.deltas import Asked
from sync_job.ledger.state import State
from sync_job.report import lists
from sync_job.runs import (
    anchoring,
    backfills,
    decide,
    erasure,
    in_order,
    intake,
    limits,
    logs,
    measuring,
    notifying,
    pages,
    purging,
    report,
)
from sync_job.runs.decide import Wish
from sync_job.runs.legs import Legs
from sync_job.runs.recover import aside, holding
from sync_job.runs.report import Findings, Report, Stopwatch
from sync_job.runs.watch import Watch

_log = structlog.get_logger()


def name_at(moment: float) -> str:
    """Return a time as it stands in a run's id."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y%m%dT%H%M%SZ")


# Returns what is taken for the export, and the keys of its rejects; its lists go to a folder, or nowhere.
Read = Callable[[Path | None], tuple[Export, list[tuple[str, str]]]]


def begin(state: State, settings: Settings, kind: str, watch: Watch) -> Findings:
    """Enter a run in the history, and say so to others."""
    started = time.time()
    findings = Findings(kind, state.ledger.begin(kind, started, name_at(started)), started)
    if state.lock is not None and state.lock.alone:
        lock.name(state.folder, findings.run)
        state.lock.on_wait = lambda: watch.stage("waiting for the command that holds the lock")
    anchoring.keep(state, settings)
    logs.begin(findings.run)
    _log.info("run.started", kind=kind)
    watch.announce(settings.state.path, kind, findings.run, hands_over=backfills.hands_over(state, kind))
    with aside(state, settings) if settings.notify.ping else nullcontext():  # who is told may be slow to answer
        notifying.began(findings.run)
    return findings


def run(settings: Settings, wish: Wish, watch: Watch, kind: str = "run", read: Read | None = None) -> Report:
    """Bring the platform to what the export says, and return the report.

    *read* returns what is taken for the export, and the keys of its rejects, where that is not what the settings name.

    Raises:
        ConsentSyncError: what ended the run before its report; nothing that was acknowledged is lost by it.
    """
    tls.context(settings.endpoint)  # what is wrong with its files is said before a leg is begun
    asked = in_order.ask(settings, in_order.look(settings, wish)) if read is None else None
    watch.stage("opening the state")
    with holding(settings) as state:
        if wish.again:
            backfills.refuse_second(state)
        findings = begin(state, settings, kind, watch)
        laps = Stopwatch()
        legs = Legs(state, settings, findings, watch, wish, hands_over=backfills.hands_over(state, kind))
        if read is None:
            read = partial(decide.read, settings, watch, wish=wish, first_look=False, ledger=state.ledger)
        try:
            if not legs.owed():
                _export(legs, wish, watch, laps, read, asked)
            return conclude(state, settings, findings, watch, laps)
        except (ConfigError, ExportError) as exc:
            # What was owed is delivered; the rest could not be known. The history says so, and why.
            findings.add(exc.exit_code, str(exc))
            conclude(state, settings, findings, watch, laps)
            raise
        finally:
            watch.end()


def _export(legs: Legs, wish: Wish, watch: Watch, laps: Stopwatch, read: Read, asked: Asked | None) -> None:
    state, settings, findings = legs.state, legs.settings, legs.findings
    folder = report.folder_of(settings, findings.run)
    intake.refuse_unmapped(state, settings)
    watch.stage("reading")
    with aside(state, settings), in_order.reading(state, asked):
        export, findings.reject_keys = read(folder)
    findings.export = export.counts()
    laps.lap("read")
    if legs.heed():
        return
    watch.stage("deciding")
    anchoring.recognise(state, settings, export.statements)
    now = time.time()
    ledger = state.ledger
    given_up = in_order.check(state, settings, export.left_out, asked, wish, now)
    files = [*in_order.as_read(asked, export), *given_up]
    case = decide.judge(settings, findings, export, ledger, wish, now)
    in_order.note_unsent(state, case, findings)
    forgotten = erasure.among(settings, export.statements, ledger.forgetting.asked())
    decide.drop_forgotten(case, forgotten)
    if len(forgotten):  # rejects and the like were listed before anybody could tell
        erasure.without(settings, [(folder, forgotten)])
    del export
    holdings = _dated(state, now)
    found, taken_back, mark = decide.first_plan(case, ledger, holdings, ledger.lingering(), findings.started, now)
    del holdings
    if case.again:
        backfills.make_due(state, case, found, mark, findings, wish.approved, now)
    same = case.kind != "part" and ledger.applied.is_last(case.kind, case.digest)
    ledger.applied.record(decide.record(case, found, findings.run, now))
    _decided(legs, case, decide.Planned(found, taken_back), now)
    note_read(state, settings, decide.heard(case, found.held), findings.run, now)
    if case.kind == "full":
        lists.write_clients(folder / "absent.csv", found.absent)
    if same and not len(found.rows):
        findings.reasons.append("the same file as last time, with nothing left to send")
        if wish.require_new:
            findings.codes.add(Exit.EXPORT)
    rows = found.rows
    del found
    if wish.sample is not None:
        rows = backfills.sample(rows, wish.sample, legs, findings)
    laps.lap("decide")
    legs.export(
        rows,
        case,
        partial(_decided, legs, case),
        partial(
            in_order.settle,
            state,
            findings.run,
            asked,
            files,
            superfluous_until=in_order.superfluous_until(case, now),
        ),
    )
    laps.lap("deliver")


def _dated(state: State, now: float) -> Holdings:
    """Return the snapshot, with dates of denials that a wrong clock left in the future brought to *now* for good.

    So the next export is newer than they are.
    """
    holdings = state.holdings()
    if holdings.dates.times.max() > now + AHEAD_S:
        holdings = replace(holdings, dates=holdings.dates.until(now))
        state.replace_holdings(holdings, now)
        _log.warning("state.from_the_future", what="dates of denials")
    return holdings


def note_read(state: State, settings: Settings, export: decide.Heard, run: str, now: float) -> None:
    """Note, once for each export, what it changes for others: approvals that it ends, and the dates of its denials.

    What it denies once more is dated by it, so that none from between the two allows it. A full export needs no dates
    for that: whatever is older than the newest one grants nothing. Another says a thing once, so what it denies is owed
    for its own sake if a list is void by the time that it is sent.
    """
    obligations = state.ledger.obligations
    obligations.state_again(export.statements, export.stated)
    if export.kind != "full":
        ids, says = export.statements.items()
        which = denied(says) != 0
        until = limits.at(settings, now)
        obligations.owe_too(run, ids[which], denied(says[which]), stated=export.stated, started=now, limit_at=until)
        holdings = state.holdings()
        dated = holdings.denied_again(export.statements, export.stated)
        if dated is not holdings:
            state.replace_holdings(dated, now)
    state.ledger.applied.narrow(run, export.kind, export.statements)


def _decided(legs: Legs, case: decide.Case, planned: decide.Planned, now: float) -> None:
    """Make durable what was decided besides the rows of a leg, before any of them is sent, and list it.

    What an export denies is owed from here on, also if a guard holds it.
    """
    state, settings, findings = legs.state, legs.settings, legs.findings
    ledger, found, folder = state.ledger, planned.diff, report.folder_of(settings, findings.run)
    keep_decided(state, settings, decide.heard(case, found.held), planned.taken_back, findings.run, now)
    if one := decide.held_set(case, found.held, ledger, findings.run, now):
        ledger.applied.hold(state.folder, one, found.held)
    decide.note(case, found, ledger, findings, now)
    lists.write_held(folder / "held.csv", found.held, _guards(case))
    lists.write_blocked(folder / "blocked.csv", found.blocked, mapped=settings.export.id_map is not None)


def keep_decided(
    state: State, settings: Settings, export: decide.Heard, taken_back: decide.Channels, run: str, now: float
) -> None:
    """End and owe what an export decides besides its rows: what it takes back, and what a guard holds or no more."""
    obligations = state.ledger.obligations
    if len(taken_back.client):
        obligations.overtake(*taken_back, now)
    decide.reopen(export, state.ledger)
    released, held = decide.restated(export, state.ledger), export.denials_held()
    if len(released.client):
        obligations.release(*released)
    if len(held.client):  # the next export may not say them again
        until = limits.at(settings, now)
        obligations.hold(run, *held, stated=export.stated, started=now, limit_at=until)


def _guards(case: decide.Case) -> str:
    """Return what held the rows of held.csv, in words."""
    said = [doubt.why for doubt in case.doubts] + [str(trip) for trip in case.judgement.trips]
    return "; ".join(said)


@contextmanager
def _without_lock(state: State) -> Iterator[None]:
    """Let others have the lock while a run that was reported does what changes nothing in the state.

    What only sends what is owed has nothing to do after it, and does not take the lock again.
    """
    if state.lock is None:
        yield
    elif state.lock.alone:
        with state.lock.let_go():
            yield
    else:
        state.lock.give_back()
        yield


def conclude(state: State, settings: Settings, findings: Findings, watch: Watch, laps: Stopwatch) -> Report:
    """Note that everything is committed, and write the report."""
    watch.stage("reporting")
    ended = time.time()
    backfills.end_if_done(state, ended)
    state.ledger.finish(findings.run, ended)
    purging.at_end(state, settings, findings)
    with aside(state, settings):
        made, undone = report.compose(state, settings, findings, laps, ended)
    report.note(state, made, undone)
    # After the report, which still has them.
    erasure.complete(state, settings)
    anchoring.keep(state, settings)
    measuring.reported(settings, state, made.summary)
    notifying.reported(made.summary, state.ledger.summaries)
    with _without_lock(state):
        pages.make(state, settings, made.folder)
    logs.flush()
    _log.info("run.ended", exit=int(made.exit_code))
    return made
