"""Which clients a run sends, what each request states, and in which order.

A client is sent when a channel has a target that differs from its State, or has one while something is due. The
request states the channels that change and, unless restating is switched off, every channel whose target is
denied: a drifted platform heals in the safe direction. A grant is never restated, because the client may have
opted out on the platform itself since.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import LOW_BITS, Bytes, Ids, Mask, allowed, denied, spread, stated
from sync_job.consent.rules import decide_all
from sync_job.consent.tables import CHUNK, Table


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


@dataclass(frozen=True, slots=True, eq=False)
class Holdings:
    """What is known and owed, one row a client in ascending order: int32 ids, and State and Due as bytes."""

    client: Ids
    state: Bytes
    due: Bytes

    def __len__(self) -> int:
        return len(self.client)


class Lingering(NamedTuple):
    """Clients with an attempt in doubt not long ago, ascending: int32 ids, end in epoch seconds, acknowledged since."""

    client: Ids
    until: npt.NDArray[np.float64]
    acknowledged: Mask

    def of(self, ids: Ids, now: float) -> tuple[Mask, Mask]:
        """Return which of *ids* still linger at *now*, and which of those were acknowledged meanwhile."""
        found = np.zeros(len(ids), np.bool_)
        if not len(self.client):
            return found, found.copy()
        place = np.minimum(np.searchsorted(self.client, ids), len(self.client) - 1)
        found = (self.client[place] == ids) & (self.until[place] > now)
        return found, found & self.acknowledged[place]


def no_lingering() -> Lingering:
    """Return that nobody lingers."""
    return Lingering(np.zeros(0, np.int32), np.zeros(0, np.float64), np.zeros(0, np.bool_))


@dataclass
class Counts:
    """How the clients of one diff were decided; each stated client counts once, by the first that fits."""

    stated: int = 0
    planned: int = 0
    planned_unstated: int = 0
    waiting: int = 0
    blocked: int = 0
    held: int = 0
    unchanged: int = 0
    absent: int = 0
    held_channels: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    blocked_channels: list[int] = field(default_factory=lambda: [0, 0, 0, 0])


@dataclass(frozen=True)
class Terms:
    """What a diff may do: whether the run may grant, and which clients may not be granted anything in it.

    *restate* is whether denials are stated again; *ungranted* has ascending ids.
    """

    may_grant: bool = True
    restate: bool = True
    ungranted: Ids = field(default_factory=lambda: np.zeros(0, np.int32))


class Sending(NamedTuple):
    """What each client's request states, 0 for none, and which channels of it change (one low bit each)."""

    sent: Bytes
    changes: Bytes


def send(target: Bytes, state: Bytes, due: Bytes, acknowledged: Mask, *, restate: bool) -> Sending:
    """Return what is sent to reach *target*.

    An *acknowledged* lingering client is sent again only what differs from its State or from what is due: its
    last acknowledged values wait for the linger to end.
    """
    wanted = stated(target)
    unsure = stated(due)
    unsure = np.where(acknowledged, unsure & stated(due ^ target), unsure)
    changes = wanted & (stated(target ^ state) | unsure)
    chosen = changes | denied(target) if restate else changes
    sent = np.where(changes != 0, target & spread(chosen), 0).astype(np.uint8)
    return Sending(sent, changes)


def lanes(state: Bytes, sent: Bytes, changes: Bytes) -> Bytes:
    """Return the lane of each row of an export: revocations, other denials, and rows that only grant, due or not."""
    lane = np.full(len(sent), Lane.GRANT, np.uint8)
    denials = denied(sent)
    lane[(denials & changes) != 0] = Lane.DENIAL
    lane[(denials & allowed(state)) != 0] = Lane.REVOCATION
    return lane


def _quiet(terms: Terms) -> Mask:
    """Return, by `statement << 8 | state`, which clients with nothing due or withdrawn need no closer look."""
    statement, state = (part.astype(np.uint8) for part in np.divmod(np.arange(1 << 16), 256))
    nothing = np.zeros(1 << 16, np.uint8)
    rulings = decide_all(statement, state, nothing, nothing, np.full(1 << 16, terms.may_grant))
    changes = send(rulings.target, state, nothing, nothing != 0, restate=terms.restate).changes
    return np.asarray((changes | rulings.held) == 0)


class Diff(NamedTuple):
    """The rows to send in sending order, the counts, and the clients that the export no longer has, ascending."""

    rows: Rows
    counts: Counts
    absent: Ids


