"""What clients hold under new ids: those that stay apart keep what they have, those that become one keep every no."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Bytes, Ids, Mask, allowed, denied, spread, stated
from sync_job.consent.dates import Dates
from sync_job.consent.id_map import IdMap, among
from sync_job.consent.known import Holdings
from sync_job.consent.tables import Table, starts, union


def merged(map_: IdMap) -> Ids:
    """Return the new ids, ascending, that several old ones have."""
    ids = np.sort(map_.new, kind="stable")
    return np.unique(ids[1:][ids[1:] == ids[:-1]])


def onto_others(map_: IdMap, known: Ids) -> Ids:
    """Return the new ids, ascending, that are old ids of clients whom the map does not list.

    Two people would be taken for one. *known* are the clients of whom anything is known, ascending.
    """
    targets = union(map_.new[map_.new != map_.old])
    return targets[among(targets, known) & ~map_.has(targets)]


class _Joining(NamedTuple):
    """Clients that become one: the old ids in the order of their new ones, these once, and where each begins."""

    old: Ids
    new: Ids
    first: npt.NDArray[np.intp]


def _joining(map_: IdMap, joins: Mask) -> _Joining:
    old, new = map_.old[joins], map_.new[joins]
    order = np.argsort(new, kind="stable")
    first = starts(new[order])
    return _Joining(old[order], new[order][first], first)


def carried(holdings: Holdings, map_: IdMap) -> Holdings:
    """Return the holdings of the clients that a map lists, under their new ids.

    Of clients that become one, a channel keeps its State where all have the same, and is nothing otherwise. Where they
    differ in State or Due, a denial is due if any of them had one in either; an *allowed* is due only if each of them
    had it in either. A client of whom nothing is known has nothing in all channels. The newest date of a denial stays.
    """
    joins = among(map_.new, merged(map_))
    alone, joining = map_.at(~joins), _joining(map_, joins)
    state, due = holdings.of(alone.old)
    joined = _joined(*holdings.of(joining.old), joining.first)
    client = np.concatenate([alone.new, joining.new])
    latest = np.maximum.reduceat(holdings.denied_at(joining.old), joining.first)
    dates = np.concatenate([holdings.denied_at(alone.old), latest])
    state = np.concatenate([state, joined[0]]).astype(np.uint8)
    due = np.concatenate([due, joined[1]]).astype(np.uint8)
    full = (state | due) != 0
    client, state, due, dates = client[full], state[full], due[full], dates[full]
    order = np.argsort(client, kind="stable")
    return Holdings(client[order], state[order], due[order], Dates.of(dates[order]))


def denied_by_any(holdings: Holdings, map_: IdMap, withdrawn: Table) -> tuple[Ids, Bytes]:
    """Return clients that become one, and the channels (low bits) that are to be denied to them.

    Those are channels that were denied to any of them, or that any of them withdrew (*withdrawn*, by old id), unless
    each of them is known to be denied: nobody knows what the platform made of them.
    """
    joining = _joining(map_, among(map_.new, merged(map_)))
    state, due = holdings.of(joining.old)
    no = np.bitwise_or.reduceat(denied(state) | denied(due) | withdrawn.of(joining.old), joining.first)
    sure = np.bitwise_and.reduceat(denied(state), joining.first)
    channels = np.asarray(no & ~sure, np.uint8)
    return joining.new[channels != 0], channels[channels != 0]


def _joined(state: Bytes, due: Bytes, first: npt.NDArray[np.intp]) -> tuple[Bytes, Bytes]:
    """Return State and Due of each new id from those of all that become it, which begin at *first*."""

    def any_of(values: Bytes) -> Bytes:
        return np.asarray(np.bitwise_or.reduceat(values, first), np.uint8)

    def all_of(values: Bytes) -> Bytes:
        return np.asarray(np.bitwise_and.reduceat(values, first), np.uint8)

    unlike = stated(all_of(state) ^ any_of(state))
    differ = spread(unlike | stated(all_of(due) ^ any_of(due)))
    no = any_of(denied(state) | denied(due))
    yes = all_of(allowed(state) | allowed(due)) & any_of(allowed(due)) & ~no
    said = (no | (yes << 1)).astype(np.uint8)
    return all_of(state) & ~spread(unlike), np.asarray((all_of(due) & ~differ) | (said & differ), np.uint8)
