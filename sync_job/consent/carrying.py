"""What clients hold under new ids: those that stay apart keep what they have, those that become one keep every no."""

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import NOBODY, Bytes, Ids, allowed, denied, spread, stated
from sync_job.consent.dates import Dates, Seconds
from sync_job.consent.id_map import IdMap, among
from sync_job.consent.known import Holdings
from sync_job.consent.tables import Table, union


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


def carried(holdings: Holdings, map_: IdMap) -> Holdings:
    """Return the holdings of the clients that a map lists, under their new ids.

    Of clients that become one, a channel keeps its State where all have the same, and is nothing otherwise. Where they
    differ in State or Due, a denial is due if any of them had one in either; an *allowed* is due only if each of them
    had it in either. A client of whom nothing is known has nothing in all channels. The newest date of a denial stays.
    """
    joins = among(map_.new, merged(map_))
    alone, joining = map_.at(~joins), map_.at(joins)
    state, due = holdings.of(alone.old)
    of_joined = _joined(joining, *holdings.of(joining.old)) if len(joining) else (NOBODY, NOBODY)
    client = np.concatenate([alone.new, union(joining.new)])
    dates = np.concatenate([holdings.denied_at(alone.old), _latest(joining, holdings.denied_at(joining.old))])
    state = np.concatenate([state, of_joined[0]]).astype(np.uint8)
    due = np.concatenate([due, of_joined[1]]).astype(np.uint8)
    full = (state | due) != 0
    client, state, due, dates = client[full], state[full], due[full], dates[full]
    order = np.argsort(client, kind="stable")
    return Holdings(client[order], state[order], due[order], Dates.of(dates[order]))


def denied_by_any(holdings: Holdings, map_: IdMap, withdrawn: Table) -> tuple[Ids, Bytes]:
    """Return clients that become one, and the channels (low bits) that are to be denied to them.

    Those are channels that were denied to any of them, or that any of them withdrew (*withdrawn*, by old id), unless
    each of them is known to be denied: nobody knows what the platform made of them.
    """
    joining = map_.at(among(map_.new, merged(map_)))
    if not len(joining):
        return NOBODY, np.zeros(0, np.uint8)
    order = np.argsort(joining.new, kind="stable")
    joining = IdMap(joining.old[order], joining.new[order])  # by new id: only its pairs count from here on
    state, due = holdings.of(joining.old)
    starts = _starts(joining.new)
    no = np.bitwise_or.reduceat(denied(state) | denied(due) | withdrawn.of(joining.old), starts)
    sure = np.bitwise_and.reduceat(denied(state), starts)
    channels = np.asarray(no & ~sure, np.uint8)
    return joining.new[starts][channels != 0], channels[channels != 0]


def _starts(ids: Ids) -> npt.NDArray[np.intp]:
    """Return where each id of *ids*, which are in order, stands first."""
    return np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.zeros(0, np.intp)


def _latest(joining: IdMap, seconds: Seconds) -> Seconds:
    """Return the latest time of each new id, ascending, of those of all that become it."""
    order = np.argsort(joining.new, kind="stable")
    starts = _starts(joining.new[order])
    return np.asarray(np.maximum.reduceat(seconds[order], starts)) if len(starts) else seconds


def _joined(joining: IdMap, state: Bytes, due: Bytes) -> tuple[Bytes, Bytes]:
    """Return State and Due of each new id, ascending, from those of all that become it."""
    order = np.argsort(joining.new, kind="stable")
    state, due = state[order], due[order]
    starts = _starts(joining.new[order])

    def any_of(values: Bytes) -> Bytes:
        return np.asarray(np.bitwise_or.reduceat(values, starts), np.uint8)

    def all_of(values: Bytes) -> Bytes:
        return np.asarray(np.bitwise_and.reduceat(values, starts), np.uint8)

    unlike = stated(all_of(state) ^ any_of(state))
    differ = spread(unlike | stated(all_of(due) ^ any_of(due)))
    no = any_of(denied(state) | denied(due))
    yes = all_of(allowed(state) | allowed(due)) & any_of(allowed(due)) & ~no
    said = (no | (yes << 1)).astype(np.uint8)
    return all_of(state) & ~spread(unlike), np.asarray((all_of(due) & ~differ) | (said & differ), np.uint8)
