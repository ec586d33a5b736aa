"""Which clients a run sends, what each request states, and in which order.

A client is sent when a channel has a target that differs from its State, or has one while something is due. The
request states the channels that change and, unless restating is switched off, every channel whose target is
denied: a drifted platform heals in the safe direction. A grant is never restated, because the client may have
opted out on the platform itself since.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sync_job.consent.channels import (
    ALLOWED,
    LOW_BITS,
    NOTHING,
    SHIFTS,
    Bytes,
    Ids,
    Mask,
    allowed,
    blank,
    denied,
    spread,
    stated,
)
from sync_job.consent.dates import Ages, Seconds
from sync_job.consent.guards import Tally
from sync_job.consent.known import Holdings, Known, nobody
from sync_job.consent.rows import Lane, Rows, joined, owed_first
from sync_job.consent.rules import FREE, Cases, Change, Hold, Rulings, approved, decide_all, keep, of_kind, older
from sync_job.consent.tables import CHUNK, Table


@dataclass
class Counts:
    """How the clients of one diff were decided; each stated client counts once, by the first that fits."""

    stated: int = 0
    forgotten: int = 0
    planned: int = 0
    planned_unstated: int = 0
    waiting: int = 0
    blocked: int = 0
    held: int = 0
    unchanged: int = 0
    absent: int = 0
    held_channels: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    blocked_channels: list[int] = field(default_factory=lambda: [0, 0, 0, 0])


@dataclass(frozen=True, eq=False)
class Terms:
    """What a diff may do: whether the run may grant, and which clients may not be granted anything in it.

    *as_of* is when the export was made (epoch seconds), or *ages* when each client of it was stated: it grants nothing
    to whom a newer denial was stated; *alone*: no other export has such a time.
    *restate* is whether denials are stated again. *ungranted* and *owing* have ascending ids: the first are granted
    nothing by this export, the second nothing as long as a denial is owed to them, which the guards disregard.
    *hold* is what the guards hold except for what *approved* has, as a byte; *only_owed*: nothing but obligations may
    be sent. *absent* is what is taken as the statement of clients that a full export no longer has.
    *planned* (ascending) were planned in an earlier leg, and count as that.
    """

    may_grant: bool = True
    as_of: float = np.inf
    ages: Ages | None = None
    alone: bool = True
    restate: bool = True
    ungranted: Ids = field(default_factory=lambda: np.zeros(0, np.int32))
    owing: Ids = field(default_factory=lambda: np.zeros(0, np.int32))
    hold: Hold = FREE
    approved: Table = field(default_factory=nobody)
    only_owed: bool = False
    absent: int = NOTHING
    planned: Ids = field(default_factory=lambda: np.zeros(0, np.int32))

    def stated_at(self, ids: Ids) -> Seconds:
        """Return as of when the export states each of *ids*, in epoch seconds."""
        return np.full(len(ids), self.as_of) if self.ages is None else self.ages.of(ids)


class Sending(NamedTuple):
    """What each client's request states, 0 for none, and which channels of it change (one low bit each)."""

    sent: Bytes
    changes: Bytes


def send(
    target: Bytes, state: Bytes, due: Bytes, acknowledged: Mask, *, restate: bool, owed: Bytes | None = None
) -> Sending:
    """Return what is sent to reach *target*; what is *owed* (one low bit a channel) is sent though State says so.

    An *acknowledged* lingering client is sent again only what differs from its State or from what is due: its
    last acknowledged values wait for the linger to end.
    """
    wanted = stated(target)
    unsure = stated(due) if owed is None else stated(due) | owed
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


_LOOK, _LOST, _STATES = 1, 2, 4


