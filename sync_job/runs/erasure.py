"""Erasure: every channel is denied first, then a client leaves everything that is kept, and a tombstone stays."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog

from sync_job.config import Settings
from sync_job.consent.channels import Ids, Mask
from sync_job.consent.clocks import AHEAD_S
from sync_job.consent.tables import Table, union
from sync_job.errors import Exit, StateError, gravest
from sync_job.exports import id_map
from sync_job.exports.lists import List
from sync_job.ledger import accounting, anchor
from sync_job.ledger.state import State
from sync_job.ledger.tombstones import Tombstones
from sync_job.ledger.withdrawals import later_than_erasure
from sync_job.ledger.withdrawn import Withdrawn
from sync_job.report import kept, scrub
from sync_job.report.counts import Summary
from sync_job.runs import limits

_log = structlog.get_logger()

# Said with every erasure, because nobody else will.
OUT_OF_REACH = (
    "backups of the state and of reports, until they are overwritten",
    "the exports and lists that were read, and plans that were saved with `plan -o`",
    "reports from before the platform's ids changed (`init --from`), until they are as old as [report] keep_days",
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


def ask(state: State, settings: Settings, ids: Ids, request_ref: str, *, by: str = "", reason: str = "") -> int:
    """Keep who is to be erased, and owe each a denial of every channel; return how many are owed one.

    The request stays on record, without the ids. Whoever was erased before, and of whom nothing is known since, was
    denied then and is owed nothing.
    """
    now = time.time()
    owed = ids[~erased_before(state, settings, ids)]
    ledger = state.ledger

    def note() -> None:
        ledger.obligations.owe_before_erasure(owed, now, limits.of(settings, np.full(len(owed), now)))
        ledger.forgetting.add(ids, request_ref, now)
        ledger.forgetting.record(ids, request_ref, now, by=by, reason=reason)

    ledger.do(note)
    return len(owed)


def erased_before(state: State, settings: Settings, ids: Ids) -> Mask:
    """Return which of *ids* were erased, and are not known again."""
    return tombstones(settings).of(ids) & ~state.knows(ids)


def received_since(settings: Settings, found: List, time_column: str = "received_at") -> List:
    """Return a list without the rows that are not later than the erasure of their client.

    If the codes of the erased cannot be read nothing is taken out: a list of opt-outs is not kept waiting by that. An
    erasure from the future outdoes no list, but all evidence (*time_column* is when it was granted).
    """
    try:
        buried = tombstones(settings)
    except StateError:
        return found
    if not len(buried):
        return found
    table = found.table
    client, at = (table.column(name).combine_chunks() for name in ("client", time_column))
    latest = time.time() + AHEAD_S if time_column == "received_at" else np.inf
    kept = later_than_erasure(client, at, buried.since, latest)
    if kept.all():
        return found
    return replace(found, table=table.filter(pa.array(kept)), erased=int(np.count_nonzero(~kept)))


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
    back = np.unique(np.concatenate([ids[buried.of(ids)] for ids in state.people()]))
    since = buried.since(back)
    received = state.ledger.withdrawals.received_at(back)
    # A list has named them since, or they are to be erased once more, after a denial. If the erasure is from the future
    # nobody knows which came first: whoever withdrew stays, until `state repair` brings its time to now.
    again = (received > since) | (state.ledger.forgetting.asked_at(back) > since)
    again |= (since > time.time() + AHEAD_S) & (received > 0)
    back, since = back[~again], since[~again]
    if len(back):
        state.ledger.forgetting.ask(back, "", since)  # so that `complete` makes good what dies half-way
        _erase(state, settings, back, back=True)


def _erase(state: State, settings: Settings, ids: Ids, *, back: bool = False) -> None:
    """Take clients out of everything; those whom a backup has brought *back* are in the codes only if they came since.

    The tombstones come first, so that no export brings back who is half erased; that it is done comes last, so that
    `complete` makes good what died in between. Done twice it is as done once.
    """
    buried = tombstones(settings)
    asked, since = state.ledger.forgetting.asked_at(ids), buried.since(ids)
    # Of a list whose clock is ahead the erasure is no earlier than its rows: they must not come back by it.
    now = np.maximum(time.time(), state.ledger.withdrawals.received_at(ids))
    if (expected := state.ledger.about.buried()) > len(buried):
        # Nobody can tell whether a new code is one of those that were lost: it makes up for none.
        state.ledger.about.note_buried(expected + int(np.count_nonzero(np.isnan(since))))
    # Whoever was erased since they were asked for keeps that time: what a list says later than that still counts.
    buried.add(ids, np.where(asked <= since, since, now))
    if back:
        state.ledger.about.note_accounted(None)
    else:
        keys, target = settings.state.keys, settings.endpoint.target
        accounting.erase(state.ledger, Withdrawn.open(keys, target, anchor.read(keys, target)), ids)
    holdings = state.holdings()
    stays = ~np.isin(holdings.client, ids)
    state.erase(ids, holdings.at(stays), time.time())
    before = state.ledger.about.carried().get("run", 0)  # its reports have other clients' ids
    reports = kept.folders(settings.report.path, *state.ledger.about.targets(), after=before)
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


def result(
    forgotten: int, waiting: int, *, unknown: int, before: int, denied: int, exit_code: Exit, target: str
) -> Summary:
    """Return what an erasure came to, in clients, and what it cannot reach."""
    codes = {exit_code} | ({Exit.ATTENTION} if waiting else set())
    return {
        "target": target,
        "forgotten": forgotten,
        "waiting": waiting,
        "unknown": unknown,
        "erased_before": before,
        "denied": denied,
        "out_of_reach": list(OUT_OF_REACH),
        "exit": int(gravest(codes)),
    }
