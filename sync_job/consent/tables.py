"""Tables of bytes indexed by client, dense where ids are close together and sparse where they are not.

A *slot* is a client's place in a table: `id - lowest`, or the place in the sorted ids when their range is over
eight times the clients. `StatementTable` gathers the rows of an export, and says what
several rows of one client mean together.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import ALLOWED, BLANK, DENIED, SHIFTS, Bytes, Ids, Mask

DENSE_RANGE_PER_CLIENT = 8  # beyond it five bytes a client in sorted arrays are smaller than a byte an id
_ALWAYS_DENSE = 1 << 26  # a range of 64 MiB a table is dense whatever it holds, while the export is being read
_PENDING_ROWS = 1 << 21
CHUNK = 1 << 20  # slots looked at in one step: bounds what is needed beside the tables
UNTIMED = np.iinfo(np.int64).min  # a row without a time of consent

Times = npt.NDArray[np.int64]
_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True)
class Slots:
    """Where each client stands: *ids* sorted and unique, or none when the slot is `id - lowest`."""

    lowest: int
    size: int
    ids: Ids | None = None

    def of(self, ids: Ids) -> npt.NDArray[np.intp]:
        """Return the slot of each of *ids*, all of which must have one."""
        if self.ids is None:
            return ids.astype(np.intp) - self.lowest
        return np.searchsorted(self.ids, ids)

    def has(self, ids: Ids) -> Mask:
        """Return which of *ids* have a slot."""
        if self.ids is None:
            return np.asarray((ids >= self.lowest) & (ids < self.lowest + self.size))
        if not self.size:
            return np.zeros(len(ids), np.bool_)
        found = np.zeros(len(ids), np.bool_)
        for start in range(0, len(ids), CHUNK):
            part = ids[start : start + CHUNK]
            place = np.minimum(np.searchsorted(self.ids, part), self.size - 1)
            found[start : start + CHUNK] = self.ids[place] == part
        return found

    def clients(self, start: int, slots: npt.NDArray[np.intp]) -> Ids:
        """Return the ids of the *slots*, counted from *start*."""
        if self.ids is None:
            return (slots + (self.lowest + start)).astype(np.int32)
        return self.ids[slots + start]


@dataclass(frozen=True)
class Table:
    """One byte a client; 0 for every slot that holds nobody."""

    slots: Slots
    values: Bytes

    def of(self, ids: Ids) -> Bytes:
        """Return the byte of each of *ids*, 0 for those without a slot."""
        found = np.zeros(len(ids), np.uint8)
        here = self.slots.has(ids)
        found[here] = self.values[self.slots.of(ids[here])]
        return found

    def clients(self) -> int:
        """Return how many clients have a byte that is not 0."""
        return int(np.count_nonzero(self.values))

    def items(self) -> tuple[Ids, Bytes]:
        """Return the clients that have a byte, in ascending order, and their bytes."""
        held = np.flatnonzero(self.values)
        return self.slots.clients(0, held), self.values[held]

    def digest(self) -> str:
        """Return the SHA-256 of what the table holds, which is the same for the same clients and bytes."""
        hasher = hashlib.sha256(f"{self.slots.lowest} {self.slots.ids is None} ".encode())
        if self.slots.ids is not None:
            hasher.update(np.ascontiguousarray(self.slots.ids).data)
        hasher.update(np.ascontiguousarray(self.values).data)
        return hasher.hexdigest()

    def over(self, *others: Ids) -> Table:
        """Return the same table with a slot for each id of *others* as well; each of these is sorted and unique.

        Slots that hold nobody may go: ids that need one are named in one call.
        """
        others = tuple(ids for ids in others if len(ids))
        if all(self.slots.has(ids).all() for ids in others):
            return self
        mine = self.slots
        count = self.clients() + sum(len(ids) for ids in others)
        lowest = min(([mine.lowest] if mine.size else []) + [int(ids[0]) for ids in others])
        end = max(self._end(), *(int(ids[-1]) + 1 for ids in others))
        if mine.ids is None and end - lowest <= DENSE_RANGE_PER_CLIENT * count:
            values = np.zeros(end - lowest, np.uint8)
            values[mine.lowest - lowest : mine.lowest - lowest + mine.size] = self.values
            return Table(Slots(lowest, end - lowest), values)
        held, bytes_ = self.items()
        return tabulate(union(held, *others), held, bytes_)

    def _end(self) -> int:
        if not self.slots.size:
            return 0
        return self.slots.lowest + self.slots.size if self.slots.ids is None else int(self.slots.ids[-1]) + 1


def union(*ids: Ids) -> Ids:
    """Return all of *ids* in ascending order, each once.

    A stable sort merges runs that are in order already; `numpy.unique` hashes, and took 180 times as long (measured,
    two sorted runs of 13 million).
    """
    merged = np.concatenate(ids)
    merged.sort(kind="stable")
    first = np.ones(len(merged), np.bool_)
    first[1:] = merged[1:] != merged[:-1]
    return np.asarray(merged[first])


def starts(ids: Ids) -> npt.NDArray[np.intp]:
    """Return where each id of *ids*, which are in order, stands first."""
    first = np.ones(len(ids), np.bool_)
    first[1:] = ids[1:] != ids[:-1]
    return np.flatnonzero(first)


def laid_over(ids: Ids, values: Bytes) -> tuple[Ids, Bytes]:
    """Return each id once, in ascending order, with all of its *values* laid over each other."""
    order = np.argsort(ids, kind="stable")
    ids, values = ids[order], values[order]
    first = starts(ids)
    return ids[first], np.bitwise_or.reduceat(values, first)


def tabulate(slots: Ids, ids: Ids, values: Bytes) -> Table:
    """Return the table with a slot for each of *slots* that holds *values* at *ids*; all ids sorted and unique."""
    if not len(slots):
        return Table(Slots(1, 0), np.zeros(0, np.uint8))
    span = int(slots[-1]) - int(slots[0]) + 1
    where = Slots(int(slots[0]), span)
    if span > DENSE_RANGE_PER_CLIENT * len(slots):
        where = Slots(int(slots[0]), len(slots), slots)
    table = np.zeros(where.size, np.uint8)
    table[where.of(ids)] = values
    return Table(where, table)


@dataclass
class StatementTable:
    """Gathers statements row by row, whatever blocks they come in; the order of the rows never matters.

    *timed* says that rows carry the time of the consent: then, per channel, the newest row that states it wins,
    denied at a tie, if all rows that state it have a time; otherwise denied wins.
    """

    timed: bool = False
    _lowest: int = 0
    _end: int = 0
    _values: Bytes = field(default_factory=lambda: np.zeros(0, np.uint8))
    _times: Times = field(default_factory=lambda: np.zeros(0, np.int64))
    _sparse: list[tuple[Ids, Bytes, Times]] = field(default_factory=list)
    _sparse_rows: int = 0
    _is_sparse: bool = False
    _extra: list[tuple[Ids, Bytes, Times]] = field(default_factory=list)
    _extra_rows: int = 0

    def add(self, ids: Ids, values: Bytes, times: Times | None = None) -> None:
        """Add rows: one client, statement byte (never 0) and time (microseconds, or UNTIMED) each."""
        if not len(ids):
            return
        if times is None:
            times = np.zeros(0 if not self.timed else len(ids), np.int64)
            times.fill(UNTIMED)
        if not self._is_sparse:
            lowest, end = int(ids.min()), int(ids.max()) + 1
            self._reach(lowest, end)
            self._end = max(self._end, end)
        if self._is_sparse:
            self._sparse.append((ids, values, times))
            self._sparse_rows += len(ids)
            if self._sparse_rows > max(_PENDING_ROWS, len(self._sparse[0][0]) * 5 // 4):
                self._compact()
            return
        slots = ids.astype(np.intp) - self._lowest
        seen = self._values[slots] != 0
        fresh = ~seen
        self._values[slots[fresh]] = values[fresh]
        if self.timed:
            self._times[slots[fresh]] = times[fresh]
            differs = (self._values[slots] != values) | (self._times[slots] != times)
        else:
            differs = self._values[slots] != values
        if differs.any():
            self._put_aside(ids[differs], values[differs], times[differs] if self.timed else times)

    def clients(self) -> int:
        """Return how many clients the rows so far are of."""
        if self._is_sparse:
            self._compact()
            return len(self._sparse[0][0])
        return int(np.count_nonzero(self._values))

    def finish(self) -> tuple[Table, Ids]:
        """Return the table of statements, and the clients whose rows say both yes and no, in ascending order."""
        if self._is_sparse:
            self._compact()
            ids, values, times = self._sparse[0] if self._sparse else (_no_ids(), self._values[:0], self._times[:0])
            table = tabulate(ids, ids, values)
            if table.slots.ids is None and self.timed:
                spaced = np.zeros(table.slots.size, np.int64)
                spaced[table.slots.of(ids)] = times
                times = spaced
        else:
            size = max(0, self._end - self._lowest)
            table, times = Table(Slots(self._lowest, size), self._values[:size]), self._times[:size]
        self._compact_extra()
        conflicting = np.zeros(0, np.int32)
        if self._extra:
            ids, values, extra_times = self._extra[0]
            slots = table.slots.of(union(ids))
            first_ids = table.slots.clients(0, slots)
            rows = np.concatenate([first_ids, ids]), np.concatenate([table.values[slots], values])
            when = np.concatenate([times[slots], extra_times]) if self.timed else None
            table.values[slots], conflicts = _settle(rows[0], rows[1], when)
            conflicting = first_ids[conflicts]
        if table.slots.ids is None and table.slots.size > DENSE_RANGE_PER_CLIENT * max(1, table.clients()):
            held, bytes_ = table.items()
            table = tabulate(held, held, bytes_)
        return table, conflicting

    def _reach(self, lowest: int, end: int) -> None:
        """Make room for ids from *lowest* up to *end*, or turn sparse when that would be mostly room."""
        if not len(self._values):
            self._lowest = lowest
        size = len(self._values)
        if lowest >= self._lowest and end <= self._lowest + size:
            return
        low = min(lowest, self._lowest)
        span = max(end, self._lowest + size) - low
        if span > _ALWAYS_DENSE and not has_room(span, int(np.count_nonzero(self._values))):
            held = np.flatnonzero(self._values)
            self._sparse = [
                (
                    (held + self._lowest).astype(np.int32),
                    self._values[held],
                    self._times[held] if self.timed else self._times,
                )
            ]
            self._sparse_rows, self._is_sparse = len(held), True
            self._values, self._times = self._values[:0].copy(), self._times[:0].copy()
            return
        # Ids mostly ascend: room for as many again above costs no memory until it is written to.
        grown = span if low < self._lowest else max(span, min(2 * size, 2**31 - low))
        self._values = moved(self._values, grown, self._lowest - low)
        if self.timed:
            self._times = moved(self._times, grown, self._lowest - low)
        self._lowest = low

    def _compact(self) -> None:
        """Bring all sparse rows into one sorted run; rows that differ from the first of their client go aside."""
        ids = np.concatenate([run[0] for run in self._sparse]) if self._sparse else _no_ids()
        values = np.concatenate([run[1] for run in self._sparse]) if self._sparse else self._values[:0]
        times = np.concatenate([run[2] for run in self._sparse]) if self._sparse else self._times[:0]
        self._sparse.clear()
        if self.timed:
            order = np.argsort(ids, kind="stable")
            ids, values, times = ids[order], values[order], times[order]
        else:
            # Sorted in one piece: half the memory of sorting places, and faster.
            packed = (ids.astype(np.int64) << 8) | values
            packed.sort()
            ids, values = (packed >> 8).astype(np.int32), packed.astype(np.uint8)
            del packed
        first = np.ones(len(ids), np.bool_)
        first[1:] = ids[1:] != ids[:-1]
        if not first.all():
            owner = np.flatnonzero(first)[np.cumsum(first) - 1]
            differs = values != values[owner]
            if self.timed:
                differs |= times != times[owner]
            if differs.any():
                self._put_aside(ids[differs], values[differs], times[differs] if self.timed else times)
            ids, values = ids[first], values[first]
            if self.timed:
                times = times[first]
        self._sparse = [(ids, values, times)]
        self._sparse_rows = len(ids)

    def _put_aside(self, ids: Ids, values: Bytes, times: Times) -> None:
        self._extra.append((ids, values, times))
        self._extra_rows += len(ids)
        if self._extra_rows > max(_PENDING_ROWS, 2 * len(self._extra[0][0])):
            self._compact_extra()

    def _compact_extra(self) -> None:
        """Drop repeated rows among those put aside: what is left is at most a few rows a client and time."""
        if not self._extra:
            return
        ids = np.concatenate([run[0] for run in self._extra])
        values = np.concatenate([run[1] for run in self._extra])
        times = np.concatenate([run[2] for run in self._extra])
        keys = (times, values, ids) if self.timed else (values, ids)
        order = np.lexsort(keys)
        keep = np.zeros(len(ids), np.bool_)
        keep[:1] = True
        for key in keys:
            ordered = key[order]
            keep[1:] |= ordered[1:] != ordered[:-1]
        order = order[keep]
        self._extra = [(ids[order], values[order], times[order] if self.timed else times)]
        self._extra_rows = len(order)


def _settle(ids: Ids, values: Bytes, times: Times | None) -> tuple[Bytes, Mask]:
    """Return the statement of each client, ids ascending, that all of its rows make, and whose rows disagree."""
    order = np.argsort(ids, kind="stable")
    ids, values = ids[order], values[order]
    first = starts(ids)
    counts = np.diff(np.append(first, len(ids)))
    result = np.zeros(len(first), np.uint8)
    conflicts = np.zeros(len(first), np.bool_)
    for shift in SHIFTS:
        value = (values >> shift) & 3
        says_no, says_yes = value == DENIED, value == ALLOWED
        no, yes = np.logical_or.reduceat(says_no, first), np.logical_or.reduceat(says_yes, first)
        conflicts |= no & yes
        if times is not None:
            when = times[order]
            says = says_no | says_yes
            newest = np.maximum.reduceat(np.where(says, when, UNTIMED), first)
            untimed = np.logical_or.reduceat(says & (when == UNTIMED), first)
            counted = says & (np.repeat(untimed, counts) | (when == np.repeat(newest, counts)))
            no = np.logical_or.reduceat(says_no & counted, first)
            yes = np.logical_or.reduceat(says_yes & counted, first)
        result |= (np.where(no, DENIED, np.where(yes, ALLOWED, BLANK)).astype(np.uint8)) << shift
    return result, conflicts


def has_room(span: int, clients: int) -> bool:
    """Return whether a table of so many *clients* may be dense while an export is read, if their ids span *span*."""
    return span <= max(_ALWAYS_DENSE, DENSE_RANGE_PER_CLIENT * max(1, clients))


def moved(values: npt.NDArray[_Value], size: int, offset: int) -> npt.NDArray[_Value]:
    """Return *values* in an array of this *size*, *offset* places later."""
    grown = np.zeros(size, values.dtype)
    grown[offset : offset + len(values)] = values
    return grown


def _no_ids() -> Ids:
    return np.zeros(0, np.int32)