def _quick(terms: Terms) -> Bytes:
    """Return, by `statement << 8 | state`, what can be said of clients with nothing due or withdrawn.

    _LOOK: it needs a closer look; _LOST: nothing is stated of a channel that is allowed; _STATES: a channel is stated.
    """
    statement, state = (part.astype(np.uint8) for part in np.divmod(np.arange(1 << 16), 256))
    nothing = np.zeros(1 << 16, np.uint8)
    may_grant = np.full(1 << 16, LOW_BITS if terms.may_grant else 0, np.uint8)
    cases = Cases(statement, state, nothing, nothing, nothing, may_grant, nothing)
    rulings = decide_all(cases, terms.hold)
    changes = send(rulings.target, state, nothing, nothing != 0, restate=terms.restate).changes
    found = np.where(changes | rulings.held, _LOOK, 0).astype(np.uint8)
    found[(blank(statement) & allowed(state)) != 0] |= _LOST
    found[(denied(statement) | allowed(statement)) != 0] |= _STATES
    return found


class Held(NamedTuple):
    """What was not let through, ascending by client: as a byte what the export says of each held channel.

    *change* has the `Change` of each channel, so that a new grant is told from a re-grant; *older* the low bit of each
    channel that is held because the export is not newer than the newest denial, which was stated at *denied_at*.
    """

    client: Ids
    stated: Bytes
    change: Bytes
    older: Bytes
    denied_at: Seconds

    def at(self, which: Mask) -> "Held":
        """Return what is held of the chosen clients."""
        return Held(
            self.client[which],
            self.stated[which],
            self.change[which],
            self.older[which],
            self.denied_at[which],
        )

    def approvable(self) -> "Held":
        """Return what a person may let through: all but what is older than a denial."""
        kept = ~spread(self.older)
        left = self._replace(stated=self.stated & kept, change=self.change & kept)
        return left.at(left.stated != 0)


def nothing_held() -> Held:
    """Return that all was let through."""
    none = np.zeros(0, np.uint8)
    return Held(np.zeros(0, np.int32), none, none, none, np.zeros(0, np.float64))


class Blocked(NamedTuple):
    """Clients whose *allowed* a withdrawal overruled, ascending, with the low bit of each such channel."""

    client: Ids
    channels: Bytes


class Diff(NamedTuple):
    """The rows to send in sending order, the counts, and the clients that the export no longer has, ascending.

    *deferred* are clients, ascending, who may be granted something once no denial is owed to them any more.
    """

    rows: Rows
    counts: Counts
    absent: Ids
    tally: Tally
    held: Held
    blocked: Blocked
    deferred: Ids


@dataclass
class _Gathered:
    """What the looks so far come to."""

    counts: Counts
    tally: Tally
    rows: dict[int, list[Rows]] = field(default_factory=lambda: {lane: [] for lane in Lane})
    absent: list[Ids] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    blocked: list[tuple[Ids, Bytes]] = field(default_factory=list)
    deferred: list[Ids] = field(default_factory=list)


