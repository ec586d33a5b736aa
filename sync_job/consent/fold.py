"""Snapshot + plan + outcomes -> the next snapshot: finishing a run and recovering a dead one are this one function."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import DENIED, NOTHING, SHIFTS, Bytes, Ids, Mask, denied
from sync_job.consent.dates import NEVER, Dates, Seconds
from sync_job.consent.known import Holdings, Lingering
from sync_job.consent.rows import Rows, changed


class Outcome(IntEnum):
    """How a planned row ended. OPEN: the journal says nothing of it."""

    OPEN = 0
    DELIVERED = 1
    REFUSED = 2
    EXHAUSTED = 3
    DEFERRED = 4


# The two requests that may be in doubt: the whole row, and the one that repeats its denials without its grants.
DOUBT_WHOLE, DOUBT_DENIALS = 1, 2


class Ending(IntEnum):
    """What is known of one channel of a row after its last attempt."""

    DELIVERED = 0
    NOT_APPLIED = 1  # surely not applied, or never dispatched
    IN_DOUBT = 2


class Channel(NamedTuple):
    """State and Due of one channel."""

    state: int
    due: int


def settle(state: int, due: int, sent: int, ending: Ending, *, lingers: bool) -> Channel:
    """Return State and Due of one channel after *sent* ended so.

    *lingers*: an older request of this client may still be applied late.
    """
    if sent == NOTHING:
        return Channel(state, due)
    if ending is Ending.DELIVERED:
        return Channel(sent, sent if lingers else NOTHING)
    if ending is Ending.NOT_APPLIED:
        if sent == DENIED and not (state == DENIED and due == NOTHING):
            return Channel(state, DENIED)
        return Channel(state, due)
    if state == sent and due == NOTHING and not lingers:
        return Channel(state, due)
    return Channel(state, sent)


def _table() -> Bytes:
    table = np.zeros(512, np.uint8)
    for case in range(512):
        state, due, sent, ending = case & 3, (case >> 2) & 3, (case >> 4) & 3, (case >> 6) & 3
        if ending <= Ending.IN_DOUBT:
            after = settle(state, due, sent, Ending(ending), lingers=bool(case & 256))
            table[case] = after.state | after.due << 2
    return table


TABLE = _table()


@dataclass(frozen=True, slots=True, eq=False)
class Endings:
    """How each planned row ended, in the rows' order.

    *outcome* and, where a row's denials were repeated without its grants, *denials* are an `Outcome` (else OPEN);
    *doubt* is DOUBT_WHOLE | DOUBT_DENIALS, and *doubt_at* when the last attempt in doubt was made (epoch seconds).
    """

    outcome: Bytes
    denials: Bytes
    doubt: Bytes
    doubt_at: npt.NDArray[np.float64]

    def at(self, which: npt.NDArray[np.intp]) -> "Endings":
        """Return the endings of the rows at these places."""
        return Endings(self.outcome[which], self.denials[which], self.doubt[which], self.doubt_at[which])


class Folded(NamedTuple):
    """The next holdings, and who lingers from now on."""

    holdings: Holdings
    lingering: Lingering


def _endings(outcome: Bytes, doubt: Mask) -> Bytes:
    ending = np.where(doubt, Ending.IN_DOUBT, Ending.NOT_APPLIED)
    return np.where(outcome == Outcome.DELIVERED, Ending.DELIVERED, ending).astype(np.uint8)


def fold_rows(rows: Rows, endings: Endings, lingers: Mask) -> tuple[Bytes, Bytes]:
    """Return State and Due of each row after its ending; *lingers* is who lingered before it was sent."""
    whole = (endings.doubt & DOUBT_WHOLE) != 0
    any_doubt = endings.doubt != 0
    grants = _endings(endings.outcome, whole)
    denials = np.where(endings.denials != Outcome.OPEN, _endings(endings.denials, any_doubt), grants)
    late = lingers | any_doubt
    is_denial = denied(rows.sent)
    state, due = np.zeros(len(rows), np.uint8), np.zeros(len(rows), np.uint8)
    for shift in SHIFTS:
        ending = np.where((is_denial >> shift) & 1, denials, grants)
        # A row in doubt is late by its own attempt alone: only an older one can undo what was acknowledged.
        waits = np.where(ending == Ending.DELIVERED, late, lingers)
        case = ((rows.state >> shift) & 3).astype(np.uint16)
        case |= ((rows.due >> shift) & 3).astype(np.uint16) << 2
        case |= ((rows.sent >> shift) & 3).astype(np.uint16) << 4
        case |= ending.astype(np.uint16) << 6
        case |= waits.astype(np.uint16) << 8
        after = TABLE[case]
        state |= (after & 3) << shift
        due |= (after >> 2) << shift
    return state, due


def fold(
    holdings: Holdings,
    lingering: Lingering,
    rows: Rows,
    endings: Endings,
    *,
    started: float,
    now: float,
    linger_s: float,
    stated: Seconds | None = None,
) -> Folded:
    """Return the holdings and the lingering clients after *rows* ended so.

    *stated* has, per row, when the denials that it changes were stated (epoch seconds): however the row ended, they
    date its client from now on. What was due before is dated already.

    *started* is when the leg was planned, *now* when it is folded, in epoch seconds, and *lingering* who lingered
    then. Folding the same twice, by the same *lingering*, is folding it once: a row's result depends on the row and on
    whether its client lingered, not on the holdings. The returned lingering is for the next leg, not for this one
    again: it lacks those whose time ended meanwhile.
    """
    order = np.argsort(rows.client, kind="stable")
    rows, endings = rows.at(order), endings.at(order)
    dates = Dates.never(len(rows))
    if stated is not None:
        dates = Dates.of(np.where(denied(rows.sent) & changed(rows) & ~denied(rows.due), stated[order], NEVER))
    lingers = lingering.of(rows.client, started)[0]
    state, due = fold_rows(rows, endings, lingers)
    return Folded(
        holdings.replaced(Holdings(rows.client, state, due, dates)),
        _linger_on(lingering, rows.client, endings, lingers, now=now, linger_s=linger_s),
    )


def _linger_on(
    lingering: Lingering, client: Ids, endings: Endings, lingers: Mask, *, now: float, linger_s: float
) -> Lingering:
    """Return who lingers at *now*: the old whose time is not over, and each row with an attempt in doubt."""
    doubt = endings.doubt != 0
    own_until = np.where(doubt, endings.doubt_at + linger_s, 0.0)
    old_until = np.where(lingers, lingering.ends(client), 0.0)
    # Only a row delivered whole lets its client wait: a denial that any other ending leaves due goes out in the next
    # leg, though an older row was acknowledged, or this one's denials alone.
    acknowledged = endings.outcome == Outcome.DELIVERED
    until = np.maximum(own_until, old_until)
    mine = until > now
    others = ~np.isin(lingering.client, client, assume_unique=True) & (lingering.until > now)
    ids = np.concatenate([lingering.client[others], client[mine]])
    order = np.argsort(ids, kind="stable")
    return Lingering(
        ids[order],
        np.concatenate([lingering.until[others], until[mine]])[order],
        np.concatenate([lingering.acknowledged[others], acknowledged[mine]])[order],
        lingering.everyone,
    )
