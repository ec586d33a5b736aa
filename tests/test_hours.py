"""When an export may be sent, in Europe/Berlin: windows, ends, midnight, and the two nights when clocks are changed."""

from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sync_job.config import clock_time
from sync_job.delivery.hours import closes_at

BERLIN = ZoneInfo("Europe/Berlin")
DAY = "2024-05-10"
# 02:00 is followed by 03:00 on the one night, 03:00 by 02:00 on the other; 01:00 UTC both times.
SPRING, AUTUMN = "2024-03-31", "2024-10-27"


def at(text: str, fold: int = 0) -> float:
    """Return a time of Berlin in epoch seconds; of one that exists twice, the first, or with *fold* the second."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def utc(text: str) -> float:
    """Return a time of UTC in epoch seconds."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_without_a_window_and_an_end_it_never_closes() -> None:
    """0 is no end, at any time."""
    assert closes_at("", "", at(f"{DAY} 03:00"), BERLIN) == 0.0


@pytest.mark.parametrize(
    ("now", "closes"),
    [
        (f"{DAY} 00:59:59", None),
        (f"{DAY} 01:00", f"{DAY} 06:00"),
        (f"{DAY} 05:59:59", f"{DAY} 06:00"),
        (f"{DAY} 06:00", None),
        (f"{DAY} 23:00", None),
    ],
)
def test_window_is_open_from_its_begin_to_just_before_its_end(now: str, closes: str | None) -> None:
    """The first second is within, the last one is not."""
    assert closes_at("01:00-06:00", "", at(now), BERLIN) == (at(closes) if closes else None)


@pytest.mark.parametrize(
    ("now", "closes"),
    [
        (f"{DAY} 21:59:59", None),
        (f"{DAY} 22:00", "2024-05-11 04:30"),
        (f"{DAY} 23:59:59", "2024-05-11 04:30"),
        ("2024-05-11 00:00", "2024-05-11 04:30"),
        ("2024-05-11 04:29:59", "2024-05-11 04:30"),
        ("2024-05-11 04:30", None),
        ("2024-05-11 12:00", None),
    ],
)
def test_window_that_ends_before_it_begins_goes_over_midnight(now: str, closes: str | None) -> None:
    """It belongs to two days, and is closed in the middle of each."""
    assert closes_at("22:00-04:30", "", at(now), BERLIN) == (at(closes) if closes else None)


@pytest.mark.parametrize(
    ("now", "closes"),
    [
        (f"{DAY} 05:59:59", f"{DAY} 06:00"),
        (f"{DAY} 06:00", "2024-05-11 06:00"),
        (f"{DAY} 06:00:01", "2024-05-11 06:00"),
        ("2024-12-31 23:00", "2025-01-01 06:00"),
    ],
)
def test_until_is_today_or_else_tomorrow(now: str, closes: str) -> None:
    """The next such time; now itself is not the next one."""
    assert closes_at("", "06:00", at(now), BERLIN) == at(closes)


def test_until_may_name_seconds() -> None:
    """It is any time of day."""
    assert closes_at("", "03:00:30", at(f"{DAY} 03:00"), BERLIN) == at(f"{DAY} 03:00:30")


@pytest.mark.parametrize(("until", "closes"), [("05:00", "05:00"), ("07:00", "06:00")])
def test_the_earlier_of_window_and_until_is_the_end(until: str, closes: str) -> None:
    """Neither prolongs the other."""
    assert closes_at("01:00-06:00", until, at(f"{DAY} 02:00"), BERLIN) == at(f"{DAY} {closes}")


def test_until_does_not_open_a_closed_window() -> None:
    """Where the window is not open, nothing else counts."""
    assert closes_at("01:00-06:00", "09:00", at(f"{DAY} 07:00"), BERLIN) is None


def test_it_is_the_zone_that_says_what_time_it_is() -> None:
    """The same moment is within the window in one zone and outside it in another."""
    now = utc("2024-05-10 03:00")  # 05:00 in Berlin, 12:00 in Tokyo
    assert closes_at("01:00-06:00", "", now, BERLIN) == utc("2024-05-10 04:00")
    assert closes_at("01:00-06:00", "", now, ZoneInfo("Asia/Tokyo")) is None


