"""The counts of a run, in one shape for files, terminal and `--json`, and the check that they add up."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import CHANNELS
from sync_job.consent.diff import Counts
from sync_job.consent.fold import Outcome
from sync_job.consent.rows import Lane, Rows, transitions
from sync_job.errors import CountsError

OUTCOMES = (Outcome.DELIVERED, Outcome.REFUSED, Outcome.EXHAUSTED, Outcome.DEFERRED)
_VALUES = ("nothing", "denied", "allowed")
Summary = dict[str, Any]


def decided(counts: Counts) -> Summary:
    """Return how the clients were decided; held and blocked also per channel."""
    found: Summary = dict(vars(counts))
    for name in ("held_channels", "blocked_channels"):
        found[name] = dict(zip(CHANNELS, found[name], strict=True))
    return found


def changes(rows: Rows) -> Summary:
    """Return the transition matrix per channel (from State to what is sent) and how many rows each lane has."""
    matrix = transitions(rows)
    return {
        "transitions": {
            channel: {
                was: {sent: int(matrix[place, i, j]) for j, sent in enumerate(_VALUES) if j}
                for i, was in enumerate(_VALUES)
            }
            for place, channel in enumerate(CHANNELS)
        },
        "lanes": {lane.name.lower(): int(np.count_nonzero(rows.lane == lane)) for lane in Lane},
    }


def outcomes(ended: npt.NDArray[np.uint8]) -> dict[str, int]:
    """Return how many rows ended each way."""
    found = np.bincount(ended, minlength=len(Outcome))
    return {outcome.name.lower(): int(found[outcome]) for outcome in OUTCOMES}


def added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of counts of the same names."""
    total = {outcome.name.lower(): 0 for outcome in OUTCOMES}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def check(summary: Mapping[str, Any]) -> None:
    """Hold that the counts of *summary* add up.

    Raises:
        CountsError: when they do not, which is a bug.
    """
    export, decisions, ended = summary.get("export"), summary.get("decided"), summary["outcomes"]
    if export:
        rows = export["clients"] - export["in_rejects_only"] + export["duplicates"] + export["rejects"]
        _hold("rows", export["rows"], rows)
    if decisions:
        fates = decisions["planned"] - decisions["planned_unstated"]
        fates += sum(decisions[name] for name in ("forgotten", "waiting", "blocked", "held", "unchanged"))
        _hold("clients stated", decisions["stated"], fates)
        if export:
            _hold("clients of the export", export["clients"], decisions["stated"])
    _hold("planned", summary["planned"], sum(ended.values()))


def check_received(found: Mapping[str, Any]) -> None:
    """Hold that each withdrawal that was received is in one of the counts of what became of it, and in no other.

    *found* is of a period, or of a list.

    Raises:
        CountsError: when it is not, which is a bug.
    """
    ended = sum(found.get(name, 0) for name in ("acknowledged", "open", "refused", "parked"))
    others: Mapping[str, int] = found["ended_otherwise"]
    _hold(
        "withdrawals received",
        found["received"] if "received" in found else found["rows"],
        ended + sum(others.values()),
    )
    _hold("none less than nothing", 0, sum(count < 0 for count in others.values()))


def _hold(what: str, whole: int, parts: int) -> None:
    if whole != parts:
        raise CountsError(f"{what}: {whole}, but its parts add up to {parts}. This is a bug in consent-sync.")


_IDS = re.compile(r"\d{4,}")  # a platform may name the client in what it says; summaries hold no ids


def masked(text: str) -> str:
    """Return what the platform said, without what may be a client's id."""
    return _IDS.sub("…", text)


def held_against(codes: Iterable[Summary], before: Iterable[Mapping[str, Any]]) -> tuple[list[Summary], list[Summary]]:
    """Return what the platform said, each with whether it is new *since* the run *before*, and what is gone since.

    Both are as `by_message` returns them. What ended well, or was not sent, is neither new nor gone.
    """
    told = {_said(one): one for one in before if one["outcome"] in _NO}
    now = [
        one | ({"since": "known" if _said(one) in told else "new"} if one["outcome"] in _NO else {}) for one in codes
    ]
    gone = told.keys() - {_said(one) for one in now}
    return now, [{name: told[said][name] for name in _SAID} for said in told if said in gone]


_NO = ("refused", "exhausted")
_SAID = ("outcome", "status", "code", "message")


def _said(one: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(one[name] for name in _SAID)


def by_message(codes: Iterable[Mapping[str, Any]]) -> list[Summary]:
    """Return how often each answer occurred in all legs together, the most frequent first, without ids."""
    found: dict[tuple[Any, ...], int] = {}
    for one in codes:
        key = one["outcome"], one["status"], one["code"], masked(str(one["message"]))
        found[key] = found.get(key, 0) + int(one["count"])
    rows = [dict(zip(_SAID, key, strict=True)) | {"count": count} for key, count in found.items()]
    return sorted(rows, key=lambda one: -int(one["count"]))
