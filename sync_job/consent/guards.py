"""The guards: how large a change exports may make within a day before a person has to approve it.

Opt-outs by people are never held. A guard compares a count of clients, with what was sent in the last day, with the
larger of a floor and a share. It is judged whenever an export is decided, so again after each list.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from sync_job.consent.channels import CHANNELS, DENIED, LOW_BITS, SHIFTS, Bytes, allowed, denied, stated
from sync_job.consent.fold import Endings, Outcome
from sync_job.consent.rows import Lane, Rows
from sync_job.consent.rules import FREE, Hold, approved


class Guard(StrEnum):
    """What trips, and with it what is held."""

    RE_GRANTS = "re-grants"
    NEW_GRANTS = "new grants"
    REVOCATIONS = "revocations"
    CHANGED = "changed clients"  # ids look renumbered
    UNKNOWN = "unknown ids"  # likewise
    LOST = "lost consents"
    SHRINKAGE = "shrinkage"
    REJECTS = "rejects"
    LIST = "list"


@dataclass(frozen=True)
class Thresholds:
    """From which number on each guard trips: above the larger of a floor and a share; see docs/configuration.md."""

    re_grants: int = 10
    re_grants_share: float = 0.0005
    new_grants: int = 500
    new_grants_share: float = 0.02
    new_grants_nights: float = 3.0
    revocations: int = 100
    revocations_share: float = 0.05
    changed: int = 200
    changed_share: float = 0.05
    unknown: int = 200
    unknown_share: float = 0.10
    lost: int = 50
    lost_share: float = 0.001
    shrinkage: int = 20
    shrinkage_share: float = 0.02
    rejects: int = 50
    rejects_share: float = 0.01
    list: int = 1000
    list_share: float = 0.01


@dataclass
class Tally:
    """What an export would change, in clients: those that would be planned, and that nobody approved.

    *allowed* is how many clients have each channel allowed in State; *stating* are clients of the export that state
    a channel, *known* those of them of whom the snapshot has something, *changed* those of the known with a target
    that is neither State nor Due, and that no withdrawal or obligation set; *lost* those of whom it states nothing
    where State is allowed.
    """

    snapshot: int = 0
    stating: int = 0
    known: int = 0
    new_grants: int = 0
    re_grants: int = 0
    revocations: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    allowed: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    changed: int = 0
    lost: int = 0

    @property
    def unknown(self) -> int:
        """Clients that state a channel, and of whom the snapshot has nothing."""
        return self.stating - self.known


# A night that begins a little earlier than the last one is a night later all the same.
DAY_S = 23 * 3600.0


class Sent(NamedTuple):
    """What exports have changed, in clients, beyond what a person approved: delivered grants, and all denials."""

    new_grants: int = 0
    re_grants: int = 0
    revocations: tuple[int, ...] = (0, 0, 0, 0)
    changed: int = 0
    unknown: int = 0


NOTHING_SENT = Sent()


def sent(rows: Rows, endings: Endings, let_through: Bytes) -> Sent:
    """Return what *rows* of an export changed by how they ended; *let_through* is what was approved of each, as a byte.

    A grant that was not delivered, and is not in doubt, will be asked for again. A denial is owed however it ended,
    so it is asked for once.
    """
    by_export = rows.lane > Lane.WITHDRAWAL
    counted = np.where(by_export, LOW_BITS & ~approved(rows.sent, let_through), 0).astype(np.uint8)
    got = (endings.outcome == Outcome.DELIVERED) | (endings.doubt != 0)
    grants = (
        counted & np.where(got, allowed(rows.sent), 0) & ~allowed(rows.due) & ~(allowed(rows.state) & ~stated(rows.due))
    )
    again = grants & (denied(rows.state) | denied(rows.due))
    revoked = counted & denied(rows.sent) & allowed(rows.state) & ~denied(rows.due)
    changes = grants | (counted & denied(rows.sent) & ~denied(rows.state) & ~denied(rows.due))
    known = (rows.state | rows.due) != 0
    return Sent(
        int(np.count_nonzero(grants & ~again)),
        int(np.count_nonzero(again)),
        tuple(int(np.count_nonzero(revoked & (DENIED << shift))) for shift in SHIFTS),
        int(np.count_nonzero((changes != 0) & known)),
        int(np.count_nonzero((changes != 0) & ~known)),
    )


def with_sent(tally: Tally, day: Sent) -> Tally:
    """Return *tally* with what was sent in the last day counted too."""
    return replace(
        tally,
        new_grants=tally.new_grants + day.new_grants,
        re_grants=tally.re_grants + day.re_grants,
        revocations=[one + more for one, more in zip(tally.revocations, day.revocations, strict=True)],
        changed=tally.changed + day.changed,
    )


@dataclass(frozen=True)
class Past:
    """What earlier exports were like.

    *usual_grants* is the median of new grants in the last nights, *lost* the lost clients at the last applied export
    of this kind (None if there is none), *first* whether none was read since `init`, *day* what was sent in the last
    day.
    """

    usual_grants: float = 0.0
    lost: int | None = None
    first: bool = False
    day: Sent = NOTHING_SENT


@dataclass(frozen=True)
class Trip:
    """A guard that tripped: the count, and what it may not exceed; the channel for revocations."""

    guard: Guard
    count: int
    at_most: int
    channel: str = ""

    def __str__(self) -> str:
        """Return the guard and its numbers in words."""
        of = f" of {self.channel}" if self.channel else ""
        return f"{self.count:,} {self.guard}{of}, more than {self.at_most:,}"


@dataclass(frozen=True)
class Judgement:
    """Which guards tripped and what is held; *only_owed*: nothing but obligations may be sent."""

    trips: tuple[Trip, ...] = ()
    hold: Hold = FREE
    only_owed: bool = False


def at_most(floor: float, share: float, base: float) -> int:
    """Return the largest count that does not trip: the larger of a floor and a share of *base*."""
    return int(max(floor, round(share * base, 6)))  # 0.29 of 100 is 29, and not the 28.999… that floats make of it


def judge(tally: Tally, past: Past, limits: Thresholds, *, full: bool, accepted: bool = False) -> Judgement:
    """Return what may not be sent of an export without a person's approval, by what it asks for and the last day's.

    *full* is whether it states every client: then shares are of the clients that state a channel, else, where only
    changed clients are expected, of the snapshot. *accepted*: a person said that the ids are right.
    """
    tally = with_sent(tally, past.day)
    trips = []
    unknown = tally.unknown + past.day.unknown
    base = tally.stating if full else max(tally.stating, tally.snapshot)

    def check(guard: Guard, count: int, allowed: int, channel: str = "") -> bool:
        if count > allowed:
            trips.append(Trip(guard, count, allowed, channel))
        return count > allowed

    re_grants = check(
        Guard.RE_GRANTS, tally.re_grants, at_most(limits.re_grants, limits.re_grants_share, tally.snapshot)
    )
    usual = at_most(0, limits.new_grants_nights, past.usual_grants)
    new_grants = check(
        Guard.NEW_GRANTS,
        tally.new_grants,
        max(usual, at_most(limits.new_grants, limits.new_grants_share, tally.snapshot)),
    )
    revocations = 0
    for channel, shift, count, base_ in zip(CHANNELS, SHIFTS, tally.revocations, tally.allowed, strict=True):
        most = at_most(limits.revocations, limits.revocations_share, base_)
        revocations |= check(Guard.REVOCATIONS, count, most, channel) << shift
    only_owed = False
    if not past.first and not accepted:
        known = tally.known if full else base
        only_owed = check(Guard.CHANGED, tally.changed, at_most(limits.changed, limits.changed_share, known))
        only_owed |= check(Guard.UNKNOWN, unknown, at_most(limits.unknown, limits.unknown_share, base))
    if past.lost is not None:
        check(Guard.LOST, tally.lost, past.lost + at_most(limits.lost, limits.lost_share, base))
    return Judgement(tuple(trips), Hold(new_grants, re_grants, revocations), only_owed)