@pytest.mark.parametrize(
    ("night", "seconds"),
    [(SPRING, 4 * 3600), (AUTUMN, 6 * 3600), (DAY, 5 * 3600)],
)
def test_window_over_a_change_of_clocks_ends_by_the_wall_clock(night: str, seconds: int) -> None:
    """It is an hour shorter or longer that night."""
    now = at(f"{night} 01:00")
    assert closes_at("01:00-06:00", "", now, BERLIN) == now + seconds


@pytest.mark.parametrize("hour", ["02:00", "02:30", "02:59"])
def test_end_that_does_not_exist_is_the_moment_of_the_change(hour: str) -> None:
    """Of a window as of an end that was asked for: nothing is sent in the hour after it."""
    change = utc(f"{SPRING} 01:00")
    now = at(f"{SPRING} 01:30")
    assert closes_at("", hour, now, BERLIN) == change
    assert closes_at(f"01:00-{hour}", "", now, BERLIN) == change
    assert closes_at(f"01:00-{hour}", "", change, BERLIN) is None


@pytest.mark.parametrize("hour", ["02:00", "02:30", "02:59"])
def test_begin_that_does_not_exist_is_the_moment_of_the_change(hour: str) -> None:
    """The window opens with the new time."""
    change = utc(f"{SPRING} 01:00")
    assert closes_at(f"{hour}-06:00", "", change - 1, BERLIN) is None
    assert closes_at(f"{hour}-06:00", "", change, BERLIN) == at(f"{SPRING} 06:00")


def test_end_that_exists_twice_is_the_first() -> None:
    """When the hour comes again the window is closed, and stays so until the next night."""
    first, second = at(f"{AUTUMN} 02:30"), at(f"{AUTUMN} 02:30", fold=1)
    assert second - first == 3600
    assert closes_at("01:00-02:30", "", first - 1, BERLIN) == first
    assert closes_at("", "02:30", first - 1, BERLIN) == first
    for late in (first, first + 1800, second - 1800, second - 1, second, second + 1800):
        assert closes_at("01:00-02:30", "", late, BERLIN) is None, late - first
    assert closes_at("", "02:30", second - 1, BERLIN) == at("2024-10-28 02:30")


def test_begin_that_exists_twice_is_the_first() -> None:
    """The window does not close again when the hour does."""
    first, second = at(f"{AUTUMN} 02:30"), at(f"{AUTUMN} 02:30", fold=1)
    assert closes_at("02:30-06:00", "", first - 1, BERLIN) is None
    for late in (first, first + 1800, second - 1800, second - 1, second):
        assert closes_at("02:30-06:00", "", late, BERLIN) == at(f"{AUTUMN} 06:00"), late - first


_TIMES = st.times().map(lambda time: time.replace(second=0, microsecond=0))


@given(
    begin=_TIMES,
    end=_TIMES,
    now=st.integers(int(utc("2024-01-01 00:00")), int(utc("2025-01-01 00:00")))
    | st.integers(-86400, 86400).map(lambda off: int(utc(f"{SPRING} 01:00")) + off)
    | st.integers(-86400, 86400).map(lambda off: int(utc(f"{AUTUMN} 01:00")) + off),
)
@example(clock_time("01:00"), clock_time("02:30"), int(utc(f"{AUTUMN} 01:15")))
@example(clock_time("01:00"), clock_time("02:30"), int(utc(f"{SPRING} 00:15")))
def test_window_closes_within_a_day_and_is_closed_then(begin: time, end: time, now: int) -> None:
    """Wherever it is open, it stays so until it says that it closes, and not any longer."""
    if begin == end:
        return
    window = f"{begin:%H:%M}-{end:%H:%M}"
    closes = closes_at(window, "", now, BERLIN)
    if closes is not None:
        assert now < closes <= now + 25 * 3600
        assert closes_at(window, "", closes - 1, BERLIN) == closes
        assert closes_at(window, "", closes, BERLIN) is None
        assert closes_at(window, "", (now + closes) / 2, BERLIN) == closes
