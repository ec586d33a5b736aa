"""`init --from`: a platform whose ids changed is a new target, and its state is made from that of the old ids.

The new state is made first and is not to be used; then the old one is given up; then the folder of keys gets what is
the new one's. Who dies in between gives the command again.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import structlog

from sync_job.config import Settings
from sync_job.consent import carrying as joining
from sync_job.consent.channels import Bytes, Ids
from sync_job.consent.diff import nothing_held
from sync_job.consent.id_map import IdMap, among
from sync_job.consent.known import Holdings
from sync_job.consent.tables import union
from sync_job.errors import BusyError, ConfigError, NoStateError, StateError
from sync_job.exports import id_map
from sync_job.ledger import (
    accounting,
    anchor,
    backed_up,
    deltas,
    files,
    inbox,
    keyed,
    ledger,
    lock,
    rebinding,
    references,
    tables,
)
from sync_job.ledger.anchor import Anchor, Standing
from sync_job.ledger.carrying import Former
from sync_job.ledger.ledger import Ledger
from sync_job.ledger.state import State
from sync_job.ledger.tombstones import Tombstones
from sync_job.ledger.withdrawn import Withdrawn
from sync_job.ledger.withdrawn import path_of as withdrawn_path
from sync_job.report.counts import Summary
from sync_job.runs import anchoring, limits
from sync_job.runs.watch import Watch

_log = structlog.get_logger()
_SHOWN = 5

# Told how many clients would be carried; returns the number that was approved, or None.
Approve = Callable[[int], int | None]


@dataclass(frozen=True)
class _Case:
    """What a map makes of an old state."""

    found: id_map.Found
    holdings: Holdings
    clients: Ids
    erase: Ids
    owe: tuple[Ids, Bytes]
    counts: dict[str, int]


def carry(
    settings: Settings,
    old: Path,
    path: Path,
    watch: Watch,
    approve: Approve,
    *,
    drop_unlisted: int | None = None,
    check: bool = False,
) -> Summary:
    """Make the state from the one in the folder *old*, with the ids that the map in *path* gives, and say what it has.

    *approve* is told how many clients are carried, and returns the number that was approved, or None. *drop_unlisted*
    is how many people who withdrew, are owed a denial or are to be erased may be left behind. *check* changes nothing.

    Raises:
        ConfigError: when the map cannot be used, or a number was not approved.
        StateError, BusyError: when the old state is not one that can be carried now, or there is a new one.
    """
    new = settings.state.path
    if old.resolve() == new.resolve():
        raise ConfigError(
            f"init --from {old}: that is [state] path itself. The new state has a folder of its own; name that in the "
            "configuration."
        )
    target = ledger.target_of(old / "ledger.db")
    with ExitStack() as stack:
        if check and lock.is_held(old):
            raise BusyError(f"{old}: busy, {lock.describe(lock.running(old))}. Look again when it has ended.")
        if not check:
            stack.enter_context(lock.held(old))
        state = stack.enter_context(State.open(old, target, write=False))
        begun, given = _begun(settings), state.ledger.about.given_up()
        if given and (given["to"] != str(new.resolve()) or not begun):
            state.refuse_given_up()
        if begun is None:
            raise StateError(
                f"{new.absolute()}: there is state already; `init` never replaces it. Name another folder as [state] "
                "path, or move this one away if it is to be given up."
            )
        if given and not check:
            state.close()
            _finish(settings, old, target)
            return begun
        _refuse_unready(state, settings, target)
        watch.stage("reading the map")
        case = _case(state, settings, target, id_map.read(path, id_map.OF_THE_PLATFORM), path, drop_unlisted)
        summary = {
            "target": settings.endpoint.target,
            "from": str(old.resolve()),
            "from_target": target,
            "state": str(new.resolve()),
            "map": case.found.digest,
            **case.counts,
            "checked": check,
        }
        watch.end()  # a person may be asked at the same terminal
        if check:
            return summary
        if (approved := approve(len(case.clients))) != len(case.clients):
            was = "" if approved is None else f", not {approved:,}"
            raise ConfigError(
                f"{len(case.clients):,} clients would be carried{was}. If that is meant, say --expect "
                f"{len(case.clients)}. No state was made."
            )
        watch.stage("making the state")
        _make(state, settings, target, case, summary)
        state.close()
        _finish(settings, old, target)
        return summary


def _begun(settings: Settings) -> Summary | None:
    """Return what is said of a new state whose making has died; {} if there is no state, None if it is whole."""
    path = settings.state.path / "ledger.db"
    with files.storing(path):
        if not path.exists():
            return {}
    with suppress(NoStateError), Ledger.open(path, settings.endpoint.target, write=False) as found:
        if found.about.is_carrying():
            return found.about.carried()
        if found.has_snapshot():
            return None
    return {}


def _refuse_unready(state: State, settings: Settings, target: str) -> None:
    """Refuse an old state of which something is under way, missing, or not whole.

    Raises:
        StateError: saying what.
    """
    folder = state.folder.absolute()
    references.check(state.ledger.path)
    if dead := state.ledger.unfinished():
        raise StateError(
            f"{folder}: run {dead[0].run} has not been finished. `consent-sync drain` by its own configuration does "
            "that. No state was made."
        )
    if backfill := state.ledger.backfills.open():
        raise StateError(
            f"{folder}: the backfill of run {backfill.run} is under way. Let it end, or take back what is left of it: "
            "`consent-sync backfill --cancel`. No state was made."
        )
    _refuse_lists(folder)
    keys = settings.state.keys
    if anchor.read(keys, target) is None and state.ledger.about.is_anchored():
        raise StateError(
            f"{keys.absolute()}: no anchor of {folder}. [state] keys must name the folder of keys of the old state: "
            "it has the codes of erased clients. No state was made."
        )
    standing = accounting.stand(state.ledger, keys, target).standing
    if state.ledger.about.restored() or standing is not Standing.GOOD:
        raise StateError(
            f"{folder}: a restored backup, or another state than the one that {keys.absolute()} knows. Say first what "
            "it lacks: `consent-sync state restored` by its own configuration. No state was made."
        )
    if len(Tombstones.open(keys, target)) < state.ledger.about.buried():
        raise StateError(
            f"{keys.absolute()}: codes of erased clients are lost. Restore the folder of keys from its backup, or "
            "give them up with `consent-sync state restored` by its own configuration. No state was made."
        )
    if settings.endpoint.target != target and anchor.read(keys, settings.endpoint.target) is not None:
        raise StateError(
            f"{keys.absolute()}: there was state of {settings.endpoint.target} already. If it was given up, move its "
            "anchor away from there. No state was made."
        )


def _refuse_lists(folder: Path) -> None:
    if inbox.waiting(folder) or inbox.set_aside_files(folder):
        raise StateError(
            f"{folder}: lists lie in its inbox. `consent-sync drain` by its own configuration takes them in; their ids "
            "are the old ones. No state was made."
        )
    if missed := deltas.pending(folder):
        names = ", ".join(file.name for delta in missed for file in delta.files)
        raise StateError(
            f"{folder}: {len(missed):,} deltas were not applied ({names}), and their ids are the old ones. "
            "`consent-sync run FILE` by its own configuration applies them, or --skip-missed of it gives them up. No "
            "state was made."
        )


def _case(
    state: State, settings: Settings, target: str, found: id_map.Found, path: Path, drop_unlisted: int | None
) -> _Case:
    """Return what a map makes of an old state.

    Raises:
        ConfigError: when it moves somebody onto a client that it does not list, or leaves people behind who bind.
    """
    map_, holdings = found.map, state.holdings()
    with Former(state.ledger.path) as former:
        known = union(holdings.client, former.named())
        left = _left_behind(found, path, known, former.binding(), drop_unlisted)
    buried = Tombstones.open(settings.state.keys, target)
    gone = union(map_.old[buried.of(map_.old)])
    here, dead = among(map_.old, known), among(map_.old, gone)
    merged = joining.merged(map_)
    asked = state.ledger.forgetting.asked()
    # Who becomes one with somebody who was erased, or is to be, is erased with them.
    erase = merged[
        (among(merged, union(map_.new[dead])) & among(merged, union(map_.new[here & ~dead])))
        | among(merged, union(map_.new[among(map_.old, asked)]))
    ]
    carried = joining.carried(holdings, map_)
    clients = union(map_.new[here])
    return _Case(
        found,
        carried,
        clients,
        erase,
        joining.denied_by_any(holdings, map_, state.ledger.withdrawals.in_force()),
        {
            "clients": len(clients),
            "known": len(known),
            "rows": found.rows,
            "merged": len(joining.merged(map_.at(here))),
            "unknown": int(np.count_nonzero(~here & ~dead)),
            "tombstones": len(union(map_.new[dead])),
            "tombstones_left": len(buried) - int(np.count_nonzero(dead)),
            "to_be_erased": len(erase),
            "unlisted": int(np.count_nonzero(~map_.has(known))),
            "dropped": left,
        },
    )


def _left_behind(found: id_map.Found, path: Path, known: Ids, binding: Ids, drop_unlisted: int | None) -> int:
    """Return how many people are left behind who withdrew, are owed a denial, or whose number somebody else gets.

    Raises:
        ConfigError: when they are any, and *drop_unlisted* is not their number.
    """
    others = joining.onto_others(found.map, known)
    unlisted = binding[~found.map.has(binding)]
    count = len(union(others, unlisted))
    if count and drop_unlisted == count:
        return count
    way_out = f"If they are gone for good, say --drop-unlisted {count}. No state was made."
    if len(others):
        lines = id_map.lines_of(path, id_map.OF_THE_PLATFORM, others, new=True)
        raise ConfigError(
            f"{path}: it moves onto {len(others):,} clients that are known and that it does not list ({lines}): two "
            f"people would be taken for one. If they become one, list them as well. {way_out}"
        )
    if count or drop_unlisted:
        first = ", ".join(map(str, unlisted[:_SHOWN].tolist())) + (" …" if len(unlisted) > _SHOWN else "")
        raise ConfigError(
            f"{path}: it does not list {count:,} people who withdrew, are owed a denial or are to be erased"
            f"{f' ({first})' if first else ''}. List them with their new ids. {way_out if count else ''}"
        )
    return 0


def _make(old: State, settings: Settings, target: str, case: _Case, summary: Summary) -> None:
    """Make the new state, which nobody may use before `_finish`, and beside the keys drafts of its codes."""
    new, own, now = settings.state.path, settings.endpoint.target, time.time()
    files.make_folder(new)
    with lock.held(new), Former(old.ledger.path) as former:
        for name in ("ledger.db", "ledger.db-journal"):
            files.remove(new / name)  # what a carrying that died has left
        with State.create(new, own, now) as state:
            keys = settings.state.keys
            buried = Tombstones.open(keys, target)
            buried.draft(_draft(keys, own, keyed.TOMBSTONES), case.found.map, Tombstones.open(keys, own))
            _draft_codes(keys, target, own, case.found.map)
            fill = partial(
                state.ledger.carrier(former, case.found.map).carry,
                summary | {"at": now, "run": old.ledger.place()["run"]},
                erase=case.erase,
                owe=case.owe,
                now=now,
                limit_at=limits.at(settings, now),
            )
            state.replace_holdings(case.holdings, now, fill)
            # Denials that a guard held still wait for an approval; what it held of the old ids is nothing to approve.
            files.make_folder(new / "held")
            for one in state.ledger.applied.held_runs():
                tables.write_held(new / "held" / f"{one.run}.parquet", nothing_held())


def _draft(keys: Path, target: str, kind: str) -> Path:
    return keys / f".{anchor.tag(target)}.{kind}.carried"


def _draft_codes(keys: Path, target: str, own: str, map_: IdMap) -> None:
    """Write, as a draft, who withdrew by their new ids: the codes of the old ones are other people's there."""
    old, there = (Withdrawn.open(keys, one, anchor.read(keys, one)) for one in (target, own))
    after = old.carried(keys, map_, there)
    if len(after) or there.edition:
        after.write(_draft(keys, own, keyed.WITHDRAWN))


