"""How sending went over time, in a few points however long it takes: what the report draws."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

MOST = 120


class Sample(NamedTuple):
    """How sending did *at* a moment (epoch seconds): rows *settled* so far, and how many a second lately."""

    at: float
    settled: int
    rate: float
    limit: float
    in_flight: int
    round_trip_s: float


@dataclass
class Samples:
    """Keeps at most MOST points, evenly spread: when there are too many, every second one goes."""

    points: list[Sample] = field(default_factory=list)
    _apart_s: float = 0.0

    def add(self, sample: Sample) -> None:
        """Keep a point, unless it is too close to the last one for the rest to fit."""
        if self.points and sample.at - self.points[-1].at < self._apart_s:
            return
        self.points.append(sample)
        if len(self.points) > MOST:
            self.points = self.points[::2]
            self._apart_s = 2 * (self.points[-1].at - self.points[0].at) / MOST


def joined(legs: Iterable[tuple[Iterable[Sample], int]]) -> list[Sample]:
    """Return at most MOST points of all legs, given with the rows that each settled: one run's, one after the other."""
    points: list[Sample] = []
    before = 0
    for own, settled in legs:
        points += [one._replace(settled=one.settled + before) for one in own]
        before += settled
    every = -(-len(points) // MOST)
    return points[:: max(1, every)]
