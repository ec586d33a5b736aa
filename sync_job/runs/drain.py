"""Sends what is owed to people who withdrew, now: a run without an export, or a word to the run that is under way."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from sync_job.config import Settings
from sync_job.delivery import tls
from sync_job.errors import BusyError, Exit, PausedError, gravest
from sync_job.ledger import inbox, lock
from sync_job.ledger.state import State
from sync_job.report import counts
from sync_job.report.counts import Summary
from sync_job.runs import legs, measuring, night, notifying, owing
from sync_job.runs.decide import Wish
from sync_job.runs.intake import Taken
from sync_job.runs.recover import holding
from sync_job.runs.report import Report, Stopwatch
from sync_job.runs.watch import Watch

_log = structlog.get_logger()
_POLL_S = 1.0
_LOCK_S = 0.2  # how often it is asked meanwhile whether the lock is free


@dataclass
class Drained:
    """How it went at one target: its report if this process sent, what became of its list if there was one."""

    settings: Settings
    report: Report | None = None
    busy: str = ""
    list_state: Summary | None = None
    elsewhere: bool = False  # this process sends nothing: another holds the lock, or the target is paused

    @property
    def exit_code(self) -> Exit:
        """What the command ends with for this target, whatever is past its limit there."""
        if self.busy:
            return Exit.BUSY
        code = self.report.exit_code if self.report else Exit.OK
        left = self.list_state and any(self.list_state[name] for name in ("open", "refused", "parked"))
        return gravest({code, Exit.ATTENTION}) if left else code


def drain(settings: Settings, kind: str, watch: Watch, *, not_taken: int = 0) -> Report | None:
    """Deliver what is owed, and return the report; none, and no trace in the history, where nothing is.

    *not_taken* is how many rows of the list that is sent could not be taken in, which its report says.

    Raises:
        BusyError: when another run holds the lock; it sends what is owed.
    """
    with notifying.telling(settings, kind):
        return _drain(settings, kind, watch, not_taken)


def _drain(settings: Settings, kind: str, watch: Watch, not_taken: int) -> Report | None:
    tls.context(settings.endpoint)
    watch.stage("opening the state")
    with holding(settings, lists_only=True) as state:
        if not len(legs.owed_now(state, time.time())):
            found = owing.figures(state, settings)
            measuring.owed(settings, found)
            notifying.idle(found)
            return None
        findings = night.begin(state, settings, kind, watch)
        laps = Stopwatch()
        if not_taken:
            rows = f"{not_taken:,} row{'' if not_taken == 1 else 's'} of the list"
            findings.add(Exit.ATTENTION, f"{rows} could not be taken in; mend and send them again")
        try:
            legs.Legs(state, settings, findings, watch, Wish()).owed()
            laps.lap("deliver")
            return night.conclude(state, settings, findings, watch, laps)
        finally:
            watch.end()


def deliver(
    taken: Sequence[Taken], wait_s: float, watch: Watch, *, sleep: Callable[[float], None] = time.sleep
) -> list[Drained]:
    """Have lists that were taken in sent, by this process or by the run that holds the lock, within *wait_s*.

    What is not sent by then stays taken in: whoever holds the lock sends it.
    """
    ends = time.monotonic() + wait_s
    done = [Drained(one.settings) for one in taken]
    waiting = list(zip(taken, done, strict=True))
    while waiting:
        waiting = [(one, result) for one, result in waiting if not _try(one, result, watch)]
        if waiting and time.monotonic() >= ends:
            break
        if waiting:
            watch.stage("waiting for the run that holds the lock")
            _wait([one.settings for one, _ in waiting], sleep)
    watch.end()
    return done


def _try(one: Taken, result: Drained, watch: Watch) -> bool:
    """Send a list if the lock is free; return whether it was sent, by whomever."""
    settings = one.settings
    try:
        result.report = drain(settings, "opt-out", watch, not_taken=one.found.rejected)
        result.elsewhere = False
    except PausedError as exc:
        result.busy, result.elsewhere = str(exc), True
        return True
    except BusyError as exc:
        result.busy, result.elsewhere = str(exc), True
    with State.open(settings.state.path, settings.endpoint.target, write=False) as state:
        result.list_state = state.ledger.withdrawals.list_state(one.found.digest)
        if result.list_state:
            counts.check_received(result.list_state)
    waits = result.list_state["open"] if result.list_state else one.found.table.num_rows
    if result.report is None and result.busy and waits:
        return False
    result.busy = ""
    return True


def drain_all(
    targets: Sequence[Settings], wait_s: float, watch: Watch, *, sleep: Callable[[float], None] = time.sleep
) -> list[Drained]:
    """Deliver what is owed at each target; where a run is under way, wait until it has taken the inbox in."""
    ends = time.monotonic() + wait_s
    done = [Drained(settings) for settings in targets]
    waiting = list(done)
    while waiting:
        waiting = [result for result in waiting if not _try_drain(result, watch)]
        if waiting and time.monotonic() >= ends:
            break
        if waiting:
            _wait([result.settings for result in waiting], sleep)
    watch.end()
    return done


def _wait(targets: Sequence[Settings], sleep: Callable[[float], None]) -> None:
    """Wait until the lock of a target is free, and no longer than until something is worth another look."""
    for _ in range(round(_POLL_S / _LOCK_S)):
        sleep(_LOCK_S)
        if any(lock.is_free(one.state.path) for one in targets):
            return


def _try_drain(result: Drained, watch: Watch) -> bool:
    try:
        result.report, result.busy, result.elsewhere = drain(result.settings, "drain", watch), "", False
    except PausedError as exc:
        result.busy, result.elsewhere = str(exc), True
    except BusyError as exc:
        result.busy, result.elsewhere = str(exc), True
        if inbox.waiting(result.settings.state.path):
            return False
        result.busy = ""  # whoever holds the lock sends what is owed
    return True