def diff(
    statements: Table, holdings: Holdings, withdrawn: Table, lingering: Lingering, terms: Terms, now: float
) -> Diff:
    """Return what has to be sent so that the platform holds what the rules say; *now* in epoch seconds."""
    statements = statements.over(holdings.client, withdrawn.items()[0])
    slots = statements.slots
    state, due = np.zeros(slots.size, np.uint8), np.zeros(slots.size, np.uint8)
    for start in range(0, len(holdings), CHUNK):
        chunk = slice(start, start + CHUNK)
        where = slots.of(holdings.client[chunk])
        state[where], due[where] = holdings.state[chunk], holdings.due[chunk]
    quiet = _quiet(terms)
    counts = Counts(stated=statements.clients())
    by_lane: dict[int, list[Rows]] = {lane: [] for lane in Lane}
    absent: list[Ids] = []
    no_withdrawals = not withdrawn.clients()
    for start in range(0, slots.size, CHUNK):
        chunk = slice(start, start + CHUNK)
        says, holds, owes = statements.values[chunk], state[chunk], due[chunk]
        gone = (says == 0) & ((holds | owes) != 0)
        if gone.any():
            absent.append(slots.clients(start, np.flatnonzero(gone)))
        key = says.astype(np.uint16) << 8
        key |= holds
        look = ~quiet[key] | (owes != 0)
        if not no_withdrawals:
            look |= withdrawn.of(slots.clients(start, np.arange(len(says)))) != 0
        looked = np.flatnonzero(look)
        if len(looked):
            ids = slots.clients(start, looked)
            rows = _decide(ids, says[looked], holds[looked], owes[looked], withdrawn, lingering, terms, now, counts)
            for lane in np.unique(rows.lane):
                by_lane[int(lane)].append(rows.at(rows.lane == lane))
    counts.absent = sum(len(ids) for ids in absent)
    counts.unchanged = counts.stated - (
        counts.planned - counts.planned_unstated + counts.waiting + counts.blocked + counts.held
    )
    return Diff(joined([rows for lane in Lane for rows in by_lane[lane]]), counts, _all_ids(absent))


def _decide(
    ids: Ids,
    says: Bytes,
    holds: Bytes,
    owes: Bytes,
    withdrawn: Table,
    lingering: Lingering,
    terms: Terms,
    now: float,
    counts: Counts,
) -> Rows:
    """Return the rows to send among these clients, and add to *counts* how all of them were decided."""
    may_grant = np.full(len(ids), terms.may_grant)
    may_grant &= ~np.isin(ids, terms.ungranted, assume_unique=True)
    rulings = decide_all(says, holds, owes, withdrawn.of(ids), may_grant)
    acknowledged = lingering.of(ids, now)[1]
    sending = send(rulings.target, holds, owes, acknowledged, restate=terms.restate)
    planned = sending.changes != 0
    would = send(rulings.target, holds, owes, np.zeros(len(ids), np.bool_), restate=terms.restate).changes != 0
    rest = says != 0
    counts.planned += int(np.count_nonzero(planned))
    counts.planned_unstated += int(np.count_nonzero(planned & ~rest))
    rest &= ~planned
    counts.waiting += int(np.count_nonzero(rest & would))
    rest &= ~would
    counts.blocked += int(np.count_nonzero(rest & (rulings.blocked != 0)))
    rest &= rulings.blocked == 0
    counts.held += int(np.count_nonzero(rest & (rulings.held != 0)))
    for channel in range(4):
        counts.held_channels[channel] += int(np.count_nonzero(rulings.held & (1 << (2 * channel))))
        counts.blocked_channels[channel] += int(np.count_nonzero(rulings.blocked & (1 << (2 * channel))))
    sent, changes = sending.sent[planned], sending.changes[planned]
    lane = lanes(holds[planned], sent, changes)
    # An old withdrawal that is merely restated must not carry a grant ahead of other clients' denials.
    lane[(denied(sent) & changes & withdrawn.of(ids[planned])) != 0] = Lane.WITHDRAWAL
    return Rows(ids[planned], holds[planned], owes[planned], sent, lane)


def owed_first(rows: Rows, owed: Table) -> Rows:
    """Return *rows* with those of clients with an open obligation (*owed*) in its lane, before all others."""
    owes = owed.of(rows.client) != 0
    if not owes.any():
        return rows
    lane = np.where(owes, np.uint8(Lane.OBLIGATION), rows.lane)
    moved = Rows(rows.client, rows.state, rows.due, rows.sent, lane)
    return moved.at(np.argsort(lane, kind="stable"))


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


def obligations(holdings: Holdings, owed: Table) -> Rows:
    """Return the rows of leg 0: the open obligations alone, *owed* with the low bit of each channel to deny."""
    ids, channels = owed.items()
    place = np.minimum(np.searchsorted(holdings.client, ids), max(0, len(holdings) - 1))
    known = np.zeros(len(ids), np.bool_) if not len(holdings) else holdings.client[place] == ids
    state, due = np.zeros(len(ids), np.uint8), np.zeros(len(ids), np.uint8)
    state[known], due[known] = holdings.state[place[known]], holdings.due[place[known]]
    return Rows(ids, state, due, channels & LOW_BITS, np.full(len(ids), Lane.OBLIGATION, np.uint8))


def _all_ids(parts: list[Ids]) -> Ids:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def each(rows: Rows, start: int = 0, *, block: int = 4096) -> Iterator[tuple[int, int, int]]:
    """Yield place, client and Sent of each row from *start*, in order, without a Python object a row in advance."""
    for first in range(start, len(rows), block):
        part = rows.at(slice(first, first + block))
        yield from zip(range(first, first + len(part)), part.client.tolist(), part.sent.tolist(), strict=True)
