"""A backfill: what is to be sent again is made due in one durable step; from then on it is a run like any other.

Stopping, resuming and recovering it need nothing of its own. It hands over to a nightly run that asks for it.
"""

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import structlog

from sync_job.config import Settings
from sync_job.consent import backfill, rows
from sync_job.consent.backfill import Again, Mark
from sync_job.consent.channels import allowed
from sync_job.consent.diff import Diff
from sync_job.consent.lists import scope, scope_text
from sync_job.consent.rows import Rows
from sync_job.errors import BusyError, ConfigError, Exit, PausedError, StateDamagedError
from sync_job.ledger import handover, lock
from sync_job.ledger.backfills import Backfill
from sync_job.ledger.state import State
from sync_job.report.counts import Summary
from sync_job.runs.decide import Case
from sync_job.runs.legs import Legs
from sync_job.runs.recover import holding
from sync_job.runs.report import Findings
from sync_job.runs.watch import Watch

T = TypeVar("T")
_log = structlog.get_logger()
_HANDOVER_S = 900.0  # what is in flight settles; then come the fold and the report


def again(only: str, *, grants: bool) -> Again:
    """Return what is to be sent again, of the channels that *only* names; of all for "".

    Raises:
        ConfigError: for a name that is no channel.
    """
    try:
        return Again(scope(only), grants) if only else Again(grants=grants)
    except ValueError as exc:
        raise ConfigError(f"--only: {exc}.") from exc


def hands_over(state: State, kind: str) -> bool:
    """Return whether a run lets a nightly run take its place: a backfill does, and whatever carries one on."""
    return kind == "backfill" or (kind in ("run", "apply") and state.ledger.backfills.open() is not None)


def refuse_second(state: State) -> None:
    """Refuse a backfill while another is open: what the first made due could no longer be told from the second's.

    Raises:
        ConfigError: saying how far the open one is.
    """
    if one := state.ledger.backfills.open():
        left = shown(state, one)["left"]
        raise ConfigError(
            f"The backfill of run {one.run} is not done: {left if left is not None else 'some'} of its {one.clients:,} "
            "clients are still to be sent. `consent-sync run` carries it on; `consent-sync backfill --cancel` takes "
            "back what is left."
        )


def make_due(
    state: State, case: Case, found: Diff, mark: Mark | None, findings: Findings, approved: int | None, now: float
) -> None:
    """Make durable what is to be sent again, if the grants of its plan were approved by their number.

    Raises:
        ConfigError: when they were not, or the export may not grant what is asked for.
    """
    if case.again is None or mark is None:
        return  # the ids look renumbered, and the guard has said so
    if case.again.grants and not case.terms.may_grant:
        raise ConfigError(
            f"--all: nothing may be granted by this export: {findings.restrict_only}. --denials sends its denials."
        )
    if case.again.grants:
        refuse_unapproved(granted(found.rows, mark), approved)
    holdings = backfill.marked(state.holdings(), mark)
    state.begin_backfill(findings.run, mark, case.again, approved or 0, holdings, now)
    _log.info("backfill.began", clients=len(mark.client))


