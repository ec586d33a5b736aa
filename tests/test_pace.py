from sync_job.runs.pace import Pace


def test_the_rate_now_is_that_of_the_last_seconds() -> None:
    """An hour at ten a second and then a minute at a hundred: lately a hundred, on the whole a little over ten."""
    pace, done = Pace(1000.0), 0
    assert (pace.rate, pace.lately) == (0.0, 0.0)
    for second in range(1, 3661):
        done += 10 if second <= 3600 else 100
        pace.at(done, 1000.0 + second)
    assert pace.lately == 100.0
    assert round(pace.rate, 3) == round(42_000 / 3660, 3)


def test_what_stands_still_has_no_rate() -> None:
    """After ten seconds without one, nothing is settling; a clock that stands still divides nothing by nothing."""
    pace = Pace(0.0)
    pace.at(5, 0.0)
    assert pace.rate == 0.0
    for second in range(1, 30):
        pace.at(5, float(second))
    assert pace.lately == 0.0
