"""A person lets through what a run held, by its number; the next run sends what of it is still stated."""

import time

from sync_job.config import Settings
from sync_job.errors import ConfigError
from sync_job.ledger.applied import Approval, HeldSet
from sync_job.ledger.ledger import Ledger
from sync_job.ledger.state import State
from sync_job.runs.recover import holding


def approve(settings: Settings, name: str, what: str, count: int, *, reason: str, by: str) -> Approval:
    """Approve what the run *name* (its id or number) held, if *count* is its number of clients; for 72 hours.

    Raises:
        ConfigError: when that run held no such set, or another number of clients.
    """
    if not reason.strip(" …") or not by.strip(" …"):  # … is what stands in the command that a report shows
        raise ConfigError("approve: say why (--reason) and who (--by); both are kept and reported.")
    with holding(settings) as state:
        if before := _given(state.ledger, name, what, count, now=time.time()):
            return before  # whoever gave it may have died before it was told
        one = _held_by(state.ledger, name)
        return state.ledger.applied.approve(
            state.folder, one, what, count, reason=reason.strip(), by=by.strip(), now=time.time()
        )


def held(settings: Settings) -> list[HeldSet]:
    """Return what runs held that may still be approved, the oldest first."""
    with State.open(settings.state.path, settings.endpoint.target, write=False, live=True) as state:
        return state.ledger.applied.held_runs()


def _given(ledger: Ledger, name: str, what: str, count: int, *, now: float) -> Approval | None:
    """Return the same approval, if it was given already and still holds: grants that were sent since spend it."""
    applied = ledger.applied
    found = [one for one in applied.approvals(now) if (one.what, one.count) == (what, count)]
    found = [one for one in found if what != "grants" or applied.is_unspent(one)]
    return next((one for one in reversed(found) if _is_called(one.run, name)), None)


def _is_called(run: str, name: str) -> bool:
    return run == name or run.split("-")[0].lstrip("0") == name.lstrip("0")


def _held_by(ledger: Ledger, name: str) -> HeldSet:
    found = ledger.applied.held_runs()
    wanted = [one for one in found if _is_called(one.run, name)]
    if not wanted:
        known = ", ".join(one.run for one in found[-5:]) or "none"
        raise ConfigError(f"Run {name} held nothing that could be approved; those that did are: {known}.")
    return wanted[-1]
