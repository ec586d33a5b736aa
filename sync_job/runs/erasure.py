"""Erasure: outstanding denials first, then a client leaves everything that is kept, and a tombstone stays."""

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import structlog

from sync_job.config import Settings
from sync_job.consent.channels import LOW_BITS, Bytes, Ids, denied
from sync_job.consent.known import Holdings
from sync_job.consent.tables import Table, union
from sync_job.errors import Exit, gravest
from sync_job.exports import id_map
from sync_job.ledger.state import State
from sync_job.ledger.tombstones import Tombstones
from sync_job.report import kept, scrub
from sync_job.report.counts import Summary
from sync_job.runs import limits

_log = structlog.get_logger()

# Said with every erasure, because nobody else will.
OUT_OF_REACH = (
    "backups of the state and of reports, until they are overwritten",
    "the exports and lists that were read, and plans that were saved with `plan -o`",
    "the CRM, which will export the client again unless it erases it too",
    "the loyalty platform, which was told to contact the client no more, and keeps what it keeps",
)


def tombstones(settings: Settings) -> Tombstones:
    """Return the tombstones of a target."""
    return Tombstones.open(settings.state.keys, settings.endpoint.target)


def among(settings: Settings, statements: Table, asked: Ids | None = None) -> Ids:
    """Return the clients of an export that were erased: nothing of them is sent or kept.

    Those who *asked* to be (ascending), and are owed a denial first, are granted nothing meanwhile: they count as such.
    """
    asked = np.zeros(0, np.int32) if asked is None else asked
    asked = asked[statements.of(asked) != 0]
    buried = tombstones(settings)
    if not len(buried):
        return asked
    ids = statements.items()[0]
    return union(ids[buried.of(ids)], asked)


def ask(state: State, settings: Settings, ids: Ids, request_ref: str) -> int:
    """Keep who is to be erased, and owe a denial of what each is known to allow; return how many are owed one."""
    now = time.time()
    client, channels = open_to(state.holdings(), ids)
    started = np.full(len(client), now)
    until = limits.of(settings, started)
    owed = state.ledger.obligations.add("erasure", client, channels, started, until)
    state.ledger.obligations.release(ids, np.full(len(ids), LOW_BITS))  # whatever a guard holds of them
    # Last: who is to be erased and is owed nothing is erased, so a crash before this erases nobody without a denial.
    state.ledger.forgetting.ask(ids, request_ref, now)
    return owed


def open_to(holdings: Holdings, ids: Ids) -> tuple[Ids, Bytes]:
    """Return who of *ids* has channels, a low bit each, that are to be denied before an erasure."""
    here = np.isin(holdings.client, ids)
    # What is allowed, or due and not known to have been taken: after the erasure nobody would know of it.
    state_, due = holdings.state[here], holdings.due[here]
    open_ = (denied(due) | (state_ >> 1 & 0b01010101) | (due >> 1 & 0b01010101)).astype(np.uint8)
    return holdings.client[here][open_ != 0], open_[open_ != 0]


def complete(state: State, settings: Settings) -> int:
    """Erase those who were to be erased and to whom nothing is owed any more; return how many that were.

    What is parked, because the platform does not know the client, counts as done. An erasure that died before its end
    is made good.
    """
    asked = state.ledger.forgetting.asked()
    if not len(asked) or state.ledger.unfinished():
        return 0  # plan and journal of a run that could not be reported have them still
    now = time.time()
    owed = state.ledger.obligations.owed(now)
    ready = asked[~np.isin(asked, owed.client[~owed.parked])]
    lingers, _ = state.ledger.lingering().of(ready, now)
    ready = ready[~lingers]
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
        state.ledger.forgetting.ask(back, "", time.time())  # so that `complete` makes good what dies half-way
        _erase(state, settings, back)


def _erase(state: State, settings: Settings, ids: Ids) -> None:
    """Take clients out of everything.

    The tombstones come first, so that no export brings back who is half erased; that it is done comes last, so that
    `complete` makes good what died in between. Done twice it is as done once.
    """
    buried = tombstones(settings)
    buried.add(ids, time.time())
    holdings = state.holdings()
    stays = ~np.isin(holdings.client, ids)
    state.erase(ids, holdings.at(stays), time.time())
    reports = kept.folders(settings.report.path, *state.ledger.about.targets())
    without(settings, [(folder, ids) for folder in reports])
    if not state.ledger.unfinished():
        state.ledger.forgetting.done(ids)
    _log.info("clients.erased", clients=len(ids))


def without(settings: Settings, reports: Iterable[tuple[Path, Ids]]) -> None:
    """Take every row of the clients that are named with each report out of its files, under the CRM's ids as well.

    Raises:
        ConfigError, ExportError: when `[export] id_map`, which has those, cannot be read.
        StorageError: when a file of a report cannot be read or written.
    """
    mapped = id_map.of_export(settings.export)
    for folder, ids in reports:
        # Reports may be from before there was a map.
        in_exports = union(ids, mapped.map.came_from(ids)) if mapped else ids
        scrub.without(folder, ids, settings.export.columns.Client, in_exports)


def result(forgotten: int, waiting: int, unknown: int, denied: int, exit_code: Exit, target: str) -> Summary:
    """Return what an erasure came to, in clients, and what it cannot reach."""
    codes = {exit_code} | ({Exit.ATTENTION} if waiting else set())
    return {
        "target": target,
        "forgotten": forgotten,
        "waiting": waiting,
        "unknown": unknown,
        "denied": denied,
        "out_of_reach": list(OUT_OF_REACH),
        "exit": int(gravest(codes)),
    }
