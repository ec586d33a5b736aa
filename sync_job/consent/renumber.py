"""Ids that change: a map from old ids to new ones, what speaks against it, and what clients that become one hold then.

All moves of a map happen at once, so chains and swaps are maps like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import NOBODY, Bytes, Ids, Mask, allowed, denied, spread, stated
from sync_job.consent.known import Holdings
from sync_job.consent.tables import CHUNK, Slots, union

_DENSE_RANGE_PER_ID = 2  # up to which a table of new ids is no larger than the sorted old and new ones


@dataclass(frozen=True, eq=False)
class IdMap:
    """Old ids, ascending and each once, and the new id of each."""

    old: Ids
    new: Ids

    def __len__(self) -> int:
        return len(self.old)

    def has(self, ids: Ids) -> Mask:
        """Return which of *ids* are old ids of the map."""
        return among(ids, self.old)

    def moved(self, ids: Ids) -> Ids:
        """Return the new id of each of *ids*; those that the map does not list keep theirs."""
        found = ids.copy()
        for start in range(0, len(ids) if len(self) else 0, CHUNK):
            part = ids[start : start + CHUNK]
            place = np.minimum(np.searchsorted(self.old, part), len(self) - 1)
            found[start : start + CHUNK] = np.where(self.old[place] == part, self.new[place], part)
        return found

    def at(self, which: Mask) -> "IdMap":
        """Return the map of the chosen ones alone."""
        return IdMap(self.old[which], self.new[which])

    def came_from(self, ids: Ids) -> Ids:
        """Return every id that one of *ids* had before the map, ascending; those it knows nothing of had their own."""
        own = ids[~self.has(ids) & ~among(ids, union(self.new))]
        return union(own, self.old[among(self.new, union(ids))])


class Lookup:
    """An id map made ready for many look-ups: a table of new ids, or a search where old ids lie far apart."""

    def __init__(self, map_: IdMap) -> None:
        span = int(map_.old[-1]) - int(map_.old[0]) + 1 if len(map_) else 0
        dense = span <= _DENSE_RANGE_PER_ID * len(map_)
        self._slots = Slots(int(map_.old[0]), span) if dense and span else _slots(map_.old)
        self._new = map_.new
        if dense:
            self._new = np.zeros(span, np.int32)
            self._new[map_.old - self._slots.lowest] = map_.new

    def of(self, ids: Ids) -> Ids:
        """Return the new id of each of *ids*; 0 for those that the map does not list."""
        found = np.zeros(len(ids), np.int32)
        here = self._slots.has(ids)
        found[here] = self._new[self._slots.of(ids[here])]
        return found


def among(ids: Ids, those: Ids) -> Mask:
    """Return which of *ids* are among *those*, which ascend."""
    return _slots(those).has(ids)


def _slots(ids: Ids) -> Slots:
    return Slots(int(ids[0]) if len(ids) else 1, len(ids), ids)


class Sorted(NamedTuple):
    """The pairs of a map as one, and the old ids that it lists with more than one new id."""

    map: IdMap
    torn: Ids


def sort(old: Ids, new: Ids) -> Sorted:
    """Return the map that pairs in any order make; a pair that is there twice counts once."""
    packed = (old.astype(np.int64) << 32) | new
    packed.sort()
    first = np.ones(len(packed), np.bool_)
    first[1:] = packed[1:] != packed[:-1]
    packed = packed[first]
    ids = (packed >> 32).astype(np.int32)
    return Sorted(IdMap(ids, packed.astype(np.int32)), _first(ids[1:][ids[1:] == ids[:-1]]))


def onto_others(map_: IdMap, known: Ids) -> Ids:
    """Return the new ids, ascending, that clients have whom the map does not list: two people would become one.

    *known* are the clients of whom anything is known, ascending.
    """
    targets = union(map_.new[map_.new != map_.old])
    return targets[among(targets, known) & ~map_.has(targets)]


def merged(map_: IdMap) -> Ids:
    """Return the new ids, ascending, that several old ones have."""
    ids = np.sort(map_.new, kind="stable")
    return _first(ids[1:][ids[1:] == ids[:-1]])


def moves(map_: IdMap) -> IdMap:
    """Return what of a map changes anything: ids that become others, and all of those that become one."""
    return map_.at((map_.new != map_.old) | among(map_.new, merged(map_)))


def move(holdings: Holdings, map_: IdMap) -> Holdings:
    """Return the holdings under their new ids.

    Of clients that become one, a channel keeps its State where all have the same, and is nothing otherwise. Where they
    differ in State or Due, a denial is due if any of them had one in either; an *allowed* is due only if each of them
    had it in either. A client of whom nothing is known has nothing in all channels.
    """
    changing = moves(map_)
    if not len(changing):
        return holdings
    listed = among(holdings.client, changing.old)
    one = among(changing.new, merged(changing))
    joining = changing.at(one)
    client = np.concatenate([holdings.client[~listed], changing.new[~one], union(joining.new)])
    alone = holdings.of(changing.old[~one])
    joined = _joined(joining, *holdings.of(joining.old)) if len(joining) else (NOBODY, NOBODY)
    state = np.concatenate([holdings.state[~listed], alone[0], joined[0]]).astype(np.uint8)
    due = np.concatenate([holdings.due[~listed], alone[1], joined[1]]).astype(np.uint8)
    full = (state | due) != 0
    client, state, due = client[full], state[full], due[full]
    order = np.argsort(client, kind="stable")
    return Holdings(client[order], state[order], due[order])


def _first(ids: Ids) -> Ids:
    return ids[_starts(ids)]


def _starts(ids: Ids) -> npt.NDArray[np.intp]:
    """Return where each id of *ids*, which are in order, stands first."""
    return np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.zeros(0, np.intp)


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


def meant(ids: Ids, maps: Sequence[IdMap]) -> tuple[npt.NDArray[np.intp], Ids]:
    """Return whom a list means today by *ids*, which it may have from before any of *maps*, in the order of these.

    The place in *ids* of each, and its id. An id that a map moves, and gives to another client, means both of them:
    nobody can tell from which side of the map the list is, and to deny one too many is safe.
    """
    place, found = np.arange(len(ids)), ids
    for map_ in maps:
        both = map_.has(found) & among(found, union(map_.new))
        place = np.concatenate([place, place[both]])
        found = np.concatenate([map_.moved(found), found[both]])
        pairs = np.unique(place.astype(np.int64) << 32 | found)
        place, found = (pairs >> 32).astype(np.intp), pairs.astype(np.int32)
    return place, found
