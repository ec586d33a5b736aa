"""`state renumber`: the platform's own ids changed, and everything that is known of clients moves to the new ones.

All moves happen in one commit of the ledger. Tombstones, which lie outside it, are written beside the list that counts
before it, and take its place after it; the next command does that if this one dies in between.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from sync_job.config import Settings
from sync_job.consent import renumber as moving
from sync_job.consent.channels import NOBODY, Bytes, Ids
from sync_job.consent.known import Holdings
from sync_job.consent.renumber import IdMap
from sync_job.consent.tables import union
from sync_job.errors import BusyError, ConfigError, StateError
from sync_job.exports import id_map
from sync_job.ledger import lock
from sync_job.ledger.renumbering import Renumbering
from sync_job.ledger.state import State
from sync_job.ledger.tombstones import Tombstones
from sync_job.report.counts import Summary
from sync_job.runs import anchoring, erasure, limits
from sync_job.runs.recover import holding, recover
from sync_job.runs.watch import Watch

_log = structlog.get_logger()


def check(settings: Settings, path: Path, watch: Watch) -> Summary:
    """Return what a map would move, changing nothing on disk.

    Raises:
        ConfigError: when the map cannot be applied. BusyError: when a run holds the lock.
        StateError: when a run died, and what it left is not in the state yet.
    """
    found = _read(path, watch)
    with State.open(settings.state.path, settings.endpoint.target, write=False) as state:
        if lock.is_held(settings.state.path):
            busy = lock.describe(lock.running(state.folder))
            raise BusyError(f"{state.folder}: busy, {busy}. Look again when it has ended.")
        _refuse(state, settings, found, path)
        counts, _ = _look(state, state.holdings(), erasure.tombstones(settings), found, path)
        return _summary(settings, found, counts) | {"checked": True}


def renumber(settings: Settings, path: Path, watch: Watch, *, reason: str, by: str) -> Summary:
    """Give everyone whom a map lists their new id, in the whole state at once, and return what moved.

    Raises:
        ConfigError: when the map cannot be applied, or nobody says why.
        StateError, BusyError: when there is no state, it is not what it was, or another run holds it.
    """
    if not reason.strip() or not by.strip():
        raise ConfigError("state renumber: say why (--reason) and who (--by); both are kept and reported.")
    found = _read(path, watch)
    with _holding(settings) as state:
        _refuse(state, settings, found, path)
        buried = erasure.tombstones(settings)
        before = state.holdings()
        counts, erase = _look(state, before, buried, found, path)
        owe = _open_to(before, found.map, union(erase, _asked_and_one(state, found.map)))
        holdings = moving.move(before, found.map)
        now = time.time()
        one = Renumbering(found.digest, now, state.ledger.place()["run"], reason.strip(), by.strip(), counts)
        commit = partial(
            state.ledger.renumber,
            one,
            found.map,
            erase=erase,
            owe=owe,
            limit_at=float(limits.of(settings, np.array([now]))[0]),
            buried=buried.draft(found.map, found.digest),
        )
        if backfill := state.ledger.backfills.open():
            state.end_backfill(backfill, "renumbered", now)  # its mark has old ids; what is due moves with the rest
        state.replace_holdings(holdings, now, commit)
        erasure.follow(state, settings)
        anchoring.settle(state, settings)
        _log.info("state.renumbered", map=found.digest[:12], **counts)
    return _summary(settings, found, counts) | {"checked": False}


def _read(path: Path, watch: Watch) -> id_map.Found:
    watch.stage("reading the map")
    found = id_map.read(path, id_map.OF_THE_PLATFORM)
    watch.stage("renumbering")
    return found


@contextmanager
def _holding(settings: Settings) -> Iterator[State]:
    """Hold the lock while the block runs; a backup from before a renumbering may only be caught up with it."""
    folder, target = settings.state.path, settings.endpoint.target
    State.open(folder, target, write=False).close()
    with lock.held(folder), State.open(folder, target, write=True) as state:
        erasure.follow(state, settings)
        if anchoring.is_behind(state, settings):
            # What lies in the inbox and beside the keys has newer ids already: it is looked at when the state has, too.
            recover(state, settings)
            yield state
            return
    with holding(settings, while_paused=True) as state:
        yield state


def _refuse(state: State, settings: Settings, found: id_map.Found, path: Path) -> None:
    """Refuse a map that was applied, and a state in which something under way has old ids."""
    for one in state.ledger.renumberings.all():
        if one.digest == found.digest:
            raise ConfigError(
                f"{path}: this map was applied after run {one.run}, by {one.by}; applied again it would move people "
                "onto others. Nothing was changed."
            )
    if dead := state.ledger.unfinished():
        raise StateError(
            f"{state.folder.absolute()}: run {dead[0].run} has not been finished. `consent-sync drain` does that; "
            "renumber after it. Nothing was changed."
        )
    backfill = state.ledger.backfills.open()
    if backfill and not anchoring.is_behind(state, settings):  # a backup from before has no other way
        raise ConfigError(
            f"The backfill of run {backfill.run} is under way. Renumber when it has ended, or take back what is left "
            "of it: `consent-sync backfill --cancel`. Nothing was changed."
        )


def _look(
    state: State, holdings: Holdings, buried: Tombstones, found: id_map.Found, path: Path
) -> tuple[dict[str, int], Ids]:
    """Return how many clients a map moves, and who is to be erased because somebody who was becomes one with them.

    Raises:
        ConfigError: when it moves somebody onto a client that it does not list.
    """
    map_ = found.map
    known = union(holdings.client, state.ledger.named())
    gone = targets = NOBODY
    if not buried.follows(found.digest):  # else the codes are of new ids already
        gone, targets = map_.old[buried.of(map_.old)], union(map_.new)
    others = moving.onto_others(map_, union(known, targets[buried.of(targets)]))
    if len(others):
        lines = id_map.lines_of(path, id_map.OF_THE_PLATFORM, others, new=True)
        raise ConfigError(
            f"{path}: it moves onto {len(others):,} clients that are known and that it does not list ({lines}). If "
            "they become one, list them as well, each with its own id as the new one. Nothing was changed."
        )
    here, dead = moving.among(map_.old, known), moving.among(map_.old, gone)
    one = moving.merged(map_.at(here | dead))
    erase = one[moving.among(one, union(map_.new[dead])) & moving.among(one, union(map_.new[here & ~dead]))]
    moves = map_.new != map_.old
    counts = {
        "moved": int(np.count_nonzero(here & moves)),
        "merged": len(moving.merged(map_.at(here))),
        "unknown": int(np.count_nonzero(~here & ~dead)),
        "tombstones": int(np.count_nonzero(dead & moves)),
        "to_be_erased": len(erase),
    }
    return counts, erase


def _asked_and_one(state: State, map_: IdMap) -> Ids:
    """Return who, of clients that become one, is to be erased by what was asked of any of them."""
    one = moving.merged(map_)
    return one[np.isin(one, map_.moved(state.ledger.forgetting.asked()))]


def _open_to(holdings: Holdings, map_: IdMap, clients: Ids) -> tuple[Ids, Bytes]:
    """Return what is to be denied before *clients* (new ids) are erased: all that is open to any who become one.

    What they hold as one does not tell: where one is allowed and another nothing, that is nothing.
    """
    old, channels = erasure.open_to(holdings, map_.old[np.isin(map_.new, clients)])
    client, place = np.unique(map_.moved(old), return_inverse=True)
    found = np.zeros(len(client), np.uint8)
    np.bitwise_or.at(found, place, channels)
    return client, found


def _summary(settings: Settings, found: id_map.Found, counts: dict[str, int]) -> Summary:
    return {"target": settings.endpoint.target, "map": found.digest, "rows": found.rows, **counts}