def taking_over(
    settings: Settings,
    act: Callable[[], T],
    watch: Watch,
    *,
    ready: Callable[[], object] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return what *act* returns; a backfill that holds the lock is asked to hand over, and waited for.

    *ready* raises what speaks against taking over, before the backfill is asked: it would end for nothing.

    Raises:
        BusyError: when another run holds the lock, or it has not handed over in time.
    """
    folder = settings.state.path
    ends, asked = None, False
    while True:
        try:
            return act()
        except BusyError as exc:
            now = time.monotonic()
            ends = now + _HANDOVER_S if ends is None else ends
            hands_over = lock.running(folder).get("hands_over")
            # Once it was asked, whoever is quicker at its end, such as a drain, is waited for as well.
            if isinstance(exc, PausedError) or not (hands_over or asked) or now >= ends:
                raise
            if hands_over:
                if not asked:
                    ready()
                handover.ask(folder)
                asked = True
            watch.stage("waiting for the backfill to hand over")
            sleep(1.0)


def refuse_unapproved(grants: int, approved: int | None) -> None:
    """Refuse to make grants due that were not approved by their number.

    Raises:
        ConfigError: with the number.
    """
    if grants != (approved or 0):
        said = "" if approved is None else f", not {approved:,}"
        raise ConfigError(
            f"--all would send an *allowed* to {grants:,} clients{said}. If that is meant, say "
            f"--approve-grants {grants}; if not, --denials sends denials again. Nothing was made due."
        )


def granted(planned: Rows, mark: Mark | None = None) -> int:
    """Return how many clients a plan would send an *allowed*, or a *mark* lets a later run send one."""
    ids = planned.client[allowed(planned.sent) != 0]
    if mark is not None:
        ids = np.concatenate([ids, mark.client[allowed(mark.made) != 0]])
    return len(np.unique(ids))


def sample(planned: Rows, count: int, legs: Legs, findings: Findings) -> Rows:
    """Return a plan with *count* random rows of every kind first, and let the run send no more than those."""
    chosen, size = rows.sampled(planned, count, np.random.default_rng())
    legs.send_at_most(size)
    if size < len(planned):
        findings.add(
            Exit.ATTENTION,
            f"a sample of {size:,} rows was to be sent, {count} of every kind; the other {len(planned) - size:,} are "
            "due: `consent-sync run` carries on, `consent-sync backfill --cancel` takes back what is left",
        )
    return chosen


def end_if_done(state: State, now: float) -> None:
    """End the backfill that is open if nothing of it is left; one whose mark cannot be read ends no run."""
    one = state.ledger.backfills.open()
    state.sweep_marks()
    if one and shown(state, one)["left"] == 0:
        state.end_backfill(one, "done", now)
        _log.info("backfill.done", backfill=one.run)


def open_one(state: State) -> Summary | None:
    """Return how far the open backfill is; none where none is open."""
    one = state.ledger.backfills.open()
    return shown(state, one) if one else None


def shown(state: State, one: Backfill) -> Summary:
    """Return how far a backfill is, in clients; how many are *left* is not known where its mark is damaged."""
    left: int | None = None
    with contextlib.suppress(StateDamagedError):
        left = int(np.count_nonzero(backfill.left(state.mark(one), state.holdings())))
    return {
        "run": one.run,
        "at": one.at,
        "channels": scope_text(one.channels),
        "grants": one.grants,
        "approved": one.approved,
        "clients": one.clients,
        "left": left,
    }


def cancel(settings: Settings) -> Summary:
    """Take back what the open backfill made due and is neither acknowledged nor in doubt; what was due before stays.

    Of the clients that were *left*, some are *taken_back*; all others are still sent, some of them as their request is
    *in_doubt*.

    Raises:
        ConfigError: when none is open.
        BusyError: while a run holds the lock.
    """
    with holding(settings) as state:
        one = state.ledger.backfills.open()
        if one is None:
            state.sweep_marks()
            raise ConfigError(f"No backfill is open: {_last(state)}.")
        found = shown(state, one)
        in_doubt, holdings = state.ledger.backfills.doubted(), None
        back, doubted = 0, 0
        with contextlib.suppress(StateDamagedError):  # then nobody can tell what it made due: all of that stays
            what, before = state.mark(one), state.holdings()
            holdings = backfill.taken_back(before, what, in_doubt)
            still = backfill.left(what, before)
            back = int(np.count_nonzero(still & ~backfill.left(what, holdings)))
            doubted = int(np.count_nonzero((still != 0) & np.isin(what.client, in_doubt)))
        state.end_backfill(one, "cancelled", time.time(), holdings)
    return {"target": settings.endpoint.target, **found, "taken_back": back, "in_doubt": doubted}


def _last(state: State) -> str:
    """Return in words how the last backfill ended."""
    run, how = state.ledger.backfills.last() or ("", "")
    ends = {
        "done": "all of it was sent",
        "cancelled": "it was cancelled already",
        "restored": "it ended when the state was restored",
    }
    return f"the last one was that of run {run}, and {ends.get(how, how)}" if run else "none was made"
