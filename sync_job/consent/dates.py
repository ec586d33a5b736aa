"""When the newest denial of each client was stated: two bytes per client, an index into a short table of times.

An *allowed* is sent only if what states it is newer. Most denials share the time of their export, so the table has a
few entries per night; if it would outgrow two bytes, neighbouring times become the later one of both, which denies.
Of an export of several files it is likewise kept when each client was stated.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Ids, Mask
from sync_job.consent.tables import has_room, moved

Places = npt.NDArray[np.uint16]
Seconds = npt.NDArray[np.float64]

NEVER = -np.inf  # the date of a denial that was never stated
_MOST = 1 << 16
_THINNED = 1 << 15  # entries that are left when the table was full


@dataclass(frozen=True, slots=True, eq=False)
class Dates:
    """One date per client: *places* (uint16) in *times* (float64, epoch seconds), of which the first is NEVER."""

    places: Places
    times: Seconds

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def never(cls, count: int) -> "Dates":
        """Return that none of *count* clients was ever denied anything."""
        return cls(np.zeros(count, np.uint16), np.array([NEVER]))

    @classmethod
    def of(cls, seconds: Seconds) -> "Dates":
        """Return these dates, in epoch seconds; if there are too many for the table, some become later ones."""
        if len(np.unique(seconds)) >= _MOST:
            thin = _thinned(seconds)
            seconds = thin[np.searchsorted(thin, seconds)]
        return cls.never(0).joined_to(seconds)

    def seconds(self) -> Seconds:
        """Return the dates in epoch seconds."""
        return np.asarray(self.times[self.places])

    def until(self, now: float) -> "Dates":
        """Return the same dates, with those after *now* brought to it: a clock was wrong."""
        return Dates(self.places, np.minimum(self.times, now))

    def at(self, which: Mask | npt.NDArray[np.intp]) -> "Dates":
        """Return the chosen dates."""
        return Dates(self.places[which], self.times)

    def joined_to(self, seconds: Seconds) -> "Dates":
        """Return the dates *seconds* in a table that also has every time of this one, at the same place."""
        fresh = np.setdiff1d(seconds, self.times)
        times = np.concatenate([self.times, fresh])
        order = np.argsort(times, kind="stable")
        places = order[np.searchsorted(times[order], seconds)].astype(np.uint16)
        return Dates(places, times)

    def has_room(self, seconds: Seconds) -> bool:
        """Return whether the table has room for these times as well."""
        return len(self.times) + len(np.setdiff1d(seconds, self.times)) <= _MOST

    def changed(self, place: npt.NDArray[np.intp], seconds: Seconds) -> "Dates":
        """Return the same dates, with *seconds* at each *place*; times that nobody has any more go."""
        new = self.joined_to(seconds)
        places = self.places.copy()
        places[place] = new.places
        used = np.zeros(len(new.times), np.bool_)
        used[0] = True
        used[places] = True
        return Dates(places, new.times)._only(used)

    def replaced(self, kept: Mask, more: Seconds, order: npt.NDArray[np.intp]) -> "Dates":
        """Return the dates that are *kept*, then *more*, in this *order*; times that nobody has any more go."""
        used = np.zeros(len(self.times), np.bool_)
        used[0] = True
        used[self.places[kept]] = True
        seconds = more
        if int(np.count_nonzero(used)) + len(np.setdiff1d(more, self.times)) > _MOST:
            thin = _thinned(np.concatenate([self.times[used], more]))
            old = Dates.never(0).joined_to(thin[np.minimum(np.searchsorted(thin, self.times), len(thin) - 1)])
            old = Dates(old.places[self.places], old.times)
            seconds = thin[np.searchsorted(thin, more)]
        else:
            old = self._only(used)
        new = old.joined_to(seconds)
        return Dates(np.concatenate([old.places[kept], new.places])[order], new.times)

    def _only(self, used: Mask) -> "Dates":
        """Return the same dates, with no times in the table but those that are *used*; other dates do not count."""
        if used.all():
            return self
        return Dates((np.cumsum(used) - 1).astype(np.uint16)[self.places], self.times[used])


@dataclass
class Ages:
    """When each client of an export was stated, if several files of it were made at different times.

    A client with rows in several files is as old as the oldest of them. That takes a byte per id, or two if there are
    more than 255 times. If the ids are too far apart for that, everyone is as old as the oldest file of all.
    """

    times: Seconds = field(default_factory=lambda: np.array([NEVER]))  # the first is for ids without a row
    _lowest: int = 0
    _places: npt.NDArray[np.unsignedinteger[Any]] | None = field(default_factory=lambda: np.zeros(0, np.uint8))

    def add(self, ids: Ids, made: float, clients: int) -> None:
        """Add rows of a file that was *made* then, in epoch seconds; the export has so many *clients* until now."""
        if self._places is None or not len(ids):
            return
        lowest, end = int(ids.min()), int(ids.max()) + 1
        size = len(self._places)
        low = min(lowest, self._lowest) if size else lowest
        span = max(end, self._lowest + size) - low
        if made not in self.times:
            self.times = np.append(self.times, made)
        if len(self.times) > _MOST or not has_room(span, clients):
            self._places = None
            return
        if len(self.times) > 1 << 8 and self._places.dtype == np.uint8:
            self._places = self._places.astype(np.uint16)
        if span > size:
            grown = span if low < self._lowest else max(span, min(2 * size, 2**31 - low))
            self._places = moved(self._places, grown, self._lowest - low if size else 0)
            self._lowest = low
        slots = ids.astype(np.intp) - self._lowest
        before = self._places[slots]
        older = (before == 0) | (self.times[before] > made)
        self._places[slots[older]] = np.flatnonzero(self.times == made)[0]

    def until(self, now: float) -> "Ages":
        """Return the same ages, with times after *now* brought to it."""
        return Ages(np.minimum(self.times, now), self._lowest, self._places)

    def of(self, ids: Ids) -> Seconds:
        """Return as of when each of *ids* is stated, in epoch seconds; NEVER for those without a row."""
        if self._places is None:
            return np.full(len(ids), self.times[1:].min())
        slots = ids.astype(np.intp) - self._lowest
        here = (slots >= 0) & (slots < len(self._places))
        return np.where(here, self.times[self._places[np.where(here, slots, 0)]], NEVER)


def _thinned(seconds: Seconds) -> Seconds:
    """Return some of the times, NEVER and the last among them, so that each has one that is not earlier."""
    times = np.unique(seconds)
    times = times[times > NEVER]
    step = -(-len(times) // _THINNED)
    return np.unique(np.concatenate([[NEVER], times[step - 1 :: step], times[-1:]]))
