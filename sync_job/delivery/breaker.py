"""When an endpoint that answers nothing well is left alone, and when it is asked again. Pure."""

from dataclasses import dataclass, replace
from typing import Self

WAITS_S = (0.5, 1.0)  # before the first probes; the last one repeats
PATIENT_FOR_S = 600.0  # from then on an outage is long, and probes come
LONG_WAIT_S = 60.0  # apart
JITTER = 0.2  # of each wait, up or down, so that several senders do not knock together
LEAST_BAD = 5  # answers in a row without a good one that open it, at least
GOOD_TO_CLOSE = 3


@dataclass(frozen=True, slots=True)
class Breaker:
    """Closed while *since* is none; open until *until*; then one probe at a time, until enough were good."""

    bad: int = 0
    since: float | None = None
    until: float = 0.0
    probes: int = 0
    good: int = 0

    @property
    def is_open(self) -> bool:
        """Whether requests are held back, but for one probe at a time."""
        return self.since is not None

    def after(self, *, good: bool, allowed: float, quiet: bool, now: float, draw: float) -> Self:
        """Return what follows from one more answer.

        *allowed* is how many might be in flight, *quiet* that nothing good has come for longer than an answer takes,
        *now* in monotonic seconds, *draw* a random number from 0 to 1.
        """
        if self.since is None:
            if good:
                return replace(self, bad=0) if self.bad else self
            if self.bad + 1 < max(LEAST_BAD, allowed) or not quiet:
                return replace(self, bad=self.bad + 1)
            return replace(self, bad=0, since=now, until=now + _wait_s(0, draw), probes=0, good=0)
        if good:
            if self.good + 1 < GOOD_TO_CLOSE:
                return replace(self, good=self.good + 1)
            return type(self)()
        if now < self.until:
            return self  # it was sent before
        probes = self.probes + 1
        wait_s = _wait_s(probes, draw) if now - self.since < PATIENT_FOR_S else LONG_WAIT_S * _jitter(draw)
        return replace(self, until=now + wait_s, probes=probes, good=0)


def _wait_s(probes: int, draw: float) -> float:
    return WAITS_S[min(probes, len(WAITS_S) - 1)] * _jitter(draw)


def _jitter(draw: float) -> float:
    return 1 - JITTER + 2 * JITTER * draw
