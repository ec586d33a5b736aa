"""When and how often a row is tried again: waits, what counts as an attempt, the budget, no shared state."""

import asyncio
import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_job.delivery.retry import (
    BUDGET_OVER_S,
    BUDGET_PER_S,
    BUDGET_SHARE,
    GARBLED_TRIES,
    LONGEST_WAIT_S,
    MULTIPLIER_S,
    Budget,
    Spent,
    TransientError,
    longest_wait_s,
    policy,
)
from sync_job.delivery.verdict import Kind, Verdict
from tests import virtual


class Highest(random.Random):
    """Draws the upper bound each time, so that a wait shows how long it may be."""

    def uniform(self, a: float, b: float) -> float:
        """Return the bound."""
        return max(a, b)


class Naps:
    """A sleep that takes no time and remembers how long it was to be."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Remember."""
        self.taken.append(seconds)
        await asyncio.sleep(0)


class Row:
    """A row whose attempts end as scripted; the last ending repeats."""

    def __init__(self, *endings: TransientError | None) -> None:
        self.spent = Spent()
        self.tries = 0
        self._endings = endings

    async def attempt(self) -> None:
        """End as the script says."""
        ending = self._endings[min(self.tries, len(self._endings) - 1)]
        self.tries += 1
        if ending is None:
            self.spent.count(Kind.DELIVERED)
            return
        self.spent.count(ending.verdict.kind)
        raise TransientError(ending.verdict, ending.retry_after_s)


def transient(kind: Kind = Kind.TRANSIENT, retry_after_s: float = 0.0) -> TransientError:
    """Return an error that is worth another try."""
    return TransientError(Verdict(kind, "scripted"), retry_after_s)


def full() -> Budget:
    """Return a budget of a second in which so much was sent that it is never the reason to give up."""
    budget = Budget(lambda: 0.0)
    for _ in range(100_000):
        budget.request()
    return budget


FULL = full()


def waits(row: Row, attempts: int, rng: random.Random, budget: Budget | None = None) -> list[float]:
    """Return the waits between the tries of *row*, run until it succeeds or gives up."""
    naps = Naps()

    async def main() -> None:
        with contextlib.suppress(TransientError):
            await policy(attempts, rng, naps, budget or FULL)(row.spent)(row.attempt)

    virtual.run(main())
    return naps.taken


def test_success_needs_no_second_try() -> None:
    """Nothing is waited for."""
    row = Row(None)
    assert waits(row, 5, random.Random(1)) == []
    assert row.tries == 1


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_row_is_tried_as_often_as_it_may(attempts: int) -> None:
    """The last failure is raised, and after it nothing is waited for."""
    row = Row(transient())
    assert len(waits(row, attempts, random.Random(1))) == attempts - 1
    assert row.tries == attempts


def test_last_failure_is_raised() -> None:
    """Whoever gave up learns why, without tenacity's own error around it."""
    row = Row(transient(), TransientError(Verdict(Kind.TRANSIENT, "the last")))

    async def main() -> None:
        await policy(2, random.Random(1), Naps(), FULL)(row.spent)(row.attempt)

    with pytest.raises(TransientError, match="the last"):
        virtual.run(main())


def test_other_errors_are_not_retried() -> None:
    """A bug comes out at once."""
    tries = []

    async def attempt() -> None:
        tries.append(1)
        raise ZeroDivisionError

    async def main() -> None:
        await policy(5, random.Random(1), Naps(), FULL)(Spent())(attempt)

    with pytest.raises(ZeroDivisionError):
        virtual.run(main())
    assert len(tries) == 1


def test_wait_may_double_up_to_its_cap() -> None:
    """The bound grows from the multiplier to half a minute, and stays."""
    taken = waits(Row(*[transient()] * 30), 30, Highest())
    assert taken == [min(LONGEST_WAIT_S, MULTIPLIER_S * 2.0**n) for n in range(29)]
    assert [longest_wait_s(n + 1) for n in range(29)] == taken
    assert longest_wait_s(100_000) == LONGEST_WAIT_S


def test_jitter_is_full() -> None:
    """Waits spread from none to the bound at each step, at the cap as well."""
    lines = [waits(Row(*[transient()] * 10), 10, random.Random(seed)) for seed in range(200)]
    for n, column in enumerate(zip(*lines, strict=True)):
        bound = min(LONGEST_WAIT_S, MULTIPLIER_S * 2.0**n)
        assert all(0 <= wait <= bound for wait in column)
        assert min(column) < 0.1 * bound
        assert max(column) > 0.9 * bound
        assert 0.4 * bound < sum(column) / len(column) < 0.6 * bound


def test_wait_is_the_larger_of_jitter_and_retry_after() -> None:
    """What the server asks for is never undercut, and does not shorten a longer wait."""
    taken = waits(Row(*[transient(retry_after_s=3.0)] * 8), 8, Highest())
    assert taken == [3.0, 3.0, 3.0, 4.0, 8.0, 16.0, 30.0]
    assert waits(Row(transient(retry_after_s=300.0), None), 8, random.Random(1)) == [300.0]


