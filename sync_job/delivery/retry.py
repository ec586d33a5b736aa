"""When and how often a row is tried again: tenacity's stop and wait, fed with what the product knows of the row."""

import random
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from sync_job.delivery.verdict import Kind, Verdict

MULTIPLIER_S, LONGEST_WAIT_S = 0.5, 30.0
GARBLED_TRIES = 3  # an answer that does not parse is hardly ever cured by asking again


class TransientError(Exception):
    """An attempt that is worth another one."""

    def __init__(self, verdict: Verdict, retry_after_s: float = 0.0, *, at_once: bool = False) -> None:
        super().__init__(verdict.why)
        self.verdict = verdict
        self.retry_after_s = retry_after_s
        self.at_once = at_once


class Spent:
    """How many attempts a row has used up; those that met an overloaded endpoint are not among them."""

    def __init__(self) -> None:
        self.attempts = 0
        self.garbled = 0

    def count(self, kind: Kind) -> None:
        """Count an attempt that ended so."""
        self.attempts += kind is not Kind.BUSY
        self.garbled += kind is Kind.GARBLED


def policy(
    attempts: int, rng: random.Random, sleep: Callable[[float], Awaitable[None]]
) -> Callable[[Spent], AsyncRetrying]:
    """Return the maker of a row's retry policy: up to *attempts*, exponential waits with full jitter.

    Each row needs its own, because tenacity keeps the state of a call in the policy.
    """

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, TransientError)  # noqa: S101 - the only error that is retried
        if error.at_once:
            return 0.0
        longest = min(LONGEST_WAIT_S, MULTIPLIER_S * 2.0 ** min(state.attempt_number - 1, 16))
        return max(rng.uniform(0, longest), error.retry_after_s)

    base = AsyncRetrying(sleep=sleep, wait=wait, retry=retry_if_exception_type(TransientError), reraise=True)

    def for_row(spent: Spent) -> AsyncRetrying:
        def stop(_: RetryCallState) -> bool:
            return spent.attempts >= attempts or spent.garbled >= GARBLED_TRIES

        return base.copy(stop=stop)

    return for_row
