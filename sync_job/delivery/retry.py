"""When and how often a row is tried again: tenacity's stop and wait, fed with what the product knows of the row."""

import random
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from sync_job.delivery.verdict import Kind, Verdict

MULTIPLIER_S, LONGEST_WAIT_S = 0.5, 30.0
GARBLED_TRIES = 3  # an answer that does not parse is hardly ever cured by asking again
BUDGET_SHARE, BUDGET_PER_S, BUDGET_OVER_S = 0.2, 10, 10


class TransientError(Exception):
    """An attempt that is worth another one."""

    def __init__(self, verdict: Verdict, retry_after_s: float = 0.0) -> None:
        super().__init__(verdict.why)
        self.verdict = verdict
        self.retry_after_s = retry_after_s


class Spent:
    """How many attempts a row has used up; those that met an overloaded endpoint are not among them."""

    def __init__(self) -> None:
        self.attempts = 0
        self.garbled = 0
        self.busy = 0
        self.reset = False  # a kept connection was closed under it

    def count(self, kind: Kind) -> None:
        """Count an attempt that ended so."""
        self.attempts += kind is not Kind.BUSY
        self.garbled += kind is Kind.GARBLED
        self.busy += kind is Kind.BUSY


class Budget:
    """Retries that an endpoint may be asked for: a fifth of the requests and ten a second, over the last ten seconds.

    Where most requests fail, repeating each of them is load that nobody needs.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._requests = [0] * BUDGET_OVER_S
        self._retries = [0] * BUDGET_OVER_S
        self._second = int(clock())

    def request(self) -> None:
        """Count a request."""
        second = int(self._clock())
        if second != self._second:
            self._pass_to(second)
        self._requests[second % BUDGET_OVER_S] += 1

    def take(self) -> bool:
        """Return whether one more retry is within the budget, and count it if it is."""
        second = int(self._clock())
        self._pass_to(second)
        within = sum(self._retries) < BUDGET_SHARE * sum(self._requests) + BUDGET_PER_S * BUDGET_OVER_S
        self._retries[second % BUDGET_OVER_S] += within
        return within

    def _pass_to(self, second: int) -> None:
        for passed in range(self._second + 1, min(second, self._second + BUDGET_OVER_S) + 1):
            self._requests[passed % BUDGET_OVER_S] = self._retries[passed % BUDGET_OVER_S] = 0
        self._second = second


def longest_wait_s(tries: int) -> float:
    """Return the bound of the wait after so many tries; the wait itself is drawn evenly from nothing to it."""
    return min(LONGEST_WAIT_S, MULTIPLIER_S * 2.0 ** min(tries - 1, 16))


def policy(
    attempts: int, rng: random.Random, sleep: Callable[[float], Awaitable[None]], budget: Budget
) -> Callable[[Spent], AsyncRetrying]:
    """Return the maker of a row's retry policy: up to *attempts*, exponential waits with full jitter, within *budget*.

    Each row needs its own, because tenacity keeps the state of a call in the policy.
    """

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, TransientError)  # noqa: S101 - the only error that is retried
        return max(rng.uniform(0, longest_wait_s(state.attempt_number)), error.retry_after_s)

    base = AsyncRetrying(sleep=sleep, wait=wait, retry=retry_if_exception_type(TransientError), reraise=True)

    def for_row(spent: Spent) -> AsyncRetrying:
        def stop(_: RetryCallState) -> bool:
            return spent.attempts >= attempts or spent.garbled >= GARBLED_TRIES or not budget.take()

        return base.copy(stop=stop)

    return for_row