def _finish(settings: Settings, old: Path, target: str) -> None:
    """Give the old state up, let the keys have what is the new state's, and let that be used.

    Each step may be done again.
    """
    new, keys, own = settings.state.path, settings.state.keys, settings.endpoint.target
    now = time.time()
    with State.open(old, target, write=True, live=False) as former:
        if not former.ledger.about.given_up():
            _refuse_lists(former.folder)
            former.ledger.about.note_given_up(str(new.resolve()), own, now)
    with lock.held(new), State(new, Ledger.open(new / "ledger.db", own, write=True)) as state:
        Tombstones.open(keys, own).replace(_draft(keys, own, keyed.TOMBSTONES))
        if anchor.is_there(drafted := _draft(keys, own, keyed.WITHDRAWN)):
            files.move(drafted, withdrawn_path(keys, own))
        if own == target:
            files.remove(backed_up.path(keys, own))  # it is a backup of the old ids
        elif anchor.read(keys, target):
            # So that no backup of the old state is ever taken for one that may go on. The codes of the old ids are
            # other people's by now: whatever the new state is called one day, it must not find them.
            place = state.ledger.place()
            note = Anchor(target=target, written=now, moved_to=own, moved=now, **place)
            anchor.write(keys, target, note)
            rebinding.remove(keys, place["state"], target)
        anchoring.keep(state, settings)
        state.ledger.about.end_carrying()
        clients = state.ledger.clients()
    _log.info("state.carried", clients=clients)
