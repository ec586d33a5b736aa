"""Whether an export is proven to be fresh: an old file must not undo a newer opt-out, so in doubt it grants nothing.

This judges an export as a whole. Whether it is newer than the newest denial of a client is decided per client, in
`rules.older`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from sync_job.consent.guards import Guard, Thresholds, Trip, at_most

# full: states every client; delta: clients that changed; part: a piece of a full export, such as repaired rejects
Kind = Literal["full", "delta", "part"]


class Doubt(StrEnum):
    """Why an export may not grant."""

    OLDER = "older than the last one"
    AGED = "too old"
    UNDATED = "undated"
    REPLAYED = "seen before"
    SHRUNKEN = "shrunken"
    REJECTS = "rejects"
    COLUMN = "missing column"
    RESTORED = "restored state"


@dataclass(frozen=True)
class Seen:
    """What an export shows of itself: clients, rows, rejects, and when it was made.

    *as_of* is the time of its oldest file and *newest* of its newest one, in epoch seconds, None if nothing tells.
    """

    as_of: float | None
    clients: int
    rows: int
    rejects: int
    newest: float | None = None

    @property
    def made(self) -> float | None:
        """When the newest of it was made."""
        return self.as_of if self.newest is None else self.newest


@dataclass(frozen=True)
class Before:
    """What was read before, whether or not something spoke against it.

    The newest as-of of the exports that this one must not be older than, whether its content was read before and
    another one of its kind since, and how many clients the last accepted full export had; None if there is none.
    """

    as_of: float | None = None
    replayed: bool = False
    clients: int | None = None


@dataclass(frozen=True)
class Finding:
    """A doubt in words, and the numbers where a guard counted."""

    doubt: Doubt
    why: str
    trip: Trip | None = None


def judge(
    seen: Seen,
    before: Before,
    *,
    dated: bool,
    max_age_s: float,
    now: float,
    full: bool,
    accepted: bool,
    limits: Thresholds,
) -> list[Finding]:
    """Return every reason for which the export may not grant; none where its freshness is proven.

    *dated* is whether the configuration says how an export's age is known, *full* whether the export states every
    client, *accepted* whether a person approved its number of clients.
    """
    found = []
    if dated and seen.as_of is None:
        found.append(Finding(Doubt.UNDATED, "nothing in the export says when it was made"))
    if dated and seen.as_of is not None and seen.made is not None:
        if before.as_of is not None and seen.made < before.as_of:
            by_h = (before.as_of - seen.made) / 3600
            found.append(Finding(Doubt.OLDER, f"it is {by_h:,.1f} h older than the newest export that was read"))
        if now - seen.as_of > max_age_s:
            age_h = (now - seen.as_of) / 3600
            found.append(Finding(Doubt.AGED, f"it is {age_h:,.1f} h old, more than max_age_h = {max_age_s / 3600:g}"))
    newer = dated and seen.made is not None and before.as_of is not None and seen.made > before.as_of
    if before.replayed and seen.clients and not newer:
        found.append(Finding(Doubt.REPLAYED, "this content was read before, and another one since"))
    if full and before.clients is not None and not accepted:
        fewer = before.clients - seen.clients
        most = at_most(limits.shrinkage, limits.shrinkage_share, before.clients)
        if fewer > most:
            trip = Trip(Guard.SHRINKAGE, fewer, most)
            why = (
                f"it has {seen.clients:,} clients, {fewer:,} fewer than the last accepted one, "
                f"more than {most:,}: was it cut short?"
            )
            found.append(Finding(Doubt.SHRUNKEN, why, trip))
    most = at_most(limits.rejects, limits.rejects_share, seen.rows)
    if seen.rejects > most:
        trip = Trip(Guard.REJECTS, seen.rejects, most)
        found.append(Finding(Doubt.REJECTS, f"{seen.rejects:,} of its rows are rejects, more than {most:,}", trip))
    return found
