"""Which request meets which fault, and how long it takes: pure functions of its number, a seed and a schedule.

What each fault does to a connection is left to `server.py`.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """What can go wrong with a request that is in order; its update is applied only where this says so."""

    RESET_BEFORE = "reset-before"  # the connection is reset
    RESET_AFTER = "reset-after"  # applied, then the connection is reset
    STALL = "stall"  # applied, and no answer until the client gives up
    LATE = "late"  # no answer, and applied `late_s` later, whether or not the client still waits
    UNAVAILABLE = "unavailable"  # 503
    UNAVAILABLE_RETRY_AFTER = "unavailable-retry-after"  # 503 with Retry-After
    TOO_MANY = "too-many"  # 429
    TOO_MANY_RETRY_AFTER = "too-many-retry-after"  # 429 with Retry-After
    ERROR_BEFORE = "error-before"  # 500
    ERROR_AFTER = "error-after"  # applied, then 500
    REFUSE = "refuse"  # 200 with an ErrorCode that is not 0
    GARBAGE = "garbage"  # 200 with an HTML page, as a proxy answers
    REDIRECT = "redirect"  # 302 to a login page that answers 200 to whoever follows
    UNAUTHORISED = "unauthorised"  # 401
    FORBIDDEN = "forbidden"  # 403


Script = Callable[[int, int], Fault | None]


def listed(faults: Sequence[Fault | None]) -> Script:
    """Return the script in which the first request meets the first of *faults*, and those after the last none."""
    fixed = tuple(faults)
    return lambda number, client: fixed[number - 1] if number <= len(fixed) else None


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which request meets which fault. The same seed and number always give the same.

    A *script*, called with the request's number and client, decides alone where there is one. Otherwise a fault of
    *every* comes with each multiple of its number, the first that fits; and to the rest come those of *rates*,
    each with its probability. Numbers count from 1, in the order of arrival.

    Raises:
        ValueError: when a probability is negative, they add to more than 1, or *every* holds less than 1.
    """

    seed: int = 0
    rates: Mapping[Fault, float] = field(default_factory=dict)
    every: Mapping[Fault, int] = field(default_factory=dict)
    script: Script | None = None
    latency_s: float = 0.0
    jitter_s: float = 0.0

    def __post_init__(self) -> None:
        if any(rate < 0 for rate in self.rates.values()) or sum(self.rates.values()) > 1 + 1e-9:
            raise ValueError("fault rates are probabilities: none below 0, together at most 1")
        if any(count < 1 for count in self.every.values()):
            raise ValueError("a fault comes with every Nth request, N no less than 1")
        if self.latency_s < 0 or self.jitter_s < 0:
            raise ValueError("latency and jitter are no shorter than 0")

    def choose(self, number: int, client: int = 0) -> Fault | None:
        """Return the fault that request *number*, for *client*, meets."""
        if self.script is not None:
            return self.script(number, client)
        for fault, count in self.every.items():
            if number % count == 0:
                return fault
        if self.rates:
            left = self._draw(number, 0).random()
            for fault, rate in self.rates.items():
                left -= rate
                if left < 0:
                    return fault
        return None

    def delay_s(self, number: int) -> float:
        """Return how long request *number* takes: the latency, and an exponential jitter of the given mean."""
        if not self.jitter_s:
            return self.latency_s
        return self.latency_s + self._draw(number, 1).expovariate(1 / self.jitter_s)

    def _draw(self, number: int, stream: int) -> random.Random:
        # A generator a request, not one for all: what a request meets must not depend on those before it.
        return random.Random((self.seed << 64) | (number << 1) | stream)  # noqa: S311 - no secret depends on it
