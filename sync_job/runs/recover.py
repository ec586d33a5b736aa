"""Finishes what dead runs left: their legs are folded and their reports written, each from the step it missed."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import structlog

from sync_job.config import Settings
from sync_job.consent.known import Holdings, Lingering
from sync_job.consent.rows import as_now
from sync_job.errors import ConfigError, CountsError, Exit, ExportError, OlderStateError, StorageError
from sync_job.ledger import handover, lock, pause, tables
from sync_job.ledger.journal import Reading
from sync_job.ledger.state import State
from sync_job.runs import anchoring, clocks, erasure, intake, logs, measuring, notifying, report
from sync_job.runs import leg as legs
from sync_job.runs.report import Findings, Report, Stopwatch

_log = structlog.get_logger()


def recover(state: State, settings: Settings, *, lists_only: bool = False) -> list[Report]:
    """Fold and report every run that died; the caller holds the lock. Return their reports, the oldest first.

    With *lists_only* a report that cannot be written is left to a later run: no opt-out waits for room in its folder.
    """
    found = []
    unfinished = state.ledger.unfinished()
    for name in set(state.run_names()) - {run.run for run in unfinished}:
        # It died between its report and the end of its plan and journal.
        state.remove_run(name)
    alive = lock.alive(state.folder)  # it reads its export, or writes its report
    for run in unfinished:
        if run.run == alive:
            continue
        findings = Findings(run.kind, run.run, run.started)
        findings.add(Exit.ATTENTION, "the run died before its end; the next one finished it")
        for leg in state.legs(run.run):
            rows, about = tables.read_plan(leg.plan)
            if not state.ledger.is_committed(run.run, leg.number):
                planned, beside = about["planned"], about.get("beside", False)
                # Who lingered when this was planned did so when the leg beside it was.
                legs.commit(
                    state,
                    settings,
                    run.run,
                    leg,
                    rows,
                    planned,
                    about.get("stated"),
                    beside=beside,
                    lingers_at=planned,
                )
            findings.take(about)
        findings.reject_keys = [key for key in state.ledger.undone() if key[0] == "reject"]
        if run.stage == "open":
            state.ledger.finish(run.run, time.time())
        _log.warning("run.recovered", run=run.run, kind=run.kind)
        notifying.recovered(settings, run.run)  # first: this process may die, too
        try:
            folder = report.folder_of(settings, run.run)
            if state.ledger.about.restored() and (folder / "summary.json").exists():
                # The backup knows less of that run than its report: what was acknowledged since must stay readable.
                folder = folder.with_name(f"{folder.name}-restored")
            made = report.write(state, settings, findings, Stopwatch(), run.ended or time.time(), folder)
            measuring.reported(settings, state, made.summary, died=True)
            found.append(made)
        except (StorageError, CountsError):
            if not lists_only:
                raise
            _log.warning("run.unreported", run=run.run)
    return found


@contextmanager
def holding(
    settings: Settings, *, lists_only: bool = False, erasing: bool = False, while_paused: bool = False
) -> Iterator[State]:
    """Hold the lock of the target's state while the block runs.

    What dead runs left is finished first, lists that came in are taken into the ledger, and who was to be erased and
    is owed nothing any more is erased. *lists_only* is for what sends withdrawals alone: even a state that lost some
    may do that. *erasing* is for `forget`, which is how lost codes of the erased are made again. *while_paused* is for
    what sends nothing.

    Who sends withdrawals alone does so beside a run that has let go of the lock (`aside`); all others wait for its end.

    Raises:
        StateError, BusyError: when there is no such state, it is not what it was, another run holds it, or it is
            paused.
    """
    folder, target = settings.state.path, settings.endpoint.target
    # Before the lock, so that a folder without state is not given one.
    with suppress(OlderStateError):  # which whoever writes makes a newer one
        State.open(folder, target, write=False, live=True).close()
    if not while_paused:
        pause.refuse_if_paused(folder)
    with (
        lock.held(folder, beside_a_run=lists_only) as held,
        logs.of_its_own(),
        State.open(folder, target, write=True) as opened,
    ):
        state = replace(opened, lock=held, erasing=erasing)
        shown = lock.announced(folder) if lists_only else {}
        if not lists_only:
            lock.name(folder, "")  # whoever is named there has died
            handover.done(folder)
        _catch_up(state, settings, lists_only=lists_only)
        try:
            yield state
        finally:
            if shown and shown.get("run") == lock.alive(folder):
                lock.announce(folder, shown)  # of the run that this was sent beside
        intake.refuse_unreadable(state)


@contextmanager
def aside(state: State, settings: Settings) -> Iterator[None]:
    """Let others have the lock while the block runs, for nothing in it changes the state.

    They send what is owed meanwhile. Afterwards what they left is taken up, as `holding` does when it begins. A process
    that does not hold the lock alone keeps it: nobody could tell that it lives.
    """
    if state.lock is None or not state.lock.alone:
        yield
        return
    try:
        with state.lock.let_go():
            yield
    except (ConfigError, ExportError):
        _catch_up(state, settings)
        raise
    _catch_up(state, settings)


def _catch_up(state: State, settings: Settings, *, lists_only: bool = False) -> None:
    """Finish what dead runs left, take in lists, and erase whoever waited for that; the lock was just taken."""
    anchoring.check(state, settings, lists_only=lists_only)
    if recover(state, settings, lists_only=lists_only) and state.ledger.about.restored():
        anchoring.deny_again(state, settings)  # a dead run of the backup has made of it what it was
    if state.ledger.about.restored():
        erasure.again(state, settings)  # a dead run of the backup may have brought some back
    intake.absorb(state, settings)
    clocks.hurry(state, settings)
    erasure.complete(state, settings)
    anchoring.keep(state, settings)  # who was here before may have died before it noted how far it came
    if not lists_only:
        intake.refuse_unreadable(state)


def view(state: State, settings: Settings) -> tuple[Holdings, Lingering, list[str]]:
    """Return what `recover` would make of snapshot and lingering, and the dead runs, changing nothing on disk."""
    holdings, lingering = state.holdings(), state.ledger.lingering()
    dead = []
    alive = lock.alive(state.folder)
    for run in state.ledger.unfinished():
        if run.run == alive:
            continue
        dead.append(run.run)
        for leg in legs.unfolded(state, run.run):
            rows, about = tables.read_plan(leg.plan)
            with tempfile.TemporaryDirectory() as scratch:
                # Even reading a journal may change it: SQLite brings its log in.
                for path in leg.folder.glob("journal.db*"):
                    shutil.copy(path, scratch)
                with Reading(Path(scratch) / "journal.db", len(rows), time.time()) as journal:
                    endings = journal.endings()
            if about.get("beside"):
                rows = as_now(rows, holdings)
            planned = about["planned"]
            dates = legs.stated_at(rows, state.ledger.obligations.owed(time.time()), about.get("stated"), planned)
            holdings, lingering = legs.folded(
                holdings, lingering, rows, endings, planned, settings.delivery.linger_s, dates, planned
            )
    return holdings, lingering, dead
