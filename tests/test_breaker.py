"""When an endpoint is left alone and when it is asked again: what opens the breaker, its probes, and what closes it."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sync_job.delivery.breaker import (
    GOOD_TO_CLOSE,
    JITTER,
    LEAST_BAD,
    LONG_WAIT_S,
    PATIENT_FOR_S,
    WAITS_S,
    Breaker,
)


def told(
    breaker: Breaker, answers: str, *, allowed: float = 1, quiet: bool = True, now: float = 0.0, draw: float = 0.5
) -> Breaker:
    """Return *breaker* after so many answers at once: "g" for good, "b" for bad."""
    for answer in answers:
        breaker = breaker.after(good=answer == "g", allowed=allowed, quiet=quiet, now=now, draw=draw)
    return breaker


def opened(now: float = 100.0, draw: float = 0.5) -> Breaker:
    """Return a breaker that was opened then."""
    return told(Breaker(), "b" * LEAST_BAD, now=now, draw=draw)


def test_it_begins_closed() -> None:
    """Nothing is held back before anything was answered."""
    assert not Breaker().is_open


def test_enough_bad_answers_in_a_row_open_it() -> None:
    """Five where few are allowed; one fewer does not."""
    assert not told(Breaker(), "b" * (LEAST_BAD - 1)).is_open
    assert opened().is_open
    assert opened().since == 100.0


def test_as_many_as_are_allowed_have_to_be_bad() -> None:
    """A whole window of them: one burst that is turned away is no outage."""
    assert not told(Breaker(), "b" * 29, allowed=30).is_open
    assert told(Breaker(), "b" * 30, allowed=30).is_open
    assert not told(Breaker(), "b" * 12, allowed=12.5).is_open
    assert told(Breaker(), "b" * 13, allowed=12.5).is_open


def test_it_stays_closed_while_good_answers_are_not_long_ago() -> None:
    """However many are bad; but then the next one opens it."""
    noisy = told(Breaker(), "b" * 100, quiet=False)
    assert not noisy.is_open
    assert told(noisy, "b").is_open


def test_a_good_answer_begins_the_count_anew() -> None:
    """Only answers in a row count."""
    assert not told(Breaker(), ("b" * (LEAST_BAD - 1) + "g") * 20).is_open


@given(st.floats(0, 1), st.floats(0, 1e9))
def test_first_probe_comes_after_half_a_second_or_so(draw: float, now: float) -> None:
    """With jitter, so that several senders do not knock together."""
    wait_s = opened(now, draw).until - now
    assert WAITS_S[0] * (1 - JITTER) - 1e-6 <= wait_s <= WAITS_S[0] * (1 + JITTER) + 1e-6


def test_jitter_reaches_its_bounds() -> None:
    """The draw spreads each wait evenly, a fifth up or down."""
    waits = [opened(0.0, draw).until for draw in (0.0, 0.5, 1.0)]
    assert [round(wait_s, 9) for wait_s in waits] == [0.4, 0.5, 0.6]


def test_probes_come_a_second_apart_and_after_ten_minutes_a_minute() -> None:
    """The wait is chosen when a probe fails: the last of the short ones ends just after the ten minutes."""
    breaker = opened(0.0)
    probes = [breaker.until]
    while probes[-1] < PATIENT_FOR_S + 10 * LONG_WAIT_S:
        breaker = told(breaker, "b", now=probes[-1])
        probes.append(breaker.until)
    waits = {after - before for before, after in pairwise(probes) if before < PATIENT_FOR_S}
    long = {after - before for before, after in pairwise(probes) if before >= PATIENT_FOR_S}
    assert probes[0] == WAITS_S[0]
    assert waits == {WAITS_S[-1]}
    assert long == {LONG_WAIT_S}


@given(st.floats(0, 1))
def test_long_waits_have_jitter_too(draw: float) -> None:
    """A fifth of a minute up or down."""
    late = told(opened(0.0), "b", now=PATIENT_FOR_S, draw=draw).until - PATIENT_FOR_S
    assert LONG_WAIT_S * (1 - JITTER) - 1e-6 <= late <= LONG_WAIT_S * (1 + JITTER) + 1e-6


def test_an_answer_to_what_was_sent_before_does_not_put_the_probe_off() -> None:
    """Of the requests in flight when it opened, the last may fail much later."""
    breaker = opened(100.0)
    assert told(breaker, "b" * 50, now=100.4) == breaker


def test_enough_good_answers_close_it_and_all_is_forgotten() -> None:
    """Three of them, and nothing else; from then on it is as new."""
    breaker = opened()
    assert told(breaker, "g" * (GOOD_TO_CLOSE - 1), now=101).is_open
    assert told(breaker, "g" * GOOD_TO_CLOSE, now=101) == Breaker()


def test_a_bad_probe_begins_the_count_of_good_ones_anew() -> None:
    """An endpoint that answers every other probe well is not back."""
    breaker = opened(0.0)
    for _ in range(20):
        breaker = told(breaker, "g" * (GOOD_TO_CLOSE - 1) + "b", now=breaker.until)
        assert breaker.is_open
    assert breaker.since == 0.0
    assert told(breaker, "g" * GOOD_TO_CLOSE, now=breaker.until) == Breaker()


_ANSWERS = st.lists(
    st.tuples(st.booleans(), st.floats(0.1, 100), st.booleans(), st.floats(0, 5), st.floats(0, 1)), max_size=60
)


@given(_ANSWERS)
def test_it_opens_and_closes_by_its_own_rules_alone(answers: list[tuple[bool, float, bool, float, float]]) -> None:
    """It opens at a bad answer after enough of them, closes at a good one after enough, and changes no old value."""
    breaker, now, bad, good = Breaker(), 0.0, 0, 0
    for well, allowed, quiet, passes_s, draw in answers:
        now += passes_s
        before, was = breaker, (breaker.bad, breaker.since, breaker.until, breaker.probes, breaker.good)
        breaker = before.after(good=well, allowed=allowed, quiet=quiet, now=now, draw=draw)
        assert breaker == before.after(good=well, allowed=allowed, quiet=quiet, now=now, draw=draw)
        assert (before.bad, before.since, before.until, before.probes, before.good) == was
        bad, good = (0, good + 1) if well else (bad + 1, good if now < before.until else 0)
        if not before.is_open:
            assert breaker.is_open == (not well and quiet and bad >= max(LEAST_BAD, allowed))
        else:
            assert breaker.is_open == (not well or good < GOOD_TO_CLOSE)
        if breaker.is_open != before.is_open:
            bad = good = 0
        if breaker.is_open:
            assert before.until <= breaker.until <= now + LONG_WAIT_S * (1 + JITTER) + 1e-6
        if not before.is_open and not breaker.is_open:
            good = 0
