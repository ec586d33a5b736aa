"""Takes lists of withdrawals in: durable in the inbox of each target, without its lock, before the first request.

Only the holder of the lock moves them from the inbox into the ledger.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from sync_job.config import Settings
from sync_job.consent.channels import Ids
from sync_job.consent.guards import at_most
from sync_job.consent.id_map import Numbering, whose
from sync_job.errors import ConfigError, ConsentSyncError, ExportError, StateError
from sync_job.exports import id_map, lists, sources
from sync_job.exports.lists import List
from sync_job.ledger import inbox
from sync_job.ledger.state import State
from sync_job.report.counts import Summary
from sync_job.runs import anchoring, erasure, limits
from sync_job.runs.watch import Watch

_log = structlog.get_logger()

# Asked how many clients a list has and how many it may have without a question; returns what was typed, or none.
Confirm = Callable[[int, int], int | None]


@dataclass(frozen=True)
class Listing:
    """A list of withdrawals, and what the command line says for all of its rows; "" or none for nothing."""

    path: str
    received_at: float | None = None
    scope: str = ""
    basis: str = ""
    request_ref: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    sheet: str = ""
    contacts: str = ""  # the lookup of a list that has addresses or numbers in the place of ids
    id_map: Path | None = None  # from former ids of the platform to today's, for a list that has those


@dataclass(frozen=True)
class Taken:
    """A list that is durable in the inbox of a target, if it has any row that can be taken in."""

    settings: Settings
    found: List


def read(settings: Settings, listing: Listing, watch: Watch) -> List:
    """Return a list as it is meant for one target, without the rows of clients who were erased since."""
    watch.stage("reading the list")
    found = lists.read_withdrawals(
        listing.path,
        settings,
        received_at=listing.received_at,
        scope=listing.scope,
        basis=listing.basis,
        request_ref=listing.request_ref,
        columns=listing.columns,
        sheet=listing.sheet,
        contacts=listing.contacts,
        own_map=listing.id_map,
        now=time.time(),
        progress=watch.at,
    )
    return erasure.received_since(settings, found)


def take_in(
    targets: Sequence[Settings],
    listing: Callable[[Settings], Listing],
    confirm: Confirm,
    watch: Watch,
    failed: Callable[[Settings, ConsentSyncError], object] | None = None,
) -> list[Taken]:
    """Make a list durable in the inbox of every target; *listing* gives it as it is meant for each.

    A large list is confirmed for all targets before it is taken in anywhere. With *failed*, a target whose state or
    list cannot be used is reported there, and the others take the list in; without it, nobody does.

    Raises:
        ConfigError: the list is large and its number of clients was not confirmed.
        ConsentSyncError: without *failed*, the first error.
    """

    def report(settings: Settings, error: ConsentSyncError) -> None:
        if failed is None:
            raise error
        _log.warning("list.not_taken_in", target=settings.endpoint.target, why=str(error))
        failed(settings, error)

    read_for = []
    for settings in targets:
        meant = listing(settings)
        try:
            found = read(settings, meant, watch)
            with State.open(settings.state.path, settings.endpoint.target, write=False, live=True) as state:
                refuse_unmapped(state, settings)
                known = state.ledger.clients()
        except ConsentSyncError as exc:
            report(settings, exc)
            continue
        clients = count(found)
        most = at_most(settings.guards.list, settings.guards.list_share, known)
        if clients > most:
            said = confirm(clients, most)
            if said != clients:
                was = "" if said is None else f", not {said:,}"
                raise ConfigError(
                    f"{meant.path}: a list of {clients:,} clients{was}; more than {most:,} are taken in only when "
                    f"their number is confirmed. If that is meant, say --expect {clients}. Nothing was taken in."
                )
        read_for.append(Taken(settings, found))
    watch.stage("taking the list in")
    taken = []
    for one in read_for:
        found = one.found
        try:
            if found.table.num_rows:  # what is left of a list of erased people is no list
                put(one.settings, found, time.time())
            # It may have been given up since; then nobody looks into that inbox any more.
            State.open(one.settings.state.path, one.settings.endpoint.target, write=False, live=True).close()
        except ConsentSyncError as exc:
            report(one.settings, exc)
            continue
        taken.append(one)
        if found.table.num_rows:
            _log.info("list.taken_in", list=found.digest[:12], rows=found.table.num_rows)
    return taken


def refuse_unmapped(state: State, settings: Settings) -> None:
    """Refuse to read the CRM's numbers as the platform's, where lists have been read by an id map.

    Raises:
        ConfigError: naming the key.
    """
    if settings.export.id_map is None and state.ledger.withdrawals.has_given():
        raise ConfigError(
            f"{state.folder.absolute()}: withdrawals of this state are in the CRM's numbers, and this configuration "
            "has no [export] id_map: its lists and exports would name other people. Name the map; if the CRM has the "
            "platform's numbers now, one of each number to itself."
        )


def put(settings: Settings, found: List, now: float) -> None:
    """Make a list durable in the inbox of a target."""
    inbox.put(settings.state.path, found.table, digest=found.digest, source=found.source, now=now, id_map=found.id_map)


def count(found: List) -> int:
    """Return how many clients a list has."""
    return len(clients_of(found))


def clients_of(found: List) -> Ids:
    """Return the clients of a list, ascending, each once."""
    ids: Ids = found.table.column("client").unique().to_numpy()
    ids = ids.copy()
    ids.sort()
    return ids


def check(settings: Settings, listing: Listing, watch: Watch) -> Summary:
    """Return what a list would do, without taking it in: clients known, unknown, and withdrawn already."""
    found = read(settings, listing, watch)
    watch.end()
    ids = clients_of(found)
    with State.open(settings.state.path, settings.endpoint.target, write=False, live=True) as state:
        refuse_unmapped(state, settings)
        holdings, withdrawn = state.holdings(), state.ledger.withdrawals.in_force()
    known = int(holdings.has(ids).sum())
    most = at_most(settings.guards.list, settings.guards.list_share, len(holdings))
    return {
        "target": settings.endpoint.target,
        "list": found.digest,
        "rows": found.rows,
        "rejected": found.rejected,
        "reasons": dict(found.reasons),
        "erased": found.erased,
        "clients": len(ids),
        "known": known,
        "unknown": len(ids) - known,
        "withdrawn_already": int((withdrawn.of(ids) != 0).sum()),
        "share": round(len(ids) / len(holdings), 6) if len(holdings) else None,
        "must_be_confirmed": len(ids) > most,
    }


def absorb(state: State, settings: Settings) -> bool:
    """Move what lies in the inbox into the ledger, list by list; return whether there was any. Needs the lock.

    A file that cannot be read is set aside, so that it keeps no other list waiting; `refuse_unreadable` speaks of it.
    What was withdrawn by the CRM's numbers holds for whoever has those numbers today as well.
    """
    found = inbox.waiting(state.folder)
    inbox.sweep(state.folder, time.time())
    for path in found:
        try:
            batches, about = inbox.read(path)
        except StateError as exc:
            inbox.set_aside(path)
            _log.warning("list.unreadable", why=str(exc))
            continue
        taken = state.ledger.withdrawals.absorb(
            batches,
            about,
            now=time.time(),
            limit_of=partial(limits.of, settings),
            erased_at=erasure.tombstones(settings).since,
        )
        anchoring.keep(state, settings)
        inbox.remove(path)
        _log.info("list.absorbed", list=str(about["digest"])[:12], **vars(taken))
    return _resolve(state, settings) or bool(found)


def _resolve(state: State, settings: Settings) -> bool:
    """Let withdrawals by the CRM's numbers hold for whoever the map of today gives these numbers to, too.

    Return whether that is anybody new. Who was denied before stays denied: nobody can tell which map was right. A map
    that cannot be read keeps no opt-out waiting, and whoever reads an export by it refuses it.
    """
    withdrawals = state.ledger.withdrawals
    if settings.export.id_map is None or not withdrawals.has_given():
        return False
    try:
        digest = sources.digest(sources.LocalFile(settings.export.id_map))
        if digest == state.ledger.about.resolved():
            return False
        mapped = id_map.of_export(settings.export)
    except (ConfigError, ExportError) as exc:
        _log.warning("withdrawals.unresolved", why=str(exc))
        return False
    given, client = withdrawals.given()
    today = whose(given, Numbering.CRM, mapped.lookup if mapped else None)
    moved = (today != 0) & (today != client)
    moved &= ~erasure.tombstones(settings).of(today) & ~np.isin(today, state.ledger.forgetting.asked())
    added = withdrawals.hold_for(given[moved], today[moved], partial(limits.of, settings))
    state.ledger.about.note_resolved(digest)
    if added:
        anchoring.keep(state, settings)
        _log.warning("withdrawals.ambiguous", withdrawals=added)
    return bool(added)


def refuse_unreadable(state: State) -> None:
    """Refuse to go on while a file lies in the inbox that could not be read: it may be an opt-out.

    Raises:
        StateError: naming it.
    """
    found = inbox.set_aside_files(state.folder)
    if found:
        raise StateError(
            f"{found[0]}: a file of the inbox that cannot be read: damaged, or of a newer version. It may be a list of "
            "opt-outs. Run that version, or take the list in again from its source; then remove the file."
        )
