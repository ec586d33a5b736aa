"""What repeats is told now and then, and nothing is lost from the counts."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sync_job.runs.sampling import EVERY_S, Sampler

# Events in virtual time: seconds since the one before, and what happened.
EVENTS = st.lists(st.tuples(st.floats(0, 3 * EVERY_S), st.sampled_from("abc")), max_size=300)


@given(EVENTS)
def test_nothing_is_lost_and_a_key_is_told_once_a_minute(events: list[tuple[float, str]]) -> None:
    """The counts of all lines and of the rest add up to the events; two lines of a key are a minute apart."""
    sampler, now = Sampler(), 0.0
    came: Counter[str] = Counter()
    told: Counter[str] = Counter()
    last: dict[str, float] = {}
    for after_s, key in events:
        now += after_s
        came[key] += 1
        count = sampler.take(key, now)
        if count:
            assert key not in last or now - last[key] >= EVERY_S
            last[key] = now
        told[key] += count
    rest = dict(sampler.rest())
    assert all(rest.values())
    assert told + Counter(rest) == came


def test_the_first_is_told_at_once_and_a_hundred_thousand_are_a_line_a_minute() -> None:
    """At a thousand a second: what comes while a line waits is in the count of the next."""
    sampler = Sampler()
    counts = [count for number in range(100_000) if (count := sampler.take("x", number / 1000))]
    assert counts == [1, 60_000]
    assert list(sampler.rest()) == [("x", 39_999)]


def test_the_rest_is_told_once() -> None:
    """After it a key begins anew: its next event is told at once."""
    sampler = Sampler()
    assert [sampler.take("x", 0.0), sampler.take("x", 0.0)] == [1, 0]
    assert list(sampler.rest()) == [("x", 1)]
    assert list(sampler.rest()) == []
    assert sampler.take("x", 1.0) == 1