def diff(statements: Table, known: Known, terms: Terms, now: float) -> Diff:
    """Return what has to be sent so that the platform holds what the rules say; *now* in epoch seconds."""
    holdings = known.holdings
    covered, owed = known.withdrawn.items()[0], known.owed.table()
    statements = statements.over(holdings.client, covered, known.owed.client)
    slots = statements.slots
    state, due = np.zeros(slots.size, np.uint8), np.zeros(slots.size, np.uint8)
    for start in range(0, len(holdings), CHUNK):
        chunk = slice(start, start + CHUNK)
        where = slots.of(holdings.client[chunk])
        state[where], due[where] = holdings.state[chunk], holdings.due[chunk]
    quick = _quick(terms)
    counts = Counts(stated=statements.clients(), planned=len(terms.planned))
    counts.planned_unstated = int(np.count_nonzero(statements.of(terms.planned) == 0))
    found = _Gathered(counts, Tally(snapshot=len(holdings), allowed=_allowed(holdings)))
    # Slots ascend with their clients: those of a chunk lie side by side.
    closer = np.concatenate([slots.of(covered), slots.of(known.owed.client)])
    closer.sort(kind="stable")
    for start in range(0, slots.size, CHUNK):
        chunk = slice(start, start + CHUNK)
        says, holds, owes = statements.values[chunk], state[chunk], due[chunk]
        here = (holds | owes) != 0
        gone = (says == 0) & here
        if gone.any():
            found.absent.append(slots.clients(start, np.flatnonzero(gone)))
        means = np.where(gone, np.uint8(terms.absent), says) if terms.absent else says
        key = means.astype(np.uint16) << 8
        key |= holds
        quickly = quick[key]
        states = quickly & _STATES != 0
        if terms.absent:
            states &= ~gone  # what is taken as said of them is no sign of what the export is like
        found.tally.stating += int(np.count_nonzero(states))
        found.tally.known += int(np.count_nonzero(states & here))
        found.tally.lost += int(np.count_nonzero(quickly & _LOST))
        look = (quickly & _LOOK != 0) | (owes != 0)
        first, last = np.searchsorted(closer, (start, start + CHUNK))
        look[closer[first:last] - start] = True
        looked = np.flatnonzero(look)
        if len(looked):
            ids = slots.clients(start, looked)
            seen = says[looked] != 0, means[looked], holds[looked], owes[looked], owed.of(ids)
            _decide(ids, *seen, known, terms, now, found)
    counts.absent = sum(len(ids) for ids in found.absent)
    counts.unchanged = counts.stated - (
        counts.planned - counts.planned_unstated + counts.waiting + counts.blocked + counts.held
    )
    rows = joined([rows for lane in Lane for rows in found.rows[lane]])
    return Diff(
        owed_first(rows, known.owed),
        counts,
        _all_ids(found.absent),
        found.tally,
        Held(*(np.concatenate(parts) for parts in zip(*found.held, strict=True))) if found.held else nothing_held(),
        Blocked(*(np.concatenate(parts) for parts in zip(*found.blocked, strict=True)))
        if found.blocked
        else Blocked(np.zeros(0, np.int32), np.zeros(0, np.uint8)),
        _all_ids(found.deferred),
    )


def _allowed(holdings: Holdings) -> list[int]:
    """Return how many clients have each channel allowed in State."""
    found = np.bincount(holdings.state, minlength=256)
    return [sum(int(found[byte]) for byte in range(256) if (byte >> shift) & 3 == ALLOWED) for shift in SHIFTS]


