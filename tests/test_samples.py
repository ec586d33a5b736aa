"""What is kept of how a run was sent: few points however long it takes, evenly spread, and none of them made up."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sync_job.delivery.round_trips import BOUNDS_S, RoundTrips
from sync_job.runs.samples import MOST, Sample, Samples, joined


def _sample(at: float, settled: int = 0) -> Sample:
    return Sample(at, settled, 1.0, 2.0, 3, 0.1)


@given(st.lists(st.floats(0.01, 100.0), max_size=2000))
def test_points_are_few_and_spread(steps: list[float]) -> None:
    """From the first on, in order, and no stretch of the run is without any for more than a sixteenth of it."""
    samples, now, told = Samples(), 0.0, []
    for step in steps:
        now += step
        told.append(now)
        samples.add(_sample(now))
    kept = [one.at for one in samples.points]
    assert len(kept) <= MOST
    assert set(kept) <= set(told)
    assert kept == sorted(kept)
    assert kept[:1] == told[:1]
    longest = max(steps, default=0.0)
    gaps = [after - before for before, after in zip(kept, kept[1:] + told[-1:], strict=True)]
    assert all(gap <= longest + (now - told[0]) / 16 for gap in gaps)


@given(st.lists(st.tuples(st.integers(0, MOST), st.integers(0, 1000)), max_size=20))
def test_legs_follow_one_another(legs: list[tuple[int, int]]) -> None:
    """Rows that settled in the legs before are counted along, and all of them together are few."""
    given_ = [
        ([_sample(100.0 * leg + n, n) for n in range(count)], settled) for leg, (count, settled) in enumerate(legs)
    ]
    points = joined(given_)
    assert len(points) <= MOST
    before = 0
    whole = []
    for own, settled in given_:
        whole += [(one.at, one.settled + before) for one in own]
        before += settled
    assert [(one.at, one.settled) for one in points] == whole[:: max(1, -(-len(whole) // MOST))]


@given(st.lists(st.floats(0.0, 100.0)))
def test_every_round_trip_is_counted_once(took: list[float]) -> None:
    """By the first bound that it does not pass; the last count is of those beyond all."""
    found = RoundTrips()
    for one in took:
        found.add(one)
    edges = (-1.0, *BOUNDS_S, float("inf"))
    assert found.counts == [sum(low < one <= high for one in took) for low, high in pairwise(edges)]
    assert found.sum_s == sum(took)
