"""Whether an export is proven to be fresh: an old file must not undo a newer opt-out, so in doubt it grants nothing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from sync_job.consent.guards import Guard, Thresholds, Trip, at_most

# full: states every client; delta: changed clients only; part: a piece, such as repaired rejects, of no age
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
    """What an export shows of itself: as-of in epoch seconds (none where it has none), clients, rows, rejects."""

    as_of: float | None
    clients: int
    rows: int
    rejects: int


@dataclass(frozen=True)
class Before:
    """What was applied before.

    The newest as-of, whether this content was and another one since, and how many clients the last accepted full
    export had; none where there is none.
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
    if dated and seen.as_of is not None:
        if before.as_of is not None and seen.as_of < before.as_of:
            by_h = (before.as_of - seen.as_of) / 3600
            found.append(Finding(Doubt.OLDER, f"it is {by_h:,.1f} h older than the last applied export"))
        if now - seen.as_of > max_age_s:
            age_h = (now - seen.as_of) / 3600
            found.append(Finding(Doubt.AGED, f"it is {age_h:,.1f} h old, more than max_age_h = {max_age_s / 3600:g}"))
    if before.replayed and not (
        dated and seen.as_of is not None and before.as_of is not None and seen.as_of > before.as_of
    ):
        found.append(Finding(Doubt.REPLAYED, "this content was applied before, and another one since"))
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
