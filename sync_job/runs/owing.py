"""What is owed to people who withdrew, counted in one place: open obligations, and lists in the inbox.

Needs no lock, so that a target counts the same while it is paused, or while a run holds the lock and hangs. What a
state owes does not hang on the address in the configuration, which may be the old or the new one of a `retarget`.
"""

import time
from pathlib import Path

import numpy as np

from sync_job.config import Settings
from sync_job.errors import ConsentSyncError, Exit, StateError, gravest
from sync_job.ledger import inbox
from sync_job.ledger import ledger as ledgers
from sync_job.ledger.ledger import Ledger
from sync_job.ledger.obligations import Coming
from sync_job.ledger.state import State
from sync_job.ledger.tombstones import Tombstones
from sync_job.ledger.withdrawals import ErasedAt
from sync_job.report import withdrawals_text
from sync_job.report.counts import Summary
from sync_job.runs import limits


def figures(state: State, settings: Settings) -> Summary:
    """Return how many clients are owed a denial: open, parked, past target and limit, since when, by age and source.

    Rows of lists in the inbox count from their receipt. `lists_waiting` and `clients_waiting` are how many lists lie
    there and how many clients they add or bring again, `ambiguous` of how many the CRM's number means others today.
    """
    lists = inbox.waiting(state.folder)  # First: what is taken in meanwhile is in the ledger by then.
    coming = _coming(state, settings, lists) if lists else None
    found = state.ledger.obligations.status(time.time(), 3600 * settings.withdrawals.target_h, coming)
    clients = 0 if coming is None else len(np.unique(coming.client))
    ambiguous = state.ledger.withdrawals.ambiguous()
    return found | {"lists_waiting": len(lists), "clients_waiting": clients, "ambiguous": ambiguous}


def _coming(state: State, settings: Settings, lists: list[Path]) -> Coming:
    ids, received = [np.zeros(0, np.int32)], [np.zeros(0, np.float64)]
    since = erased_at(settings, state.ledger)
    for path in lists:
        try:
            batches, about = inbox.read(path)
            clients, at = state.ledger.withdrawals.coming(batches, str(about["digest"]), since, time.time())
        except StateError:
            continue  # Taken in meanwhile, or unreadable: whoever takes it in says so.
        ids.append(clients)
        received.append(at)
    started = np.concatenate(received)
    return Coming(np.concatenate(ids), started, limits.of(settings, started))


def erased_at(settings: Settings, ledger: Ledger) -> ErasedAt:
    """Return what tells when clients were erased; if the codes of them cannot be read nobody counts as erased."""
    try:
        # The codes are those of the state's own target, whatever the configuration has in its place.
        return Tombstones.open(settings.state.keys, ledger.about.said("target")).since
    except StateError:
        return lambda ids: np.full(len(ids), np.nan)


def target_of(settings: Settings) -> str:
    """Return the target of the state that the configuration names, which may have another address than it.

    Raises:
        StateError: when the state cannot be read.
    """
    return ledgers.target_of(settings.state.path / "ledger.db")


def read(settings: Settings) -> Summary | None:
    """Return the figures of a state, whatever target the configuration gives it, or none if it cannot be read."""
    try:
        with State.open(settings.state.path, target_of(settings), write=False) as state:
            return figures(state, settings)
    except ConsentSyncError:
        return None


def code(found: Summary | None, before: Exit) -> Exit:
    """Return the exit code of a command that would end in *before*: 7 if something is past its limit, by its rank."""
    return gravest({before, Exit.OBLIGATION}) if found and found["past_limit"] else before


def reason(found: Summary | None) -> str:
    """Return in words what is past its limit, with the next command; "" if nothing is."""
    return withdrawals_text.past_limit(found) if found and found["past_limit"] else ""
