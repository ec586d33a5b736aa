"""How many requests may be in flight at once: a number. What it learns from, and when, is decided here alone."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """A fixed number of requests in flight; `limiter` keeps to it."""

    value: int