def _decide(
    ids: Ids,
    is_stated: Mask,
    says: Bytes,
    holds: Bytes,
    owes: Bytes,
    owed: Bytes,
    known: Known,
    terms: Terms,
    now: float,
    found: _Gathered,
) -> None:
    """Add to *found* what is sent of these clients, and how all of them were decided."""
    covered, let_through = known.withdrawn.of(ids), terms.approved.of(ids)
    denied_at = known.holdings.denied_at(ids)
    older_ = older(terms.stated_at(ids), holds, owes, denied_at, alone=terms.alone)
    by_export = terms.may_grant & ~np.isin(ids, terms.ungranted, assume_unique=True)
    asked_for = np.where(by_export, LOW_BITS & ~older_, 0).astype(np.uint8)
    # A client to whom a denial is owed is sent denials alone: a grant that is refused must not delay it.
    owing = np.isin(ids, terms.owing, assume_unique=True) | (owed != 0)
    may_grant = np.where(owing, 0, asked_for).astype(np.uint8)
    rulings = decide_all(Cases(says, holds, owes, covered, owed, may_grant, let_through), terms.hold)
    target, held = rulings.target, rulings.held
    acknowledged = known.lingering.of(ids, now)[1]
    sending = send(target, holds, owes, acknowledged, restate=terms.restate, owed=owed)
    # Refused before, and nothing else is to be changed since: it waits for its next try.
    refused = known.waiting.of(ids)
    waits = (refused != 0) & (stated((target ^ refused) & spread(sending.changes)) == 0) & (owed == 0)
    goes = (sending.changes != 0) & ~waits
    later = ~goes & (send(target, holds, owes, np.zeros(len(ids), np.bool_), restate=terms.restate).changes != 0)
    planned = goes
    if terms.only_owed:
        held = held | np.where(goes, sending.changes & ~owed & ~rulings.blocked, np.uint8(0))
        sending = send(keep(target, owed), holds, owes, acknowledged, restate=terms.restate, owed=owed)
        planned = goes & (sending.changes != 0)
    counts = found.counts
    rest = is_stated.copy()
    fresh = ~np.isin(ids, terms.planned, assume_unique=True)
    counts.planned += int(np.count_nonzero(planned & fresh))
    counts.planned_unstated += int(np.count_nonzero(planned & fresh & ~rest))
    rest &= ~planned & fresh
    counts.waiting += int(np.count_nonzero(rest & later))
    rest &= ~later
    counts.blocked += int(np.count_nonzero(rest & (rulings.blocked != 0)))
    rest &= rulings.blocked == 0
    counts.held += int(np.count_nonzero(rest & (held != 0)))
    for channel in range(4):
        counts.held_channels[channel] += int(np.count_nonzero(held & (1 << (2 * channel))))
        counts.blocked_channels[channel] += int(np.count_nonzero(rulings.blocked & (1 << (2 * channel))))
    # Of a channel of which the export says nothing, a due denial may be held: there is nothing to approve in that.
    not_let = held & (denied(says) | allowed(says))
    which = not_let != 0
    if which.any():
        by_age = older_ & not_let & allowed(says) & np.where(by_export, LOW_BITS, 0).astype(np.uint8)
        held_ = Held(ids, keep(says, not_let), keep(rulings.change, not_let), by_age, denied_at)
        found.held.append(held_.at(which))
    which = rulings.blocked != 0
    if which.any():
        found.blocked.append((ids[which], rulings.blocked[which]))
    # Where a grant is held and a denial due, it is the denial that the row carries.
    carried = np.where(planned, sending.changes & ~rulings.held & ~approved(says, let_through), np.uint8(0))
    # What may not be granted now, because a denial is owed, may be later in the run: the guards count it as asked for.
    later_on = np.where(owing, asked_for & ~covered & ~approved(says, let_through), 0) & _grants(rulings)
    if later_on.any():
        found.deferred.append(ids[later_on != 0])
    _count(found.tally, rulings, carried | later_on)
    changed = (carried & rulings.differs & ~covered & ~owed) | later_on
    found.tally.changed += int(np.count_nonzero((changed != 0) & is_stated & ((holds | owes) != 0)))
    sent, changes = sending.sent[planned], sending.changes[planned]
    lane = lanes(holds[planned], sent, changes)
    # An old withdrawal that is merely restated must not carry a grant ahead of other clients' denials.
    lane[(denied(sent) & changes & covered[planned]) != 0] = Lane.WITHDRAWAL
    rows = Rows(ids[planned], holds[planned], owes[planned], sent, lane)
    for one in np.unique(lane):
        found.rows[int(one)].append(rows.at(lane == one))


def _grants(rulings: Rulings) -> Bytes:
    """Return the channels, one low bit each, of which the export asks for a grant."""
    return of_kind(rulings.change, Change.NEW_GRANT) | of_kind(rulings.change, Change.RE_GRANT)


def _count(tally: Tally, rulings: Rulings, carried: Bytes) -> None:
    """Add to *tally* what rows would change that change these channels."""
    tally.new_grants += int(np.count_nonzero(of_kind(rulings.change, Change.NEW_GRANT) & carried))
    tally.re_grants += int(np.count_nonzero(of_kind(rulings.change, Change.RE_GRANT) & carried))
    revoked = of_kind(rulings.change, Change.REVOCATION) & carried
    for place, shift in enumerate(SHIFTS):
        tally.revocations[place] += int(np.count_nonzero(revoked & (1 << shift)))


def _all_ids(parts: list[Ids]) -> Ids:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)
