"""What a sender made of a scenario, in figures. Pure."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf

from benchmarks.scenarios.catalogue import Scenario
from benchmarks.scenarios.endpoints import Seen

USED_S, USED = 0.5, 0.9  # capacity is used when, for so long, so much of it is
TAIL = 0.95  # of the rows; how the last ones run out is no part of what is settled


@dataclass(frozen=True)
class Figures:
    """What came of one scenario with one seed.

    *whole*: the ideal sender's time over this one's. *settled*: rows delivered while it was settled, over what could
    be. *overshoot*: the most in flight over what was needed then, less one; *over*: the same in requests. *most* and
    *in_flight*: the most, and the mean. *turned_away*: requests without a good answer. *recovery_s*: from the return
    of capacity until it is used, infinite if it never was; 0 where none returns.
    """

    whole: float
    settled: float
    overshoot: float
    over: int
    most: int
    in_flight: float
    per_s: float
    turned_away: int
    turned_away_share: float
    lost: int
    requests_per_row: float
    recovery_s: float


def measure(scenario: Scenario, seen: Seen, delivered: int) -> Figures:
    """Return the figures of a scenario that was played to its end."""
    took_s = seen.good_at[-1]
    overshoot, over = _overshoot(scenario, seen)
    return Figures(
        whole=scenario.ideal_s / took_s,
        settled=_settled(scenario, seen),
        overshoot=overshoot,
        over=over,
        most=max(in_flight for _, in_flight in seen.arrivals),
        in_flight=seen.request_seconds / took_s,
        per_s=len(seen.good_at) / took_s,
        turned_away=seen.turned_away,
        turned_away_share=seen.turned_away / seen.requests,
        lost=scenario.rows - delivered,
        requests_per_row=seen.requests / scenario.rows,
        recovery_s=max((_recovery_s(scenario, seen, at) for at in scenario.returns), default=0.0),
    )


def _delivered(seen: Seen, begin: float, end: float) -> int:
    return bisect_left(seen.good_at, end) - bisect_left(seen.good_at, begin)


def _by(seen: Seen, at: float) -> float:
    """Return how many rows were delivered by a time; those that came at once count as spread since the last before."""
    done = bisect_right(seen.good_at, at)
    if done == len(seen.good_at):
        return done
    last, following = seen.good_at[done - 1] if done else 0.0, seen.good_at[done]
    return done + (bisect_right(seen.good_at, following) - done) * (at - last) / (following - last)


def _settled(scenario: Scenario, seen: Seen) -> float:
    """Return the share of the capacity from *settles_s* after the start and each change on, until rows run out.

    Where they run out before, it is of the second half.
    """
    end = seen.good_at[int(len(seen.good_at) * TAIL)]
    if end <= scenario.settles_s:
        return (_by(seen, end) - _by(seen, end / 2)) / scenario.could(end / 2, end)
    marks = (0.0, *scenario.changes, inf)
    done = could = 0.0
    for since, until in pairwise(marks):
        begin, stop = since + scenario.settles_s, min(until, end)
        if stop > begin:
            done += _by(seen, stop) - _by(seen, begin)
            could += scenario.could(begin, stop)
    return done / could


def _overshoot(scenario: Scenario, seen: Seen) -> tuple[float, int]:
    """Return by how much the most in flight was over the need, as a share and in requests.

    For *settles_s* after a change, what was needed before it is allowed too: nobody can know at once.
    """
    share, requests = 0.0, 0
    for at, in_flight in seen.arrivals:
        need = ceil(max(scenario.need(at), scenario.need(max(0.0, _last_change(scenario, at)))) - 1e-9)
        share, requests = max(share, in_flight / need - 1), max(requests, in_flight - need)
    return share, requests


def _last_change(scenario: Scenario, at: float) -> float:
    """Return a moment before the change that was less than *settles_s* before *at*, or *at*."""
    return next((one - 0.01 for one in scenario.changes if one <= at < one + scenario.settles_s), at)


def _recovery_s(scenario: Scenario, seen: Seen, back: float) -> float:
    """Return how long after capacity came back it is used, from then on over `USED_S`; infinite if never."""
    wanted = USED * scenario.capacity(back) * USED_S
    begins = (back, *seen.good_at[bisect_left(seen.good_at, back) :])
    return next((at - back for at in begins if _delivered(seen, at, at + USED_S) >= wanted), inf)
