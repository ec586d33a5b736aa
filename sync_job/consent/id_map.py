"""Maps from ids to other ids, and whose number an id is today."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

import numpy as np

from sync_job.consent.channels import Ids, Mask
from sync_job.consent.tables import Slots, union

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


class Numbering(Enum):
    """Whose numbers the ids of a list, an export or the command line are."""

    CRM = auto()
    PLATFORM = auto()


def whose(ids: Ids, numbering: Numbering, lookup: Lookup | None) -> Ids:
    """Return the platform's id of each of *ids* today; 0 for ids that no client is known to have.

    *lookup* is made from the map of today. Without one the CRM has the platform's numbers.
    """
    return ids if numbering is Numbering.PLATFORM or lookup is None else lookup.of(ids)


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
    return Sorted(IdMap(ids, packed.astype(np.int32)), np.unique(ids[1:][ids[1:] == ids[:-1]]))
