"""Erasure: outstanding denials first, then a client leaves everything that is kept, and a tombstone stays."""

import time

import numpy as np
import structlog

from sync_job.config import Settings
from sync_job.consent.channels import Ids, denied
from sync_job.consent.known import Holdings
from sync_job.consent.tables import Table
from sync_job.errors import Exit, gravest
from sync_job.ledger.state import State
from sync_job.ledger.tombstones import Tombstones
from sync_job.report import scrub
from sync_job.report.counts import Summary
from sync_job.runs import limits

_log = structlog.get_logger()

# Said with every erasure, because nobody else will.
OUT_OF_REACH = (
    "backups of the state and of reports, until they are overwritten",
    "the exports and lists that were read",
    "the CRM, which will export the client again unless it erases it too",
    "the loyalty platform, which was told to contact the client no more, and keeps what it keeps",
)


def tombstones(settings: Settings) -> Tombstones:
    """Return the tombstones of a target."""
    return Tombstones.open(settings.state.keys, settings.endpoint.target)


def among(settings: Settings, statements: Table) -> Ids:
    """Return the clients of an export that were erased: nothing of them is sent or kept."""
    buried = tombstones(settings)
    if not len(buried):
        return np.zeros(0, np.int32)
    ids = statements.items()[0]
    return ids[buried.of(ids)]


def ask(state: State, settings: Settings, ids: Ids, request_ref: str) -> int:
    """Keep who is to be erased, and owe a denial of what each is known to allow; return how many are owed one."""
    now = time.time()
    state.ledger.forgetting.ask(ids, request_ref, now)
    holdings = state.holdings()
    here = np.isin(holdings.client, ids)
    # What is allowed, or due and not known to have been taken: after the erasure nobody would know of it.
    state_, due = holdings.state[here], holdings.due[here]
    open_ = (denied(due) | (state_ >> 1 & 0b01010101) | (due >> 1 & 0b01010101)).astype(np.uint8)
    client = holdings.client[here][open_ != 0]
    started = np.full(len(client), now)
    until = limits.of(settings, started)
    return state.ledger.obligations.add("erasure", client, open_[open_ != 0], started, until)


def complete(state: State, settings: Settings) -> int:
    """Erase those who were to be erased and to whom nothing is owed any more; return how many that were.

    What is parked, because the platform does not know the client, counts as done.
    """
    asked = state.ledger.forgetting.asked()
    if not len(asked):
        return 0
    owed = state.ledger.obligations.owed(time.time())
    ready = asked[~np.isin(asked, owed.client[~owed.parked])]
    lingering = state.ledger.lingering()
    ready = ready[~np.isin(ready, lingering.client)]
    if len(ready):
        _erase(state, settings, ready)
    return len(ready)


def again(state: State, settings: Settings) -> None:
    """Erase again those whom a restored backup has brought back, but for those whom a list named since."""
    buried = tombstones(settings)
    if not len(buried):
        return
    ids = state.holdings().client
    ids = np.unique(np.concatenate([ids, state.ledger.withdrawals.clients()]))
    back = ids[buried.of(ids)]
    since = buried.since(back)
    named = state.ledger.withdrawals.named_since(back)
    back = back[~(named > since)]
    if len(back):
        _erase(state, settings, back)


def _erase(state: State, settings: Settings, ids: Ids) -> None:
    """Take clients out of everything; the tombstones come first, so that a crash in between is made good."""
    buried = tombstones(settings)
    buried.add(ids, time.time())
    holdings = state.holdings()
    kept = ~np.isin(holdings.client, ids)
    state.erase(ids, Holdings(holdings.client[kept], holdings.state[kept], holdings.due[kept]), time.time())
    if settings.report.path.is_dir():
        for folder in sorted(settings.report.path.iterdir()):
            if folder.is_dir():
                scrub.without(folder, ids, settings.export.columns.Client)
    _log.info("clients.erased", clients=len(ids))


def result(forgotten: int, waiting: int, exit_code: Exit, target: str) -> Summary:
    """Return what an erasure came to, and what it cannot reach."""
    codes = {exit_code} | ({Exit.ATTENTION} if waiting else set())
    return {
        "target": target,
        "forgotten": forgotten,
        "waiting": waiting,
        "out_of_reach": list(OUT_OF_REACH),
        "exit": int(gravest(codes)),
    }
