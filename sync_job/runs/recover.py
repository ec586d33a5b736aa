"""Finishes what dead runs left: their legs are folded and their reports written, each from the step it missed."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from sync_job.config import Settings
from sync_job.consent.known import Holdings, Lingering
from sync_job.errors import CountsError, Exit, OlderStateError, StorageError
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
    for run in unfinished:
        findings = Findings(run.kind, run.run, run.started)
        findings.add(Exit.ATTENTION, "the run died before its end; the next one finished it")
        for leg in state.legs(run.run):
            rows, about = tables.read_plan(leg.plan)
            if not state.ledger.is_committed(run.run, leg.number):
                legs.commit(state, settings, run.run, leg, rows, about["planned"], about.get("stated"))
            findings.take(about)
        findings.reject_keys = [key for key in state.ledger.undone() if key[0] == "reject"]
        if run.stage == "open":
            state.ledger.finish(run.run, time.time())
        _log.warning("run.recovered", run=run.run, kind=run.kind)
        try:
            folder = report.folder_of(settings, run.run)
            if state.ledger.about.restored() and (folder / "summary.json").exists():
                # The backup knows less of that run than its report: what was acknowledged since must stay readable.
                folder = folder.with_name(f"{folder.name}-restored")
            made = report.write(state, settings, findings, Stopwatch(), run.ended or time.time(), folder)
            measuring.reported(settings, state, made.summary, died=True)
            notifying.recovered(run.run)
            found.append(made)
        except (StorageError, CountsError):
            if not lists_only:
                raise
            _log.warning("run.unreported", run=run.run)
    return found


@contextmanager
def holding(settings: Settings, *, lists_only: bool = False, while_paused: bool = False) -> Iterator[State]:
    """Hold the lock of the target's state while the block runs.

    What dead runs left is finished first, lists that came in are taken into the ledger, and who was to be erased and
    is owed nothing any more is erased. *lists_only* is for what sends withdrawals alone: even a state that lost some
    may do that. *while_paused* is for what sends nothing.

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
    with lock.held(folder), logs.of_its_own(), State.open(folder, target, write=True) as state:
        handover.done(folder)
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
        yield state
        intake.refuse_unreadable(state)


def view(state: State, settings: Settings) -> tuple[Holdings, Lingering, list[str]]:
    """Return what `recover` would make of snapshot and lingering, and the dead runs, changing nothing on disk."""
    holdings, lingering = state.holdings(), state.ledger.lingering()
    dead = []
    for run in state.ledger.unfinished():
        dead.append(run.run)
        for leg in legs.unfolded(state, run.run):
            rows, about = tables.read_plan(leg.plan)
            with tempfile.TemporaryDirectory() as scratch:
                # Even reading a journal may change it: SQLite brings its log in.
                for path in leg.folder.glob("journal.db*"):
                    shutil.copy(path, scratch)
                with Reading(Path(scratch) / "journal.db", len(rows), time.time()) as journal:
                    endings = journal.endings()
            owed = state.ledger.obligations.owed(time.time())
            dates = legs.stated_at(rows, owed, about.get("stated"), about["planned"])
            holdings, lingering = legs.folded(
                holdings, lingering, rows, endings, about["planned"], settings.delivery.linger_s, dates
            )
    return holdings, lingering, dead
