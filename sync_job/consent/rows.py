"""Planned rows: a client, what its request states, and its lane; and the leg that sends what is owed alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Bytes, Ids, Mask, allowed, denied, spread, stated
from sync_job.consent.known import Holdings, Lingering, Obligations, no_lingering
from sync_job.consent.tables import Table


class Lane(IntEnum):
    """The classes of changes in sending order: when a run is cut short, grants are what is left."""

    OBLIGATION = 0
    WITHDRAWAL = 1
    REVOCATION = 2
    DENIAL = 3
    GRANT = 4


_Which = Mask | slice | npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Planned rows, one a client: int32 ids, and State, Due and Sent as bytes and the lane, each uint8."""

    client: Ids
    state: Bytes
    due: Bytes
    sent: Bytes
    lane: Bytes

    def __len__(self) -> int:
        return len(self.client)

    def at(self, which: _Which) -> "Rows":
        """Return the chosen rows: a slice, a mask, or places."""
        return Rows(self.client[which], self.state[which], self.due[which], self.sent[which], self.lane[which])


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all *parts*, one after the other."""
    if not parts:
        return Rows(np.zeros(0, np.int32), *(np.zeros(0, np.uint8) for _ in range(4)))
    return Rows(
        np.concatenate([part.client for part in parts]),
        np.concatenate([part.state for part in parts]),
        np.concatenate([part.due for part in parts]),
        np.concatenate([part.sent for part in parts]),
        np.concatenate([part.lane for part in parts]),
    )


def last_of_each(before: Rows, rows: Rows) -> Rows:
    """Return *rows*, and those of *before* whose client is in none of them."""
    if not len(before):
        return rows
    return joined([before.at(~np.isin(before.client, rows.client)), rows])


def owed_first(rows: Rows, owed: Obligations) -> Rows:
    """Return *rows* with those of clients to whom a denial is owed in its lane, before all others, by their limits."""
    limits = owed.first(rows.client)
    if np.isinf(limits).all():
        return rows
    lane = np.where(np.isinf(limits), rows.lane, np.uint8(Lane.OBLIGATION)).astype(np.uint8)
    moved = Rows(rows.client, rows.state, rows.due, rows.sent, lane)
    return moved.at(np.lexsort((limits, lane)))


def changed(rows: Rows) -> Bytes:
    """Return the channels, one low bit each, that a row changes; the other channels it sends are restated."""
    return stated(rows.sent) & (stated(rows.sent ^ rows.state) | stated(rows.due))


def transitions(rows: Rows) -> npt.NDArray[np.int64]:
    """Return how many clients go from each State to each Sent, int64 [channel, state, sent] over 4 x 3 x 3 values."""
    matrix = np.zeros((4, 3, 3), np.int64)
    pairs = np.bincount(rows.state.astype(np.uint16) << np.uint16(8) | rows.sent, minlength=1 << 16)
    for pair in np.flatnonzero(pairs):
        state, sent = divmod(int(pair), 256)
        for channel in range(4):
            matrix[channel, (state >> 2 * channel) & 3, (sent >> 2 * channel) & 3] += pairs[pair]
    return matrix


def obligations(holdings: Holdings, owed: Obligations, lingering: Lingering | None = None, now: float = 0.0) -> Rows:
    """Return the rows of a leg without an export: what is owed, by its limit, along with the client's due denials.

    What a lingering client acknowledged meanwhile waits for the linger to end.
    """
    ids = owed.client
    state, due = holdings.of(ids)
    acknowledged = (lingering or no_lingering()).of(ids, now)[1]
    sent = np.where(acknowledged, owed.channels & ~(denied(state) & denied(due)), owed.channels).astype(np.uint8)
    # An answer is taken as the client's: a due denial that the row left out would wait for the linger to end with it.
    sent[sent != 0] |= denied(due)[sent != 0]
    rows = Rows(ids, state, due, sent, np.full(len(ids), Lane.OBLIGATION, np.uint8))
    order = np.argsort(owed.limit_at, kind="stable")
    return rows.at(order[sent[order] != 0])


def each(rows: Rows, start: int = 0, *, block: int = 4096) -> Iterator[tuple[int, int, int]]:
    """Yield place, client and Sent of each row from *start*, in order, without a Python object a row in advance."""
    for first in range(start, len(rows), block):
        part = rows.at(slice(first, first + block))
        yield from zip(range(first, first + len(part)), part.client.tolist(), part.sent.tolist(), strict=True)


def without_withdrawn(rows: Rows, withdrawn: Table) -> Rows:
    """Return *rows* less every grant that a withdrawal (the low bit of each channel) has overruled since then."""
    over = allowed(rows.sent) & withdrawn.of(rows.client)
    sent = (rows.sent & ~spread(over)).astype(np.uint8)
    return Rows(rows.client, rows.state, rows.due, sent, rows.lane).at(sent != 0)


def denials_alone(rows: Rows, owing: Ids) -> Rows:
    """Return *rows* less the grants of clients to whom a denial is owed (*owing*, ascending): those would delay it."""
    sent = np.where(np.isin(rows.client, owing), denied(rows.sent), rows.sent).astype(np.uint8)
    return Rows(rows.client, rows.state, rows.due, sent, rows.lane).at(sent != 0)


def sampled(rows: Rows, count: int, rng: np.random.Generator) -> tuple[Rows, int]:
    """Return *rows* with *count* random ones of each kind first, in their order, and how many those are.

    A kind is what is known of the client, and what it is sent.
    """
    kind = rows.state.astype(np.uint32) << np.uint32(16) | rows.due.astype(np.uint32) << np.uint32(8) | rows.sent
    drawn = rng.permutation(len(rows))
    order = drawn[np.argsort(kind[drawn], kind="stable")]
    _, first, sizes = np.unique(kind[order], return_index=True, return_counts=True)
    within = np.arange(len(rows)) - np.repeat(first, sizes)
    chosen = np.zeros(len(rows), np.bool_)
    chosen[order[within < count]] = True
    places = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(~chosen)])
    return rows.at(places), int(np.count_nonzero(chosen))


def as_now(rows: Rows, holdings: Holdings) -> Rows:
    """Return *rows* with State and Due as *holdings* have them now, not as they were planned for."""
    return Rows(rows.client, *holdings.of(rows.client), rows.sent, rows.lane)


def still_so(rows: Rows, holdings: Holdings) -> Rows:
    """Return those of *rows* whose client still has the State and Due that they were planned for."""
    state, due = holdings.of(rows.client)
    return rows.at((state == rows.state) & (due == rows.due))