def test_busy_never_exhausts_a_row() -> None:
    """Overload uses up no attempt, however long it lasts."""
    row = Row(*[transient(Kind.BUSY)] * 1000, None)
    waited = waits(row, 1, random.Random(1))
    assert row.tries == 1001
    assert row.spent.attempts == 1  # the one that was delivered
    assert max(waited) <= LONGEST_WAIT_S


def test_garbled_answers_are_worth_few_tries() -> None:
    """Three in all, also with other failures in between, and never more than a row has attempts."""
    row = Row(transient(Kind.GARBLED))
    waits(row, 100, random.Random(1))
    assert row.tries == GARBLED_TRIES == 3
    mixed = Row(*[transient(kind) for kind in (Kind.GARBLED, Kind.TRANSIENT, Kind.BUSY, Kind.GARBLED, Kind.GARBLED)])
    waits(mixed, 100, random.Random(1))
    assert (mixed.tries, mixed.spent.attempts, mixed.spent.garbled) == (5, 4, 3)
    short = Row(transient(Kind.GARBLED))
    waits(short, 2, random.Random(1))
    assert short.tries == 2


def test_rows_do_not_share_their_state() -> None:
    """Many rows at once, of one policy: each has its own attempts and its own waits."""

    async def main() -> list[Row]:
        naps = Naps()
        for_row = policy(4, Highest(), naps, FULL)
        rows = [Row(*[transient()] * (n % 4), None) for n in range(40)]
        await asyncio.gather(*(for_row(row.spent)(row.attempt) for row in rows))
        assert sorted(naps.taken) == sorted(MULTIPLIER_S * 2.0**k for n in range(40) for k in range(n % 4))
        return rows

    rows = virtual.run(main())
    assert [row.tries for row in rows] == [n % 4 + 1 for n in range(40)]


def test_row_that_the_budget_does_not_allow_is_given_up() -> None:
    """Its first attempt was made, its failure comes out, and nothing is waited for."""
    budget = Budget(lambda: 0.0)
    while budget.take():
        pass
    row = Row(transient())
    assert waits(row, 5, random.Random(1), budget) == []
    assert (row.tries, row.spent.attempts) == (1, 1)


def test_row_out_of_attempts_takes_nothing_from_the_budget() -> None:
    """What is left of it is for rows that may be tried again."""
    budget = Budget(lambda: 0.0)
    for _ in range(50):
        waits(Row(transient()), 1, random.Random(1), budget)
    assert sum(iter(budget.take, False)) == BUDGET_PER_S * BUDGET_OVER_S


def test_each_retry_takes_one_from_the_budget() -> None:
    """Rows share it."""
    budget = Budget(lambda: 0.0)
    waits(Row(transient()), 31, random.Random(1), budget)
    waits(Row(transient()), 31, random.Random(1), budget)
    assert sum(iter(budget.take, False)) == BUDGET_PER_S * BUDGET_OVER_S - 60


def test_budget_is_a_share_of_the_requests_and_some_each_second() -> None:
    """A hundred over ten seconds where nothing was sent; with a thousand requests two hundred more."""
    budget = Budget(lambda: 7.0)
    for _ in range(1000):
        budget.request()
    assert sum(iter(budget.take, False)) == BUDGET_PER_S * BUDGET_OVER_S + BUDGET_SHARE * 1000 == 300


def test_budget_comes_back_ten_seconds_later() -> None:
    """Not before; and not twice."""
    time = [0.0]
    budget = Budget(lambda: time[0])
    assert sum(iter(budget.take, False)) == 100
    for time[0] in (1.0, 5.5, 9.99):
        assert not budget.take()
    time[0] = 10.0
    assert sum(iter(budget.take, False)) == 100


def test_budget_begins_with_nothing_sent_however_late_the_clock_starts() -> None:
    """A monotonic clock starts anywhere."""
    budget = Budget(lambda: 1e9 + 0.5)
    assert sum(iter(budget.take, False)) == 100


_STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.5, 9.0, 10.0, 11.0, 60.0, 1e6]), st.integers(0, 300), st.integers(0, 150)
    ),
    max_size=40,
)


@given(st.floats(0, 1e6), _STEPS)
def test_budget_is_that_of_a_list_of_everything(begin: float, steps: list[tuple[float, int, int]]) -> None:
    """Whatever is sent and asked for when: as if each request and retry were kept with its second."""
    now = begin
    budget = Budget(lambda: now)
    requests: list[tuple[int, int]] = []
    retries: list[tuple[int, int]] = []
    for passes_s, sent, asked in steps:
        now += passes_s
        second = int(now)
        for _ in range(sent):
            budget.request()
        requests.append((second, sent))
        recent = sum(count for at, count in requests if at > second - BUDGET_OVER_S)
        before = sum(count for at, count in retries if at > second - BUDGET_OVER_S)
        allowed = [before + more < BUDGET_SHARE * recent + BUDGET_PER_S * BUDGET_OVER_S for more in range(asked)]
        assert [budget.take() for _ in range(asked)] == allowed
        retries.append((second, sum(allowed)))
