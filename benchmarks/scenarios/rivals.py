"""The laws to compare with, written from their published descriptions; they run in the product's own workers and gate.

They get what the gate offers (rounds, and slots of requests that are never answered), but no pacing and no breaker:
those are no part of what was published. A round of the gate is about one and a half round trips, and each law takes
one step a round, as its publication has it take one a round trip or a sampling window.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from benchmarks.scenarios.catalogue import Scenario
from benchmarks.scenarios.play import Contender
from sync_job.delivery.limit import Fixed, Law, Round

# Where they begin is part of their publications, and suits these scenarios; ours begins at 1.
TCP_START = 10.0  # RFC 6928
NETFLIX_START = 20.0


@dataclass(frozen=True, slots=True)
class Aimd:
    """As TCP (RFC 5681): doubled each round until requests are turned away, from then on one more a round.

    Turned away, it goes on with 0.7 of its limit (as CUBIC, RFC 8312; Reno's half delivers less).
    """

    ceiling: float
    value: float
    slow_start: bool = True
    paced: bool = False
    met: bool = False

    def after(self, round_: Round) -> Self:
        """Return the limit that follows from one more round."""
        if round_.busy:
            return replace(self, value=max(1.0, 0.7 * self.value), slow_start=False)
        if not round_.answers or not round_.reached:
            return self
        grown = 2 * self.value if self.slow_start else self.value + 1
        return replace(self, value=min(self.ceiling, grown))

    def after_outage(self, throttled: float, rests: int) -> Self:
        """Return the same."""
        return self


@dataclass(frozen=True, slots=True)
class Vegas:
    """As Netflix's concurrency-limits has it: by an estimate of the queue, from the least round trip.

    The queue is L (1 - least / latest). Up to log L of it the limit grows by 6 log L, up to 3 log L by log L; above
    6 log L it shrinks by log L (to the base of 10, and at least 1). The least round trip is learned anew after 30
    times the limit of answers. Turned away, it goes on with 3/4, as TCP Vegas does.
    """

    ceiling: float
    value: float
    smoothing: float = 1.0
    least_s: float = math.inf
    answers: int = 0
    paced: bool = False
    met: bool = False

    def after(self, round_: Round) -> Self:
        """Return the limit that follows from one more round."""
        if round_.busy:
            return replace(self, value=max(1.0, 0.75 * self.value))
        if not round_.answers:
            return self
        latest_s = math.exp(round_.mean)
        answers = self.answers + round_.answers
        anew = answers > 30 * self.value
        now = replace(self, answers=0 if anew else answers, least_s=latest_s if anew else min(self.least_s, latest_s))
        return replace(now, value=now._next(latest_s)) if round_.reached else now

    def _next(self, latest_s: float) -> float:
        queue = math.ceil(self.value * (1 - self.least_s / latest_s))
        log = max(1, int(math.log10(self.value)))
        step = 0
        if queue <= log:
            step = 6 * log
        elif queue < 3 * log:
            step = log
        elif queue > 6 * log:
            step = -log
        return self.value + self.smoothing * (min(self.ceiling, max(1.0, self.value + step)) - self.value)

    def after_outage(self, throttled: float, rests: int) -> Self:
        """Return the same."""
        return self


@dataclass(frozen=True, slots=True)
class Gradient2:
    """As Netflix's concurrency-limits has it: by the latest round trip against the mean of the last 600 answers.

    The gradient, 1.5 times the mean over the latest within 1/2 and 1, is what stays of the limit, and a queue of 4 is
    added; a fifth of the way is taken at once. Where the mean is over twice the latest, it shrinks by a twentieth. It
    was published without a word on being turned away; here it goes on with 0.9 then, as its predecessor Gradient.
    """

    ceiling: float
    value: float
    mean_s: float = 0.0
    answers: int = 0
    paced: bool = False
    met: bool = False

    def after(self, round_: Round) -> Self:
        """Return the limit that follows from one more round."""
        if round_.busy:
            return replace(self, value=max(1.0, 0.9 * self.value))
        if not round_.answers:
            return self
        latest_s = math.exp(round_.mean)
        answers = self.answers + round_.answers
        weight = round_.answers / answers if answers <= 10 else 1 - (1 - 2 / 601) ** round_.answers
        mean_s = self.mean_s + weight * (latest_s - self.mean_s)
        if mean_s > 2 * latest_s:
            mean_s *= 0.95
        now = replace(self, mean_s=mean_s, answers=answers)
        if not round_.reached:
            return now
        gradient = max(0.5, min(1.0, 1.5 * mean_s / latest_s))
        value = 0.8 * self.value + 0.2 * (self.value * gradient + 4)
        return replace(now, value=min(self.ceiling, max(1.0, value)))

    def after_outage(self, throttled: float, rests: int) -> Self:
        """Return the same."""
        return self


def _fixed(at: int) -> Callable[[Scenario], Law]:
    """Return a fixed limit for a scenario.

    The ceiling is for those that learn, so it does not hold for this one, but where it is the scenario itself.
    """
    return lambda scenario: Fixed(float(min(at, scenario.ceiling) if scenario.name.startswith("fixed-") else at))


def _starting(kind: Callable[[float, float], Law], at: float) -> Callable[[Scenario], Law]:
    return lambda scenario: kind(scenario.ceiling, min(at, scenario.ceiling))


RIVALS = (
    Contender("Fixed(8)", _fixed(8), guarded=False),
    Contender("Fixed(64)", _fixed(64), guarded=False),
    Contender("AIMD", _starting(Aimd, TCP_START), guarded=False),
    Contender("Vegas", _starting(Vegas, NETFLIX_START), guarded=False),
    Contender("Gradient2", _starting(Gradient2, NETFLIX_START), guarded=False),
)
