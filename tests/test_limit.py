"""The law, a pure value: its bounds, when it grows and shrinks, what refusals do, and what round trips tell it."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync_job.delivery.limit import (
    ANSWERS,
    GROWTH_PAYS,
    KEPT,
    LEAST,
    LONGEST_REST_ROUNDS,
    MEMORY,
    REST_ROUNDS,
    SHORT_REST_ROUNDS,
    TRIAL_ROUNDS,
    Fixed,
    Limit,
    Round,
    elasticity,
)

RTT_S = 0.1
Steps = tuple[list[Round], list[tuple[float, int] | None], list[bool]]


def answered(limit: float, times: Sequence[float], *, reached: bool = True) -> Round:
    """Return the round in which requests took such *times*."""
    logs = [math.log(time) for time in times]
    mean = sum(logs) / len(logs)
    return Round(limit, len(logs), mean, sum((y - mean) ** 2 for y in logs), reached=reached)


def played(
    law: Limit, rtt_s: Callable[[float], float], rounds: int, noise: float = 0.0, seed: int = 1
) -> Iterator[Limit]:
    """Yield the limits that follow, where a request takes so long under a limit, times some noise."""
    rng = random.Random(seed)
    for _ in range(rounds):
        many = max(2, math.ceil(law.value / 2))
        law = law.after(answered(law.value, [rtt_s(law.value) * math.exp(rng.gauss(0, noise)) for _ in range(many)]))
        yield law


def queue(capacity: float) -> Callable[[float], float]:
    """Return the round trips of an endpoint that does so many at once, and lets the others wait."""
    return lambda limit: RTT_S * max(1.0, limit / capacity)


# ---- any endpoint at all -------------------------------------------------------------------------------------------

_ROUNDS = st.lists(
    st.builds(
        Round,
        limit=st.just(0.0),
        answers=st.integers(0, 300),
        mean=st.floats(-8, 4),
        spread=st.floats(0, 50),
        missing=st.sampled_from([0, 0, 0, 1, 7]),
        busy=st.sampled_from([0, 0, 0, 1]),
        delivered=st.floats(0, 300),
        reached=st.sampled_from([True, True, True, False]),
        rests=st.sampled_from([0, 0, 0, 5, 1000]),
    ),
    max_size=30,
)
_AFTER = st.one_of(st.none(), st.tuples(st.sampled_from([0.0, 0.001, 0.5, 3.0, 80.0]), st.integers(0, 500)))
_STEPS = st.tuples(_ROUNDS, st.lists(_AFTER, max_size=40), st.lists(st.booleans(), min_size=40, max_size=40))
_LAWS = st.builds(Limit.starting, st.floats(-5, 2000), st.sampled_from([1.0, 2.0, 7.5, 64.0, 1000.0]))


def walked(law: Limit, steps: Steps) -> Iterator[tuple[Limit, Round | None, Limit]]:
    """Yield law, round and what follows, for rounds of that law or of the one before; and for outages none."""
    rounds, outages, late = steps
    was = law.value
    for at, round_ in enumerate(rounds):
        mine = replace(round_, limit=was if late[at] else law.value)
        was = law.value
        after = law.after(mine)
        yield law, mine, after
        law = after
        if at < len(outages) and (outage := outages[at]) is not None:
            after = law.after_outage(*outage)
            yield law, None, after
            law = after


@settings(max_examples=40, deadline=None)
@given(_LAWS, _STEPS)
def test_the_limit_stays_within_its_bounds(law: Limit, steps: Steps) -> None:
    """Above nothing, up to the ceiling, never below the least pace, whatever is answered; and it is a number."""
    for _, _, after in walked(law, steps):
        assert LEAST <= after.value <= law.ceiling
        assert LEAST <= after.base <= law.ceiling
        assert after.ceiling == law.ceiling
        assert len(after.history) <= MEMORY


@settings(max_examples=40, deadline=None)
@given(_LAWS, _STEPS)
def test_the_law_is_pure(law: Limit, steps: Steps) -> None:
    """The same round makes the same of it, and the old value stays what it was."""
    for before, round_, after in walked(law, steps):
        was = repr(before)
        again = before.after(round_) if round_ is not None else None
        assert again is None or again == after
        assert repr(before) == was


@settings(max_examples=40, deadline=None)
@given(_LAWS, _STEPS)
def test_nothing_is_tried_that_was_not_reached(law: Limit, steps: Steps) -> None:
    """An idle pipe says nothing about the endpoint: what has paid stays, and a trial ends."""
    for before, round_, after in walked(law, steps):
        if round_ is not None and not round_.reached and not round_.busy and round_.answers:
            assert after.value == after.base == before.base


@settings(max_examples=40, deadline=None)
@given(_LAWS, _STEPS)
def test_a_round_without_answers_says_nothing(law: Limit, steps: Steps) -> None:
    """Nothing follows from nothing."""
    for before, round_, after in walked(law, steps):
        if round_ is not None and not round_.busy and not round_.answers:
            assert after == before


@settings(max_examples=40, deadline=None)
@given(_LAWS, _STEPS)
def test_a_refusal_at_most_halves_what_has_paid(law: Limit, steps: Steps) -> None:
    """Unless nothing at all was delivered, or a pause came with it; it never raises, and from then on it paces."""
    for before, round_, after in walked(law, steps):
        if round_ is None or not round_.busy:
            continue
        assert after.paced
        assert after.value == after.base <= before.base
        if round_.delivered and not round_.rests:
            assert after.base >= before.base / 2 or after.base >= 1.0
        if not round_.delivered:
            assert after.base >= min(1.0, before.base)


@settings(max_examples=40, deadline=None)
@given(_LAWS, _STEPS)
def test_a_refusal_on_trial_returns_to_what_has_paid(law: Limit, steps: Steps) -> None:
    """It was the trial that was too much, not what was before it."""
    for before, round_, after in walked(law, steps):
        if round_ is not None and round_.busy and round_.limit > before.base and not round_.rests:
            assert after.value == after.base == before.base


@settings(max_examples=40, deadline=None)
@given(_LAWS, _STEPS)
def test_what_has_paid_grows_only_by_a_trial_of_it(law: Limit, steps: Steps) -> None:
    """No base is ever one that was not the value before; and no trial is of more than half above the base."""
    for before, round_, after in walked(law, steps):
        if after.base > before.base:
            assert round_ is not None
            assert after.base == before.value
        assert after.value <= max(1.5 * after.base, after.base + 1) + 1e-9


@settings(max_examples=40, deadline=None)
@given(_LAWS, _STEPS)
def test_rests_stay_within_their_longest(law: Limit, steps: Steps) -> None:
    """But for those that a pause or an outage has been worth."""
    worth = 0
    for _, round_, after in walked(law, steps):
        worth = max(worth, round_.rests if round_ is not None else 500)
        assert 0 <= after.rest <= max(LONGEST_REST_ROUNDS, worth)
        assert REST_ROUNDS <= after.patience <= LONGEST_REST_ROUNDS


# ---- the start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "ceiling", "value"),
    [(-3, 64, 1), (0, 64, 1), (0.4, 64, 1), (1, 64, 1), (20.5, 64, 20.5), (65, 64, 64), (5, 1, 1)],
)
def test_it_starts_within_one_and_the_ceiling(at: float, ceiling: float, value: float) -> None:
    """Whatever was learned last time; and nothing is on trial, paced or met yet."""
    law = Limit.starting(at, ceiling)
    assert (law.value, law.base, law.paced, law.met) == (value, value, False, False)


def test_a_fixed_limit_learns_nothing() -> None:
    """Neither from rounds nor from outages."""
    law = Fixed(7)
    assert law.after(Round(7, 10, -2.0, 0.1)) == law
    assert law.after(Round(7, busy=1)) == law
    assert law.after_outage(3.0, 10) == law
    assert (law.value, law.paced, law.met) == (7, False, False)


# ---- growing and shrinking -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("capacity", [4, 16, 50])
def test_it_finds_how_many_do_well(capacity: int, noise: float) -> None:
    """Where more only wait, it stays near what the endpoint does at once: not far below it, nor far above."""
    late = [law.base for law in played(Limit.starting(1, 200), queue(capacity), 400, noise)][200:]
    assert 0.8 * capacity <= sum(late) / len(late) <= 1.6 * capacity
    assert max(late) <= 2.2 * capacity


def test_it_grows_to_the_ceiling_where_more_is_delivered() -> None:
    """And says that it has not met a limit."""
    *_, law = played(Limit.starting(1, 64), lambda _: RTT_S, 80)
    assert law.base == 64
    assert not law.met


def test_it_goes_back_when_the_endpoint_does_less() -> None:
    """A tenth of the capacity: it shrinks step by step, without a single refusal; and grows again afterwards."""
    *_, law = played(Limit.starting(1, 200), queue(40), 200)
    assert law.base >= 32
    *_, law = played(law, queue(4), 300)
    assert law.base <= 8
    *_, law = played(law, queue(40), 300)
    assert law.base >= 32


def on_trial(elastic: float, rounds: int = 1, *, missing: int = 0, noise: float = 0.0) -> Limit:
    """Return what follows from a trial of more than 10, where round trips grow so with the limit."""
    law = Limit(ceiling=100, value=10, base=10)
    law = law.after(answered(10, [RTT_S] * 60))
    assert law.value > law.base == 10
    rng = random.Random(1)
    for _ in range(rounds):
        took_s = RTT_S * (law.value / 10) ** elastic
        round_ = answered(law.value, [took_s * math.exp(rng.gauss(0, noise)) for _ in range(60)])
        law = law.after(replace(round_, missing=missing))
    return law


@pytest.mark.parametrize(
    ("elastic", "pays"), [(0.0, True), (GROWTH_PAYS - 0.1, True), (GROWTH_PAYS + 0.1, False), (1.0, False)]
)
def test_growth_is_a_trial_that_has_to_pay(elastic: float, pays: bool) -> None:
    """It stays if goodput rose by 0.4 of what the limit did; else the limit is what it was, and has been met."""
    law = on_trial(elastic, TRIAL_ROUNDS + 1 if not pays else 1)
    assert (law.base > 10, law.met) == (pays, not pays)
    assert pays or law.value <= 10


def test_a_trial_with_a_request_missing_has_failed() -> None:
    """Whatever the others took: what is never answered is worse than what waits."""
    law = on_trial(0.0, missing=1)
    assert (law.value, law.base, law.met) == (10, 10, True)


def test_a_trial_that_is_not_clear_goes_on_and_is_decided_after_some_rounds() -> None:
    """Noise does not decide in the first round, and does not hold the answer up for ever."""
    law = Limit(ceiling=100, value=10, base=10).after(answered(10, [0.05, 0.2] * 2))
    tried = law.value
    rounds = 0
    while law.value == tried and law.base == 10:
        law = law.after(answered(tried, [0.06, 0.25]))
        rounds += 1
        assert rounds <= TRIAL_ROUNDS + 1
    assert rounds > 1
    assert law.base == 10


def test_each_trial_that_fails_doubles_the_rest_up_to_the_longest() -> None:
    """Where more never does, it is found out ever less often; the rests are the rounds under what has paid."""
    law = Limit(ceiling=200, value=20, base=20)
    values = [one.value for one in played(law, lambda limit: RTT_S * max(1.0, limit / 20) ** 3, 300)]
    assert {value for value in values if value > 20}
    rests = [len(list(run)) for resting, run in groupby(values, lambda value: value == 20) if resting]
    doubling = [min(REST_ROUNDS * 2**n, LONGEST_REST_ROUNDS) for n in range(len(rests) - 1)]
    assert rests[:-1] == doubling


def test_rests_are_short_while_much_more_went_well_before() -> None:
    """On the way back up, after the endpoint was slow for a while."""
    law = Limit(ceiling=200, value=20, base=20, known=100, patience=LONGEST_REST_ROUNDS)
    assert law.after(Round(25, busy=1, delivered=19)).rest == SHORT_REST_ROUNDS
    assert replace(law, known=20.0).after(Round(25, busy=1, delivered=19)).rest == LONGEST_REST_ROUNDS


def test_a_growth_that_pays_far_beyond_the_edge_forgets_its_patience() -> None:
    """The endpoint is another one than that which turned it away."""
    law = Limit(ceiling=200, value=12, base=10, edge=5, patience=LONGEST_REST_ROUNDS)
    law = replace(law, history=(answered(10, [RTT_S] * 50),)).after(answered(12, [RTT_S] * 50))
    assert (law.base, law.patience) == (12, REST_ROUNDS)


def test_while_it_rests_it_goes_back_to_what_was_well() -> None:
    """Up to the edge at which requests were turned away a trial need not wait, nor go beyond."""
    law = Limit(ceiling=200, value=10, base=10, edge=16, rest=9, patience=12)
    values = [one.value for one in played(law, lambda _: RTT_S, 7)]
    assert max(values) == 16
    assert values[0] > 10


def test_at_the_ceiling_it_looks_whether_less_would_do() -> None:
    """Above there is no room; below, the round trips may be shorter."""
    law = Limit(ceiling=40, value=40, base=40)
    *_, law = played(law, queue(10), 300)
    assert law.base < 20
    *_, flat = played(Limit(ceiling=40, value=40, base=40), lambda _: RTT_S, 300)
    assert flat.base == 40


def test_below_one_it_does_not_try_less() -> None:
    """A pace is what a rate limit is for; round trips have nothing to say to it."""
    law = Limit(ceiling=64, value=0.5, base=0.5, paced=True)
    assert min(one.value for one in played(law, lambda limit: RTT_S * limit, 50)) == 0.5


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_refused_at_what_has_paid_it_keeps_most_of_what_was_delivered() -> None:
    """Not a blind factor: what was answered well in flight says how many do."""
    law = Limit(ceiling=64, value=20, base=20, known=20).after(Round(20, busy=1, delivered=16))
    assert law.value == law.base == pytest.approx(KEPT * 16)
    assert law.paced
    assert law.met
    assert law.value < law.edge <= 16


def test_refused_on_trial_it_returns_to_what_has_paid() -> None:
    """However little was delivered: it was the trial that was too much. An earlier request says more."""
    trial = Limit(ceiling=64, value=12, base=10)
    assert trial.after(Round(12, busy=1, delivered=3)).value == 10
    assert trial.after(Round(10, busy=1, delivered=8)).value == pytest.approx(KEPT * 8)


def test_refused_it_returns_to_what_was_before_the_last_growth() -> None:
    """Where that is delivered: the last growth was one too many."""
    grown = Limit(ceiling=64, value=12, base=12, before=10)
    assert grown.after(Round(12, busy=1, delivered=9.9)).value == 10
    assert grown.after(Round(12, busy=1, delivered=7)).value == pytest.approx(KEPT * 7)


def test_refused_it_never_goes_up() -> None:
    """Also where the last change was a shrinking, so that there was more before."""
    shrunk = Limit(ceiling=64, value=8, base=8, before=10)
    assert shrunk.after(Round(8, busy=1, delivered=9.6)).value <= 8


def test_refused_with_nothing_delivered_it_begins_at_one() -> None:
    """Or stays where it is below that."""
    assert Limit(ceiling=64, value=40, base=40).after(Round(40, busy=1)).value == 1
    assert Limit(ceiling=64, value=0.3, base=0.3).after(Round(0.3, busy=1)).value == 0.3


def test_refused_with_a_pause_it_goes_as_low_as_what_was_delivered_and_rests_for_it() -> None:
    """A pause costs so much that it must not come again soon."""
    law = Limit(ceiling=64, value=40, base=40).after(Round(40, busy=1, delivered=2, rests=1000))
    assert law.value == pytest.approx(KEPT * 2)
    assert law.rest == 1000
    trial = Limit(ceiling=64, value=48, base=40).after(Round(48, busy=1, delivered=2, rests=1000))
    assert trial.value == pytest.approx(KEPT * 2)


# ---- outages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "after"), [(40, 20), (1.5, 1), (1, 1), (0.4, 0.4)])
def test_after_an_outage_it_begins_at_half_and_has_learned_nothing(base: float, after: float) -> None:
    """An endpoint that was gone may be another one; and one or a pace is little enough."""
    law = Limit(ceiling=64, value=base, base=base, history=(answered(base, [RTT_S]),), tried=3, stride=0.25, down=True)
    law = law.after_outage(0.0, 100)
    assert (law.value, law.base) == (after, after)
    assert (law.history, law.tried, law.stride, law.down) == ((), 0, 1.0, False)


def test_after_an_outage_what_was_on_trial_does_not_count() -> None:
    """Half is of what has paid."""
    assert Limit(ceiling=64, value=12, base=10).after_outage(0.0, 0).value == 5


def test_shut_out_it_begins_below_what_got_it_shut_out() -> None:
    """Paced, met, and not asking for more until it was worth it; never below the least, nor above what has paid."""
    law = Limit(ceiling=64, value=30, base=30).after_outage(10.0, 500)
    assert law.value == law.base == law.edge == pytest.approx(KEPT * 10)
    assert (law.paced, law.rest, law.history) == (True, 500, ())
    assert Limit(ceiling=64, value=3, base=3).after_outage(10.0, 0).value == 3
    assert Limit(ceiling=64, value=3, base=3).after_outage(1e-6, 0).value == LEAST


# ---- what round trips say ------------------------------------------------------------------------------------------


def test_elasticity_recovers_a_slope_without_noise() -> None:
    """By how much the logarithm of the round trip grows with that of the limit."""
    for slope in (-0.5, 0.0, 0.6, 1.0, 2.0):
        rounds = tuple(answered(limit, [RTT_S * limit**slope] * 50) for limit in (10.0, 12.0, 14.4))
        assert elasticity(rounds)[0] == pytest.approx(slope, abs=1e-9)


def test_elasticity_of_one_limit_is_not_known() -> None:
    """There is nothing to compare."""
    slope, error = elasticity((answered(10, [RTT_S] * 50),))
    assert (slope, error) == (0.0, math.inf)


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("slope", [0.0, 0.6, 1.0])
def test_error_of_the_elasticity_covers_it(slope: float, noise: float) -> None:
    """In at least nine of ten cases the truth is within two errors, and it is right on average."""
    rng, off, within = random.Random(7), 0.0, 0
    for _ in range(300):
        rounds = tuple(
            answered(limit, [RTT_S * limit**slope * math.exp(rng.gauss(0, noise)) for _ in range(40)])
            for limit in (10.0, 12.0, 14.4)
        )
        found, error = elasticity(rounds)
        off += (found - slope) / 300
        within += abs(found - slope) <= 2 * error
    assert within >= 270
    assert abs(off) < 0.1


def test_error_shrinks_with_answers_and_with_distance() -> None:
    """More of both says more."""

    def error(limits: tuple[float, float], answers: int) -> float:
        return elasticity(tuple(answered(limit, [RTT_S, 1.5 * RTT_S] * answers) for limit in limits))[1]

    assert error((10, 12), 50) < error((10, 12), 5) / 2
    assert error((10, 20), 5) < error((10, 12), 5) / 2


def test_elasticity_looks_back_only_as_far_as_it_must() -> None:
    """Where the last two limits are clear, what was earlier is of another endpoint, perhaps."""
    old = answered(9, [9.0] * 100)
    clear = (answered(10, [RTT_S] * 100), answered(20, [RTT_S] * 100))
    assert elasticity((old, *clear))[0] == elasticity(clear)[0] == 0
    noisy = (answered(10, [0.05, 0.2]), answered(12, [0.05, 0.2]))
    assert elasticity((answered(9, [0.5, 2.0] * 20), *noisy))[0] < elasticity(noisy)[0] == 0


def test_elasticity_does_not_compare_limits_too_far_apart() -> None:
    """Noisy or not: that far back the endpoint was another one."""
    noisy = (answered(10, [0.05, 0.2]), answered(12, [0.05, 0.2]))
    assert elasticity((answered(4, [9.0] * 100), *noisy))[0] == elasticity(noisy)[0] == 0


_TIMES = st.lists(st.floats(0.001, 100), min_size=1, max_size=30)


@given(_TIMES, _TIMES)
def test_merged_rounds_are_those_of_all_their_samples(first: list[float], second: list[float]) -> None:
    """Rounds under one limit are one entry, as if they had been one."""
    law = Limit(ceiling=20, value=20, base=20, rest=99)
    for times in (first, second):
        law = law.after(answered(20, times))
    (merged,), one = law.history, answered(20, first + second)
    assert merged.answers == one.answers
    assert merged.mean == pytest.approx(one.mean, abs=1e-9)
    assert merged.spread == pytest.approx(one.spread, rel=1e-6, abs=1e-6)


def test_only_so_many_answers_of_a_limit_are_kept() -> None:
    """The newest count: what is remembered follows an endpoint that changes."""
    law = Limit(ceiling=20, value=20, base=20, rest=999)
    for took_s in [0.1] * 20 + [0.4] * 20:
        law = replace(law, rest=999).after(answered(20, [took_s] * 10))
    (kept,) = law.history
    assert kept.answers == ANSWERS
    assert kept.mean == pytest.approx(math.log(0.4), abs=0.25)


def test_rounds_of_another_limit_are_another_entry() -> None:
    """Up to a few of them; the oldest goes."""
    law = Limit(ceiling=200, value=10, base=10)
    seen = [one.history[-1].limit for one in played(law, lambda _: RTT_S, 12)]
    *_, last = played(law, lambda _: RTT_S, 12)
    assert [round_.limit for round_ in last.history] == list(dict.fromkeys(seen))[-MEMORY:]
